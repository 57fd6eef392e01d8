"""Snapshots: what sandboxes start from."""

from __future__ import annotations

import uuid

import pytest
from daytona import (
    CreateSandboxFromSnapshotParams,
    CreateSnapshotParams,
    Daytona,
    DaytonaConflictError,
    DaytonaError,
    DaytonaNotFoundError,
    Image,
    Resources,
    Sandbox,
)


@pytest.fixture()
def name(daytona: Daytona):
    given = f"suite/{uuid.uuid4().hex[:8]}:1"
    yield given
    try:
        daytona.snapshot.delete(given)
    except DaytonaNotFoundError:
        pass  # the test made none


def test_list(daytona: Daytona) -> None:
    listed = daytona.snapshot.list()
    assert listed.total >= 1 and listed.page == 1
    box = {item.name: item for item in listed.items}["sandboxai/box:latest"]
    assert box.state == "active" and box.size and box.size > 0


def test_list_by_pages(daytona: Daytona) -> None:
    first = daytona.snapshot.list(page=1, limit=1)
    assert len(first.items) == 1
    assert first.total_pages == first.total


def test_get(daytona: Daytona) -> None:
    found = daytona.snapshot.get("sandboxai/box")
    assert found.state == "active"
    assert daytona.snapshot.get(found.id).id == found.id


def test_get_of_nothing(daytona: Daytona) -> None:
    with pytest.raises(DaytonaNotFoundError):
        daytona.snapshot.get("no/such:1")


def test_build_from_steps(daytona: Daytona, name: str) -> None:
    """One step is new each time: of others the results are kept, and no log."""
    image = (
        Image.base("sandboxai/box")
        .env({"BUILT": "yes"})
        .run_commands("mkdir -p /opt/mine && echo content > /opt/mine/file", f"echo seen-$((1 + 1)) {name}")
        .workdir("/opt/mine")
    )
    logs: list[str] = []
    made = daytona.snapshot.create(CreateSnapshotParams(name=name, image=image), on_logs=logs.append, timeout=120)
    assert (made.name, made.state) == (name, "active")
    assert "seen-2" in "".join(logs)
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(snapshot=name))
    try:
        assert sandbox.snapshot == name
        assert sandbox.process.exec("cat file; echo $BUILT; pwd").result == "content\nyes\n/opt/mine\n"
    finally:
        sandbox.delete()


def test_build_with_resources(daytona: Daytona, name: str) -> None:
    image = Image.base("sandboxai/box").env({"A": "1"})
    daytona.snapshot.create(
        CreateSnapshotParams(name=name, image=image, resources=Resources(cpu=1, memory=2, disk=5)), timeout=120
    )
    made = daytona.snapshot.get(name)
    assert (made.cpu, made.mem, made.disk) == (1, 2, 5)
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(snapshot=name))
    try:
        assert (sandbox.cpu, sandbox.memory, sandbox.disk) == (1, 2, 5)
    finally:
        sandbox.delete()


def test_steps_are_kept(daytona: Daytona, name: str) -> None:
    image = Image.base("sandboxai/box").run_commands(f"sleep 1.5; date +%s%N > /when; echo {name}")
    whens = []
    for number in range(2):
        again = f"{name}-{number}"
        daytona.snapshot.create(CreateSnapshotParams(name=again, image=image.env({f"N{number}": "1"})), timeout=120)
        sandbox = daytona.create(CreateSandboxFromSnapshotParams(snapshot=again))
        whens.append(sandbox.process.exec("cat /when").result)
        sandbox.delete()
        daytona.snapshot.delete(again)
    assert whens[0] == whens[1], "the step was run twice"


def test_a_step_that_fails(daytona: Daytona, name: str) -> None:
    image = Image.base("sandboxai/box").run_commands(f"echo about to fail {name}; exit 7")
    logs: list[str] = []
    with pytest.raises(DaytonaError):
        daytona.snapshot.create(CreateSnapshotParams(name=name, image=image), on_logs=logs.append, timeout=120)
    assert "about to fail" in "".join(logs)
    assert "sandboxai/box:latest" in {item.name for item in daytona.snapshot.list().items}


def test_from_an_image_string(daytona: Daytona, name: str) -> None:
    made = daytona.snapshot.create(CreateSnapshotParams(name=name, image="sandboxai/box:latest"), timeout=120)
    assert made.state == "active"
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(snapshot=name))
    try:
        assert sandbox.process.exec("python3 -c 'import numpy'").exit_code == 0
    finally:
        sandbox.delete()


def test_an_image_that_is_nowhere(daytona: Daytona, name: str) -> None:
    with pytest.raises(DaytonaError) as raised:
        daytona.snapshot.create(CreateSnapshotParams(name=name, image="localhost:1/no/such:1"), timeout=60)
    assert "localhost:1" in str(raised.value)


def test_a_taken_name(daytona: Daytona, name: str) -> None:
    daytona.snapshot.create(CreateSnapshotParams(name=name, image="sandboxai/box:latest"), timeout=120)
    with pytest.raises(DaytonaConflictError):
        daytona.snapshot.create(CreateSnapshotParams(name=name, image="sandboxai/box:latest"), timeout=120)


def test_delete(daytona: Daytona, name: str) -> None:
    made = daytona.snapshot.create(CreateSnapshotParams(name=name, image="sandboxai/box:latest"), timeout=120)
    daytona.snapshot.delete(made)
    with pytest.raises(DaytonaNotFoundError):
        daytona.snapshot.get(name)
    with pytest.raises(DaytonaNotFoundError):
        daytona.snapshot.delete(name)


def test_activate(daytona: Daytona, name: str) -> None:
    daytona.snapshot.create(CreateSnapshotParams(name=name, image="sandboxai/box:latest"), timeout=120)
    assert daytona.snapshot.activate(name).state == "active"


def test_of_a_sandbox(daytona: Daytona, name: str, make) -> None:
    source: Sandbox = make(env_vars={"E": "1"})
    source.process.exec("echo installed > /usr/local/tool && rm /etc/issue && ln -s tool /usr/local/link")
    source.create_snapshot(name)
    assert source.process.exec("echo runs on").result == "runs on\n"
    copy: Sandbox = make(snapshot=name)
    assert copy.process.exec("cat /usr/local/link").result == "installed\n"
    assert copy.process.exec("ls /etc/issue").exit_code != 0
    copy.process.exec("echo changed > /usr/local/tool")
    assert source.process.exec("cat /usr/local/tool").result == "installed\n"


def test_of_a_stopped_sandbox(daytona: Daytona, name: str, make) -> None:
    source: Sandbox = make()
    source.fs.upload_file(b"at rest", "/root/file")
    source.stop()
    source.create_snapshot(name)
    copy: Sandbox = make(snapshot=name)
    assert copy.fs.download_file("/root/file") == b"at rest"
