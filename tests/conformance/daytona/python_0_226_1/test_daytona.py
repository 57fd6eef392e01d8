"""The client: create, get, list, delete."""

from __future__ import annotations

import re
import time
import uuid

import pytest
from daytona import (
    CreateSandboxFromImageParams,
    CreateSandboxFromSnapshotParams,
    Daytona,
    DaytonaAuthenticationError,
    DaytonaBadRequestError,
    DaytonaConfig,
    DaytonaConflictError,
    DaytonaError,
    DaytonaNotFoundError,
    Image,
    ListSandboxesQuery,
    Resources,
    Sandbox,
    SandboxState,
)

from conformance.daytona.access import API_KEY


def test_create_answers_a_started_sandbox(sandbox: Sandbox) -> None:
    assert sandbox.state == SandboxState.STARTED
    assert sandbox.id and sandbox.name
    assert sandbox.target == "local"
    assert sandbox.snapshot == "sandboxai/box"
    assert sandbox.toolbox_proxy_url.endswith("/toolbox")
    assert not sandbox.public and not sandbox.network_block_all
    assert sandbox.cpu >= 1 and sandbox.memory >= 1 and sandbox.disk >= 1 and sandbox.gpu == 0


def test_create_defaults_to_the_intervals_of_daytona(sandbox: Sandbox) -> None:
    assert sandbox.auto_stop_interval == 15
    assert sandbox.auto_archive_interval == 7 * 24 * 60
    assert sandbox.auto_delete_interval == -1


def test_created_at_is_now(make) -> None:
    from datetime import datetime, timezone

    created = datetime.fromisoformat(make().created_at.replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - created).total_seconds()) < 60


def test_create_with_name_labels_and_env(make) -> None:
    name = f"named-{uuid.uuid4().hex[:8]}"
    made = make(name=name, labels={"team": "blue"}, env_vars={"GREETING": "hello world", "EMPTY": ""})
    assert made.name == name
    assert made.labels["team"] == "blue"
    assert made.env["GREETING"] == "hello world"
    assert made.process.exec("printf '%s|%s' \"$GREETING\" \"${EMPTY-unset}\"").result == "hello world|"


def test_create_with_intervals(make) -> None:
    made = make(auto_stop_interval=0, auto_archive_interval=60, auto_delete_interval=120)
    assert (made.auto_stop_interval, made.auto_archive_interval, made.auto_delete_interval) == (0, 60, 120)


def test_create_public(make) -> None:
    assert make(public=True).public


def test_create_from_an_image_with_resources(daytona: Daytona) -> None:
    made = daytona.create(
        CreateSandboxFromImageParams(image="sandboxai/box", resources=Resources(cpu=1, memory=2, disk=4)), timeout=120
    )
    try:
        assert (made.cpu, made.memory, made.disk) == (1, 2, 4)
        assert "IPython" in made.process.exec("python3 -c 'import IPython; print(IPython.__name__)'").result
    finally:
        made.delete()


def test_create_from_a_built_image_streams_the_logs(daytona: Daytona) -> None:
    """A step that was never run before: of one that was, the result is kept, and no log."""
    once = uuid.uuid4().hex
    image = (
        Image.base("sandboxai/box")
        .run_commands(f"echo building-$((20 + 22)) {once} && echo made > /made")
        .env({"FROM_IMAGE": "yes"})
        .workdir("/srv")
    )
    logs: list[str] = []
    made = daytona.create(CreateSandboxFromImageParams(image=image), timeout=120, on_snapshot_create_logs=logs.append)
    try:
        answer = made.process.exec("cat /made; echo $FROM_IMAGE; pwd")
        assert answer.result.split() == ["made", "yes", "/srv"]
        assert "building-42" in "".join(logs)
    finally:
        made.delete()


def test_create_from_an_unknown_snapshot(daytona: Daytona) -> None:
    """The name says a registry on this machine where nothing listens."""
    with pytest.raises((DaytonaNotFoundError, DaytonaBadRequestError)) as raised:
        daytona.create(CreateSandboxFromSnapshotParams(snapshot="localhost:1/no/such:1"))
    assert "localhost:1/no/such" in str(raised.value)


def test_create_with_a_taken_name(daytona: Daytona, make) -> None:
    name = f"taken-{uuid.uuid4().hex[:8]}"
    make(name=name)
    with pytest.raises(DaytonaConflictError) as raised:
        daytona.create(CreateSandboxFromSnapshotParams(name=name))
    assert name in str(raised.value) and raised.value.status_code == 409


def test_create_with_a_bad_env_name(daytona: Daytona) -> None:
    with pytest.raises(DaytonaBadRequestError) as raised:
        daytona.create(CreateSandboxFromSnapshotParams(env_vars={"A=B": "x"}))
    assert "env" in str(raised.value)


def test_get_by_id_and_by_name(daytona: Daytona, sandbox: Sandbox) -> None:
    assert daytona.get(sandbox.id).name == sandbox.name
    assert daytona.get(sandbox.name).id == sandbox.id


def test_get_answers_a_working_sandbox(daytona: Daytona, sandbox: Sandbox) -> None:
    assert daytona.get(sandbox.id).process.exec("echo $((40 + 2))").result == "42\n"


