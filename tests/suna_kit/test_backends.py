"""The three tools of the example, on both backends by one variable; needs the SDK ``daytona``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: The environment with the newest SDK; ``scripts/test.sh`` makes it.
PYTHON = ROOT / ".venv-daytona-0.226.1/bin/python3"


@pytest.mark.parametrize("backend", ["sandboxai", "daytona"])
def test_the_example_runs_on_either_backend(server, backend: str) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "python"),
        "SANDBOX_BACKEND": backend,
        "SANDBOXAI_URL": server.url,
        "DAYTONA_API_URL": f"{server.url}/api",
        "DAYTONA_API_KEY": "any",
    }
    python = str(PYTHON) if backend == "daytona" else sys.executable
    ran = subprocess.run(
        [python, "main.py"], cwd=ROOT / "python/examples/suna_tools", env=env, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "hello" in ran.stdout and "42" in ran.stdout
