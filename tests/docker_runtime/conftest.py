"""A Docker engine of the tests' own: on a socket and a folder that nobody else has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

import pytest

#: How long the engine may take to start or stop, seconds.
PATIENCE_S = 60
IMAGE = "sandboxai-test/busybox:latest"
GVISOR = Path("/usr/bin/runsc")
#: gVisor beside runc where it is packaged, without what needs hardware or control groups of version 2.
RUNTIMES = {"runsc": {"path": str(GVISOR), "runtimeArgs": ["--platform=ptrace", "--network=none", "--ignore-cgroups"]}}
DAEMON: Dict[str, Any] = {"runtimes": RUNTIMES} if GVISOR.exists() else {}
needs_gvisor = pytest.mark.skipif(not GVISOR.exists(), reason="gVisor (runsc) is not packaged for this system")
#: As in production: containers outlive a restart of the engine.
LIVE_RESTORE = ("--live-restore",)
PROGRAMS = "sh cat echo ls sleep id head wc sha256sum mkdir env pwd hostname touch dmesg".split()


class Engine:
    """A ``dockerd`` that may be restarted."""

    def __init__(self, folder: Path, daemon: Dict[str, Any] = DAEMON, flags: Sequence[str] = LIVE_RESTORE) -> None:
        self.folder = folder
        (folder / "daemon.json").write_text(json.dumps(daemon))
        self.host = f"unix://{folder}/docker.sock"
        self.flags = list(flags)
        self.start()

    def start(self) -> None:
        command = ["dockerd", "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        command += ["--config-file", f"{self.folder}/daemon.json"]
        command += ["--pidfile", f"{self.folder}/pid", "--host", self.host, "--bridge", "none"]
        command += ["--iptables=false", "--ip-masq=false", *self.flags]
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + PATIENCE_S
        while self.docker("version", check=False).returncode != 0:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the engine does not start"
            time.sleep(0.1)

    def docker(self, *words: str, check: bool = True, **more) -> subprocess.CompletedProcess:
        env: Dict[str, str] = {**os.environ, "DOCKER_HOST": self.host}
        return subprocess.run(["docker", *words], env=env, check=check, capture_output=True, **more)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def inspect(self, sandbox: str) -> Dict[str, Any]:
        """The container of a sandbox, by its id."""
        ids = self.docker("ps", "-aq", "--filter", f"label=dev.sandboxai.id={sandbox}").stdout.decode().split()
        (container,) = json.loads(self.docker("inspect", *ids).stdout)
        return container

    def containers(self) -> str:
        return self.docker("ps", "-aq").stdout.decode().strip()


def _busybox(engine: Engine) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for below in ("bin", "etc", "root", "tmp", "usr"):
            (root / below).mkdir()
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for name in PROGRAMS:
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        tar = subprocess.run(["tar", "-C", folder, "-c", "."], check=True, capture_output=True).stdout
        engine.docker("import", "-c", "WORKDIR /work", "-", IMAGE, input=tar)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="engine-of-tests-"))
    # The server, which is nobody, must reach the socket.
    folder.chmod(0o711)
    running = Engine(folder)
    _busybox(running)
    yield running
    end(running)


@pytest.fixture()
def plain_engine() -> Iterator[Engine]:
    """An engine as it is installed: its file says nothing."""
    folder = Path(tempfile.mkdtemp(prefix="engine-of-tests-"))
    running = Engine(folder, daemon={}, flags=())
    _busybox(running)
    yield running
    end(running)


@pytest.fixture()
def forgetful_engine() -> Iterator[Engine]:
    """An engine whose containers end with it."""
    folder = Path(tempfile.mkdtemp(prefix="engine-of-tests-"))
    folder.chmod(0o711)
    running = Engine(folder, flags=())
    # On a bridge of its own: that of sandboxes is the other engine's.
    running.docker("network", "create", "sandboxai")
    _busybox(running)
    yield running
    end(running)


def end(running: Engine) -> None:
    """Stops the engine, removes its folder, and complains of containers."""
    folder = running.folder
    left = running.containers()
    # Its bridge would outlive the engine.
    running.docker("network", "rm", "sandboxai", check=False)
    running.stop()
    subprocess.run(["sh", "-c", f"umount -l {folder}/exec/netns/* {folder}/data/overlay2/*/merged 2>/dev/null"])
    shutil.rmtree(folder, ignore_errors=True)
    assert left == "", f"containers are left: {left}"