def test_get_of_nothing(daytona: Daytona) -> None:
    with pytest.raises(DaytonaNotFoundError) as raised:
        daytona.get("no-such-sandbox")
    assert raised.value.status_code == 404
    assert "not found" in str(raised.value).lower()


def test_list_finds_a_sandbox(daytona: Daytona, sandbox: Sandbox) -> None:
    found = [item for item in daytona.list() if item.id == sandbox.id]
    assert [item.state for item in found] == [SandboxState.STARTED]


def test_list_by_labels(daytona: Daytona, make) -> None:
    mark = uuid.uuid4().hex
    one = make(labels={"mark": mark, "n": "1"})
    two = make(labels={"mark": mark, "n": "2"})
    ids = {item.id for item in daytona.list(ListSandboxesQuery(labels={"mark": mark}))}
    assert ids == {one.id, two.id}
    assert [item.id for item in daytona.list(ListSandboxesQuery(labels={"mark": mark, "n": "2"}))] == [two.id]
    assert list(daytona.list(ListSandboxesQuery(labels={"mark": "other"}))) == []


def test_list_by_state_name_and_id(daytona: Daytona, make) -> None:
    mark = f"mark{uuid.uuid4().hex[:12]}"
    running = make(name=f"{mark}-a")
    stopped = make(name=f"{mark}-b")
    stopped.stop()
    by_name = {item.id for item in daytona.list(ListSandboxesQuery(name=mark))}
    assert by_name == {running.id, stopped.id}
    only_stopped = list(daytona.list(ListSandboxesQuery(name=mark, states=[SandboxState.STOPPED])))
    assert [item.id for item in only_stopped] == [stopped.id]
    assert [item.id for item in daytona.list(ListSandboxesQuery(id=running.id[:13], name=mark))] == [running.id]


def test_list_goes_through_all_pages(daytona: Daytona, make) -> None:
    mark = uuid.uuid4().hex
    made = {make(labels={"mark": mark}).id for _ in range(5)}
    listed = [item.id for item in daytona.list(ListSandboxesQuery(labels={"mark": mark}, limit=2))]
    assert len(listed) == 5 and set(listed) == made


def test_listed_sandboxes_work(daytona: Daytona, make) -> None:
    mark = uuid.uuid4().hex
    make(labels={"mark": mark})
    (item,) = daytona.list(ListSandboxesQuery(labels={"mark": mark}))
    assert item.process.exec("echo here").result == "here\n"


def test_start_and_stop_by_the_client(daytona: Daytona, make) -> None:
    made = make()
    daytona.stop(made)
    assert made.state == SandboxState.STOPPED
    daytona.start(made)
    assert made.state == SandboxState.STARTED


def test_delete(daytona: Daytona, make) -> None:
    made = make()
    daytona.delete(made, wait=True)
    with pytest.raises(DaytonaNotFoundError):
        daytona.get(made.id)
    assert made.id not in {item.id for item in daytona.list()}


def test_delete_twice(daytona: Daytona, make) -> None:
    made = make()
    daytona.delete(made, wait=True)
    with pytest.raises(DaytonaNotFoundError):
        daytona.delete(made)


def test_a_deleted_name_is_free_again(daytona: Daytona, make) -> None:
    name = f"again-{uuid.uuid4().hex[:8]}"
    first = make(name=name)
    first.delete(wait=True)
    assert make(name=name).id != first.id


def test_a_wrong_key_is_refused(locked_server) -> None:
    client = Daytona(DaytonaConfig(api_key=API_KEY, api_url=f"{locked_server.url}/api", target="local"))
    with pytest.raises(DaytonaAuthenticationError):
        client.create()
    with pytest.raises(DaytonaAuthenticationError):
        client.get("anything")


def test_the_right_key_opens_both_planes(locked_server) -> None:
    right = Daytona(
        DaytonaConfig(api_key="0123456789abcdef-right", api_url=f"{locked_server.url}/api", target="local")
    )
    made = right.create()
    try:
        assert made.process.exec("echo in").result == "in\n"
    finally:
        made.delete()


def test_the_toolbox_refuses_a_wrong_key(locked_server) -> None:
    import httpx

    right = Daytona(
        DaytonaConfig(api_key="0123456789abcdef-right", api_url=f"{locked_server.url}/api", target="local")
    )
    made = right.create()
    try:
        url = f"{made.toolbox_proxy_url}/{made.id}/work-dir"
        assert httpx.get(url, headers={"Authorization": f"Bearer {API_KEY}"}).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer 0123456789abcdef-right"}).status_code == 200
    finally:
        made.delete()


def test_a_server_that_is_not_there_is_a_daytona_error() -> None:
    client = Daytona(DaytonaConfig(api_key=API_KEY, api_url="http://127.0.0.1:9/api", target="local"))
    with pytest.raises(DaytonaError):
        client.get("anything")


def test_create_takes_no_seconds(daytona: Daytona, make) -> None:
    """The answer of create is that of a started sandbox: the SDK waits for nothing."""
    make()
    started = time.monotonic()
    make()
    assert time.monotonic() - started < 5


def test_ids_are_names_of_hosts(sandbox: Sandbox) -> None:
    """They stand in the host names of previews."""
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", sandbox.id)
