"""SUNA's calls, in SUNA's order, by the two SDKs that its releases pin.

This is a driver of our own: it does what SUNA's tools do with the SDK, and has none of
its code. It runs with the interpreters of the suites for daytona-sdk 0.21.0 and daytona
0.115.0 (see ``tests/conformance/daytona/conftest.py``); others collect nothing here.

``SUNA_IMAGE`` names the image that ``kortix/suna:…`` stands for. Without it that is
``sandboxai/box``, which has a shell, tmux and Python, and the steps with a screen and a
browser are left out. ``scripts/test.sh --all`` builds and names ``sandboxai/suna``.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from typing import Any, Coroutine, Dict, Iterator

import pytest
from leftovers import count, settle

from conftest import STATE_DIR, Server

for _name in [name for name in os.environ if name.startswith("DAYTONA_")]:
    del os.environ[_name]

IMAGE = os.environ.get("SUNA_IMAGE", "sandboxai/box")


def generation() -> str:
    for package in ("daytona", "daytona-sdk"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


collect_ignore = [] if generation() in ("0.21.0", "0.115.0") else ["test_scenario.py"]


class Shared:
    """What one step leaves to the next."""

    sandbox: Any = None
    sandbox_id = ""
    vnc_url = ""
    files_url = ""
    workdir = "/app" if IMAGE == "sandboxai/suna" else "/workspace"
    has_screen = IMAGE == "sandboxai/suna"


@pytest.fixture(scope="session")
def suna_server() -> Iterator[Server]:
    """Our server as an operator of SUNA sets it up: docs/migration-from-daytona.md."""
    running = Server(
        env={
            "SANDBOXAI_IMAGES_ALIASES": f"kortix/suna:*={IMAGE}",
            "SANDBOXAI_SANDBOX_MEMORY": "4GiB",
            # noVNC opens its WebSocket at the root of the host.
            "SANDBOXAI_PREVIEW_LINKS": "host",
        }
    )
    yield running
    running.stop()
    running.check_log()


@pytest.fixture(scope="module")
def left_before() -> Dict[str, Any]:
    return count(STATE_DIR)


@pytest.fixture(scope="module")
def shared(left_before: Dict[str, Any]) -> Shared:
    return Shared()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """SUNA's backend is one event loop with one client."""
    running = asyncio.new_event_loop()
    yield running
    running.close()


@pytest.fixture()
def run(loop: asyncio.AbstractEventLoop):
    def to_end(work: Coroutine[Any, Any, Any]) -> Any:
        return loop.run_until_complete(asyncio.wait_for(work, 120))

    return to_end


@pytest.fixture(scope="module")
def nothing_left(left_before: Dict[str, Any]):
    return lambda: settle(STATE_DIR, left_before)
