"""The plan's own test steps, with our package and with the original one."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import BINARY, ROOT, STATE_DIR, Server
from leftovers import count, settle

STEPS = Path(__file__).with_name("plan_steps.py")
ORIGINAL_PYTHON = ROOT / ".venv-original/bin/python3"


def run(python: str, how: str, env: dict) -> str:
    finished = subprocess.run(
        [python, str(STEPS), how], env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture()
def nothing_left():
    before = count(STATE_DIR)
    yield
    assert settle(STATE_DIR, before) == {}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """An environment for the original SDK: its own wheel, with our program in the
    place of the carried one, and a `docker` on the PATH, since the original looks
    for one by name before it starts its server."""
    folder = tmp_path_factory.mktemp("original")
    packages = subprocess.run(
        [ORIGINAL_PYTHON, "-c", "import sandboxai, os; print(os.path.dirname(sandboxai.__file__))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()
    shutil.copytree(packages, folder / "sandboxai")
    carried = folder / "sandboxai/bin/sandboxaid"
    carried.unlink()
    shutil.copy(BINARY, carried)
    docker = folder / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    return {
        "PYTHONPATH": str(folder),
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SANDBOXAI_SERVER_STATE_DIR": STATE_DIR,
    }


def test_our_package_with_base_url(server: Server) -> None:
    assert "creation + execution" in run(sys.executable, server.base_url, {"PYTHONPATH": str(ROOT / "python")})


@pytest.mark.usefixtures("nothing_left")
def test_our_package_embedded() -> None:
    env = {"PYTHONPATH": str(ROOT / "python"), "SANDBOXAI_BINARY": BINARY, "SANDBOXAI_SERVER_STATE_DIR": STATE_DIR}
    run(sys.executable, "embedded", env)


def test_the_original_package_with_base_url(server: Server) -> None:
    run(str(ORIGINAL_PYTHON), server.base_url, {"PYTHONPATH": ""})


@pytest.mark.usefixtures("nothing_left")
def test_the_original_package_embedded(original: dict) -> None:
    run(str(ORIGINAL_PYTHON), "embedded", original)


@pytest.mark.usefixtures("nothing_left")
def test_the_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    """What a user installs: the wheel finds the program that it carries."""
    wheel = max((ROOT / "target/wheels").glob("sandboxai-*.whl"), key=lambda path: path.stat().st_mtime)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv/bin/python3")
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, timeout=300)
    clean = {name: "" for name in ("PYTHONPATH", "SANDBOXAI_BINARY")}
    run(python, "embedded", {**clean, "SANDBOXAI_SERVER_STATE_DIR": STATE_DIR})


WAIT_FOREVER = """
import sys, time
from sandboxai import Sandbox
box = Sandbox(embedded=True)
box.run_ipython_cell("x = 1")
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("package", ["ours", "original"])
def test_a_killed_client_takes_its_server_and_sandboxes_with_it(package: str, original: dict) -> None:
    if package == "ours":
        python = sys.executable
        env = {"PYTHONPATH": str(ROOT / "python"), "SANDBOXAI_BINARY": BINARY, "SANDBOXAI_SERVER_STATE_DIR": STATE_DIR}
    else:
        python, env = str(ORIGINAL_PYTHON), original
    client = subprocess.Popen([python, "-c", WAIT_FOREVER], env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
    assert client.stdout and client.stdout.readline() == "ready\n"
    client.send_signal(signal.SIGKILL)
    client.wait(10)
    time.sleep(0.1)


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_embedded_server_leaves_nothing() -> None:
    """Even when nobody is left to clean up but the spawner."""
    running = Server()
    from sandboxai import Sandbox

    box = Sandbox(running.base_url)
    box.run_shell_command("sleep 1000 & echo started")
    running.kill()
