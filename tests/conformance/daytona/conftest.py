"""Unmodified Daytona SDKs against the real server.

Each generation of the SDK needs a Python environment of its own, and each folder
``python_*`` is the suite of one generation. ``scripts/test.sh`` makes the
environments from ``requirements.txt`` in these folders and runs each suite with its own
interpreter; an interpreter collects only the suite whose SDK it has. By hand:

    .venv-daytona-0.226.1/bin/pytest tests/conformance/daytona
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Iterator

import pytest

from conftest import STATE_DIR, Server

HERE = Path(__file__).parent
pytest.register_assert_rewrite("conformance.daytona.older_cases")


def installed() -> str:
    """Folder of the suite for the SDK that this interpreter has."""
    for package in ("daytona", "daytona-sdk"):
        try:
            return "python_" + importlib.metadata.version(package).replace(".", "_")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "typescript"


collect_ignore = [path.name for path in HERE.iterdir() if path.is_dir() and path.name != installed()]

# The SDKs read these when a value is not given: a developer's own account must not be used.
for _name in [name for name in os.environ if name.startswith("DAYTONA_")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def state_dir() -> str:
    return STATE_DIR


@pytest.fixture(scope="session")
def api_url(server: Server) -> str:
    return f"{server.url}/api"


@pytest.fixture(scope="session")
def locked_server() -> Iterator[Server]:
    """A server that wants a key."""
    running = Server(env={"SANDBOXAI_SERVER_API_KEYS": "0123456789abcdef-right"})
    yield running
    running.stop()
    running.check_log()
