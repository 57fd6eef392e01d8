"""A real server for the tests, and a guard over its log.

``SANDBOXAI_BINARY`` names the program, ``SANDBOXAI_SERVER_STATE_DIR`` a state folder
that holds the image ``sandboxai/box``; ``scripts/test.sh`` sets both.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Set

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))

BINARY = os.environ.get("SANDBOXAI_BINARY", str(ROOT / "target/debug/sandboxai"))
STATE_DIR = os.environ.get("SANDBOXAI_SERVER_STATE_DIR", "/var/lib/sandboxai")

#: Whether the server of the session stands in front of another one, where the sandboxes are.
THROUGH_FRONT = os.environ.get("SANDBOXAI_TEST_THROUGH_FRONT") == "1"

#: How long a server may take to start or stop, seconds.
PATIENCE_S = 40


class Server:
    """The real program, on a free port, in a scope of its own."""

    #: Scopes whose folders outlive their servers.
    kept: Set[str] = set()

    def __init__(self, scope: Optional[str] = None, env: Optional[Dict[str, str]] = None, ephemeral: bool = True) -> None:
        self.scope = scope or f"test-{uuid.uuid4().hex[:12]}"
        self.env = env or {}
        self.ephemeral = ephemeral
        self.log_path = Path(tempfile.mkstemp(prefix="sandboxai-test-", suffix=".log")[1])
        self.expected: List[str] = []
        if not ephemeral:
            self.kept.add(self.scope)
        self.start()

    def start(self) -> None:
        environment = {
            **os.environ,
            "SANDBOXAID_PORT": "0",
            "SANDBOXAID_SCOPE": self.scope,
            "SANDBOXAID_DELETE_ON_SHUTDOWN": "true" if self.ephemeral else "false",
            "SANDBOXAI_SERVER_STATE_DIR": STATE_DIR,
            **self.env,
        }
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [BINARY, "serve"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
        )
        log.close()
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        line = self.process.stdout.readline() if ready else ""
        assert line.startswith("{"), f"the server said {line!r}; its log:\n{self.log()}"
        address = json.loads(line)
        self.url = f"http://{address['host']}:{address['port']}"
        self.base_url = f"{self.url}/v1"

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def restart(self) -> None:
        self.start()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def check_log(self) -> None:
        """Any WARN or ERROR that no test announced in ``expected`` fails it."""
        bad = [
            line
            for line in self.log().splitlines()
            if re.search(r"\b(WARN|ERROR)\b|panicked", line) and not any(text in line for text in self.expected)
        ]
        assert not bad, "unexpected in the server's log:\n" + "\n".join(bad)

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


@pytest.fixture(scope="session", autouse=True)
def _no_folder_is_left() -> Iterator[None]:
    yield
    for scope in Server.kept:
        shutil.rmtree(Path(STATE_DIR) / "server" / scope, ignore_errors=True)


class Front(Server):
    """A server in front of another one, which has all sandboxes: new ones are made there."""

    def __init__(self) -> None:
        self.behind = Server(env={"SANDBOXAI_SERVER_API_KEYS": "0123456789abcdef-behind"})
        super().__init__(env={
            "SANDBOXAI_ROLLOUT_UPSTREAM_URL": f"{self.behind.url}/api",
            "SANDBOXAI_ROLLOUT_UPSTREAM_KEY": "0123456789abcdef-behind",
            "SANDBOXAI_ROLLOUT_SHARE": "0",
        })

    def stop(self) -> None:
        super().stop()
        self.behind.stop()

    def check_log(self) -> None:
        super().check_log()
        self.behind.expected = self.expected
        self.behind.check_log()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    running = Front() if THROUGH_FRONT else Server()
    yield running
    running.stop()
    running.check_log()


@pytest.fixture()
def own_server() -> Iterator[Server]:
    """A server that the test may kill."""
    running = Server(ephemeral=False)
    yield running
    if running.process.poll() is not None:
        running.restart()
    for sandbox in httpx.get(f"{running.base_url}/spaces/default/sandboxes").json()["sandboxes"]:
        httpx.delete(f"{running.base_url}/spaces/default/sandboxes/{sandbox['name']}", timeout=PATIENCE_S)
    running.stop()
    running.check_log()


@pytest.fixture()
def box(server: Server):
    from sandboxai import Sandbox

    with Sandbox(server.base_url) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def shared_box(server: Server):
    """One sandbox for tests that leave nothing behind in it."""
    from sandboxai import Sandbox

    with Sandbox(server.base_url) as sandbox:
        yield sandbox
