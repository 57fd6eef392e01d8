"""What the cases of the newest SDK share: one client, and one sandbox per module."""

from __future__ import annotations

import uuid
from typing import Callable, Iterator

import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig, DaytonaNotFoundError, Sandbox

from conformance.daytona.access import API_KEY


@pytest.fixture(scope="session")
def daytona(api_url: str) -> Iterator[Daytona]:
    yield Daytona(DaytonaConfig(api_key=API_KEY, api_url=api_url, target="local"))


@pytest.fixture(scope="module")
def sandbox(daytona: Daytona) -> Iterator[Sandbox]:
    """One sandbox for the cases of a module, which leave it running."""
    made = daytona.create()
    yield made
    made.delete()


@pytest.fixture()
def make(daytona: Daytona) -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that are removed with the test."""
    made = []

    def create(**params: object) -> Sandbox:
        sandbox = daytona.create(CreateSandboxFromSnapshotParams(**params))
        made.append(sandbox)
        return sandbox

    yield create
    for sandbox in made:
        try:
            sandbox.delete()
        except DaytonaNotFoundError:
            pass  # the test removed it


@pytest.fixture()
def folder(sandbox: Sandbox) -> str:
    """An empty folder in the module's sandbox."""
    path = f"/tmp/{uuid.uuid4().hex}"
    sandbox.fs.create_folder(path, "755")
    return path
