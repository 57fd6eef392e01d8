"""The three tools of the example, on both backends by one variable; and Daytona's side with each SDK that SUNA had.

``scripts/test.sh`` makes the environments with the SDKs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Dict

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEWEST = "0.226.1"


def python_with(sdk: str) -> str:
    return str(ROOT / f".venv-daytona-{sdk}/bin/python3")


def environment(server) -> Dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "python"),
        "SANDBOXAI_URL": server.url,
        "DAYTONA_API_URL": f"{server.url}/api",
        "DAYTONA_API_KEY": "any",
        # The oldest SDK knows no others than us, eu and asia.
        "DAYTONA_TARGET": "us",
    }


@pytest.mark.parametrize("backend", ["sandboxai", "daytona"])
def test_the_example_runs_on_either_backend(server, backend: str) -> None:
    env = {**environment(server), "SANDBOX_BACKEND": backend}
    python = python_with(NEWEST) if backend == "daytona" else sys.executable
    ran = subprocess.run(
        [python, "main.py"], cwd=ROOT / "python/examples/suna_tools", env=env, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "hello" in ran.stdout and "42" in ran.stdout


@pytest.mark.parametrize("sdk", ["0.21.0", "0.115.0", NEWEST])
def test_daytonas_side_works_with_the_sdks_that_suna_pins(server, sdk: str) -> None:
    ran = subprocess.run(
        [python_with(sdk), "-W", "ignore", "daytona_adapter_cases.py", f"kit-{uuid.uuid4().hex[:8]}"],
        cwd=Path(__file__).parent,
        env=environment(server),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads(ran.stdout) == {
        "written": True,
        "read": "no newline",
        "listed": ["-x$'.txt"],
        "not there": False,
        "climbing": False,
        "exit code": 4,
        "python": "2",
        "python that raises": False,
        "javascript": "3",
        "another client": True,
        "removed": True,
        "removed twice": False,
        "clients": 4,
        "sandboxes": 1,
        "alive, deleted": [True, False],
    }
    # Interpreters of SDKs since 0.120 keep variables; with older ones the log says that none are kept.
    assert ("no code interpreter" in ran.stderr) == (sdk != NEWEST)


def test_an_sdk_that_is_not_installed_is_named() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from sandboxai.suna.daytona_adapter import DaytonaClient; DaytonaClient('w').connect()"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "pip install daytona" in ran.stderr.splitlines()[-1]
