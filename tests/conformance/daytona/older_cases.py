"""Cases that both older generations of the SDK share; each suite imports them all.

``sdk`` is the SDK's module, ``OLD`` tells daytona-sdk 0.21.0 from daytona 0.115.0.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator

import pytest

from conformance.daytona.access import API_KEY, fetch

OLD = importlib.util.find_spec("daytona") is None
sdk: Any = importlib.import_module("daytona_sdk" if OLD else "daytona")


@pytest.fixture(scope="session")
def config(api_url: str) -> Any:
    # 0.21.0 knows the regions `eu`, `us` and `asia` only.
    return sdk.DaytonaConfig(api_key=API_KEY, api_url=api_url, target="us")


@pytest.fixture(scope="session")
def daytona(config: Any) -> Any:
    return sdk.Daytona(config)


@pytest.fixture(scope="module")
def sandbox(daytona: Any) -> Iterator[Any]:
    made = daytona.create()
    yield made
    daytona.delete(made)


@pytest.fixture()
def make(daytona: Any) -> Iterator[Any]:
    made = []

    def create(**params: Any) -> Any:
        made.append(daytona.create(sdk.CreateSandboxFromSnapshotParams(**params)))
        return made[-1]

    yield create
    for sandbox in made:
        try:
            daytona.delete(sandbox)
        except Exception as error:  # the test removed it
            assert "not found" in str(error).lower() or "404" in str(error)


@pytest.fixture()
def folder(sandbox: Any) -> str:
    path = f"/tmp/{uuid.uuid4().hex}"
    sandbox.fs.create_folder(path, "755")
    return path


@pytest.fixture()
def session(sandbox: Any) -> Iterator[str]:
    name = f"s-{uuid.uuid4().hex[:8]}"
    sandbox.process.create_session(name)
    yield name
    sandbox.process.delete_session(name)


def run(sandbox: Any, session: str, command: str, **more: Any) -> Any:
    return sandbox.process.execute_session_command(session, sdk.SessionExecuteRequest(command=command, **more))


def printed(answer: Any) -> str:
    """What a command printed: 0.115.0 takes the last newline off, 0.21.0 may add one."""
    return answer.result.rstrip("\n")


def not_found(raised: Any) -> bool:
    return "not found" in str(raised.value).lower() or "404" in str(raised.value)


def test_create(make: Any) -> None:
    made = make(labels={"team": "blue"}, env_vars={"GREETING": "hello"}, auto_stop_interval=30)
    assert made.state == sdk.SandboxState.STARTED and made.id
    assert made.labels["team"] == "blue" and made.auto_stop_interval == 30
    assert printed(made.process.exec("echo $GREETING")) == "hello"


def test_create_from_an_image(daytona: Any) -> None:
    params = sdk.CreateSandboxFromImageParams(
        image="sandboxai/box", resources=sdk.Resources(cpu=1, memory=1, disk=3), env_vars={"A": "b"}
    )
    made = daytona.create(params, timeout=120)
    try:
        assert made.memory == 1
        assert printed(made.process.exec("echo $A; python3 -c 'import numpy'")) == "b"
    finally:
        daytona.delete(made)


def test_get_and_find(daytona: Any, make: Any) -> None:
    mark = uuid.uuid4().hex
    made = make(labels={"mark": mark})
    assert daytona.get(made.id).id == made.id
    assert daytona.find_one(labels={"mark": mark}).id == made.id


def test_get_of_nothing(daytona: Any) -> None:
    with pytest.raises(sdk.DaytonaError) as raised:
        daytona.get("no-such-sandbox")
    assert not_found(raised)


def test_list(daytona: Any, make: Any) -> None:
    mark = uuid.uuid4().hex
    made = {make(labels={"mark": mark}).id for _ in range(3)}
    listed = daytona.list(labels={"mark": mark})
    items = listed if OLD else listed.items
    assert {item.id for item in items} == made
    everything = daytona.list()
    assert made <= {item.id for item in (everything if OLD else everything.items)}


def test_stop_and_start(daytona: Any, make: Any) -> None:
    made = make()
    made.fs.upload_file(b"kept", "/root/kept")
    made.stop()
    assert daytona.get(made.id).state == sdk.SandboxState.STOPPED
    made.start()
    assert daytona.get(made.id).state == sdk.SandboxState.STARTED
    assert made.fs.download_file("/root/kept") == b"kept"


def test_archive(daytona: Any, make: Any) -> None:
    made = make()
    made.fs.upload_file(b"kept", "/root/kept")
    made.stop()
    made.archive()
    until = time.monotonic() + 30
    while daytona.get(made.id).state != sdk.SandboxState.ARCHIVED:
        assert time.monotonic() < until
        time.sleep(0.1)
    made.start()
    assert made.fs.download_file("/root/kept") == b"kept"


def test_delete(daytona: Any, make: Any) -> None:
    made = make()
    daytona.delete(made)
    until = time.monotonic() + 10
    while True:
        try:
            daytona.get(made.id)
        except sdk.DaytonaError as error:
            assert "not found" in str(error).lower() or "404" in str(error)
            break
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.1)


def test_settings(daytona: Any, make: Any) -> None:
    made = make()
    made.set_autostop_interval(45)
    made.set_auto_archive_interval(60)
    made.set_labels({"a": "b"})
    seen = daytona.get(made.id)
    assert (seen.auto_stop_interval, seen.auto_archive_interval) == (45, 60)
    assert seen.labels["a"] == "b"


def test_root_dir(sandbox: Any) -> None:
    assert sandbox.get_user_root_dir() == "/root"


def test_preview_link(make: Any) -> None:
    made = make(public=True)
    made.process.exec("cd /tmp && echo content > file && nohup python3 -m http.server 4000 >/dev/null 2>&1 &")
    made.process.exec("for i in $(seq 100); do curl -s localhost:4000 && break; sleep 0.05; done")
    link = made.get_preview_link(4000)
    assert fetch(f"{link.url}/file").text == "content\n"


def test_exec(sandbox: Any) -> None:
    answer = sandbox.process.exec("echo out; echo err >&2; exit 3")
    assert (answer.exit_code, printed(answer)) == (3, "out\nerr")


def test_exec_env_and_cwd(sandbox: Any) -> None:
    """These SDKs put values unquoted into a command line of their own: no blanks, no quotes."""
    answer = sandbox.process.exec('pwd; echo "$V"', cwd="/usr", env={"V": "sk-a_b=c/d+ü"})
    assert printed(answer) == "/usr\nsk-a_b=c/d+ü"


def test_exec_timeout(sandbox: Any) -> None:
    started = time.monotonic()
    with pytest.raises(sdk.DaytonaError):
        sandbox.process.exec("sleep 33", timeout=1)
    assert time.monotonic() - started < 20
    assert sandbox.process.exec("pgrep -f 'sleep 3[3]'").exit_code == 1


def test_code_run(sandbox: Any) -> None:
    answer = sandbox.process.code_run("import sys\nprint(6 * 7)\nsys.exit(5)")
    assert (answer.exit_code, printed(answer)) == (5, "42")


def test_code_run_argv_and_env(sandbox: Any) -> None:
    answer = sandbox.process.code_run(
        "import os, sys; print(sys.argv[1:], os.environ['M'])", sdk.CodeRunParams(argv=["x"], env={"M": "n"})
    )
    assert printed(answer) == "['x'] n"


def test_code_run_gives_charts(sandbox: Any) -> None:
    """These SDKs send their own wrapper around the code, and read the charts off its output."""
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4])\nplt.title('T')\nplt.show()\nprint('after')"
    answer = sandbox.process.code_run(code)
    assert "after" in answer.artifacts.stdout
    (chart,) = answer.artifacts.charts
    assert chart.title == "T" and isinstance(chart, sdk.LineChart)


@pytest.mark.parametrize("content", [b"", bytes(range(256)), os.urandom(3 << 20)], ids=["empty", "bytes", "3MiB"])
def test_upload_and_download(sandbox: Any, folder: str, content: bytes) -> None:
    sandbox.fs.upload_file(content, f"{folder}/new/ü file")
    assert sandbox.fs.download_file(f"{folder}/new/ü file") == content
    assert sandbox.fs.get_file_info(f"{folder}/new/ü file").size == len(content)


def test_upload_many(sandbox: Any, folder: str) -> None:
    sandbox.fs.upload_files(
        [sdk.FileUpload(source=f"{n}".encode(), destination=f"{folder}/{n}/f") for n in range(10)]
    )
    assert sandbox.fs.download_file(f"{folder}/9/f") == b"9"


@pytest.mark.skipif(OLD, reason="0.21.0 calls httpx in a way that no httpx takes")
def test_download_to_a_local_path(sandbox: Any, folder: str, tmp_path: Any) -> None:
    sandbox.fs.upload_file(b"content", f"{folder}/f")
    sandbox.fs.download_file(f"{folder}/f", str(tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == b"content"


def test_files(sandbox: Any, folder: str) -> None:
    sandbox.fs.create_folder(f"{folder}/sub", "700")
    sandbox.fs.upload_file(b"needle here\n", f"{folder}/sub/a.py")
    entries = {entry.name: entry for entry in sandbox.fs.list_files(folder)}
    assert entries["sub"].is_dir and "700" in entries["sub"].permissions
    assert [match.line for match in sandbox.fs.find_files(folder, "needle")] == [1]
    assert sandbox.fs.search_files(folder, "*.py").files == [f"{folder}/sub/a.py"]
    (result,) = sandbox.fs.replace_in_files([f"{folder}/sub/a.py"], "needle", "thread")
    assert result.success
    sandbox.fs.move_files(f"{folder}/sub/a.py", f"{folder}/b.py")
    assert sandbox.fs.download_file(f"{folder}/b.py") == b"thread here\n"
    sandbox.fs.set_file_permissions(f"{folder}/b.py", mode="600")
    info = sandbox.fs.get_file_info(f"{folder}/b.py")
    assert (info.name, info.is_dir, info.owner, info.group) == ("b.py", False, "root", "root")
    assert "600" in info.permissions and info.mode and info.mod_time
    sandbox.fs.delete_file(f"{folder}/b.py")
    assert [entry.name for entry in sandbox.fs.list_files(folder)] == ["sub"]


def test_a_file_that_is_absent(sandbox: Any, folder: str) -> None:
    for call in (sandbox.fs.get_file_info, sandbox.fs.download_file, sandbox.fs.delete_file, sandbox.fs.list_files):
        with pytest.raises(sdk.DaytonaError) as raised:
            call(f"{folder}/missing")
        assert not_found(raised) or "no such file" in str(raised.value).lower()


def test_relative_paths(sandbox: Any) -> None:
    """Of 0.21.0 below the home folder, later below the working folder."""
    sandbox.fs.upload_file(b"relative", "a-folder/file.txt")
    assert printed(sandbox.process.exec(f"cat {'/root' if OLD else '/workspace'}/a-folder/file.txt")) == "relative"
    assert sandbox.fs.download_file("a-folder/file.txt") == b"relative"


def test_a_session_keeps_its_state(sandbox: Any, session: str) -> None:
    run(sandbox, session, "cd /usr; export KEPT=1")
    answer = run(sandbox, session, "pwd; echo $KEPT; (exit 4)")
    assert answer.exit_code == 4 and answer.cmd_id
    listed = sandbox.process.get_session(session)
    assert [command.exit_code for command in listed.commands] == [0, 4]
    assert sandbox.process.get_session_command(session, answer.cmd_id).exit_code == 4
    assert session in [one.session_id for one in sandbox.process.list_sessions()]


def test_where_a_session_starts(sandbox: Any, session: str) -> None:
    answer = run(sandbox, session, "echo \"at $PWD.\"")
    assert f"at {'/root' if OLD else '/workspace'}." in answer.output


@pytest.mark.parametrize("field", ["run_async", "var_async"])
def test_an_async_command(sandbox: Any, session: str, field: str) -> None:
    started = time.monotonic()
    answer = run(sandbox, session, "sleep 0.7; (exit 2)", **{field: True})
    assert time.monotonic() - started < 0.6 and answer.exit_code is None
    until = time.monotonic() + 5
    while sandbox.process.get_session_command(session, answer.cmd_id).exit_code is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert sandbox.process.get_session_command(session, answer.cmd_id).exit_code == 2


def test_a_taken_session(sandbox: Any, session: str) -> None:
    with pytest.raises(sdk.DaytonaError):
        sandbox.process.create_session(session)


def test_10_sessions_at_once(sandbox: Any) -> None:
    def one(number: int) -> str:
        name = f"many-{number}"
        sandbox.process.create_session(name)
        answer = run(sandbox, name, f"sleep 0.2; echo number-{number}").output
        sandbox.process.delete_session(name)
        return answer

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(one, range(10)))
    assert all(f"number-{n}\n" in text for n, text in enumerate(answers))


def test_git(sandbox: Any, folder: str) -> None:
    origin, clone = f"{folder}/origin.git", f"{folder}/clone"
    sandbox.process.exec(f"git init -q --bare -b main {origin}")
    made = sandbox.process.exec(
        f"git init -q -b main {folder}/seed && cd {folder}/seed && echo 1 > f && git add f && "
        f"git -c user.name=a -c user.email=a@a commit -qm 1 && git push -q {origin} main"
    )
    assert made.exit_code == 0, made.result
    sandbox.git.clone(origin, clone)
    sandbox.fs.upload_file(b"2\n", f"{clone}/f")
    sandbox.fs.upload_file(b"new\n", f"{clone}/g")
    files = {entry.name: entry for entry in sandbox.git.status(clone).file_status}
    assert set(files) == {"f", "g"}
    sandbox.git.add(clone, ["f", "g"])
    answer = sandbox.git.commit(clone, "Second", "B. Author", "b@example.com")
    assert len(answer.sha) == 40
    sandbox.git.push(clone)
    assert printed(sandbox.process.exec(f"git -C {origin} log -1 --format=%an:%s main")) == "B. Author:Second"
    assert sandbox.git.branches(clone).branches == ["main"]
    if not OLD:
        sandbox.git.create_branch(clone, "side")
        assert set(sandbox.git.branches(clone).branches) == {"main", "side"}
        sandbox.git.checkout_branch(clone, "main")
        sandbox.git.delete_branch(clone, "side")
    sandbox.git.pull(clone)
    assert sandbox.git.status(clone).current_branch == "main"


def test_git_without_a_repository(sandbox: Any, folder: str) -> None:
    with pytest.raises(sdk.DaytonaError):
        sandbox.git.status(folder)


def test_snapshots(daytona: Any) -> None:
    listed = daytona.snapshot.list()
    names = [item.name for item in (listed if OLD else listed.items)]
    assert "sandboxai/box:latest" in names
    assert daytona.snapshot.get("sandboxai/box:latest").state == "active"


def test_build_a_snapshot(daytona: Any) -> None:
    name = f"suite/{uuid.uuid4().hex[:8]}:1"
    image = sdk.Image.base("sandboxai/box").run_commands("echo line-$((1 + 1)) > /made").env({"E": "f"})
    logs: list = []
    params = sdk.CreateSnapshotParams(name=name, image=image)
    daytona.snapshot.create(params, on_logs=logs.append, timeout=120)
    try:
        made = daytona.create(sdk.CreateSandboxFromSnapshotParams(snapshot=name))
        assert printed(made.process.exec("cat /made; echo $E")) == "line-2\nf"
        daytona.delete(made)
    finally:
        daytona.snapshot.delete(daytona.snapshot.get(name))


def test_the_async_client(config: Any) -> None:
    async def life() -> None:
        daytona = sdk.AsyncDaytona(config)
        try:
            sandboxes = await asyncio.gather(*(daytona.create() for _ in range(5)))
            answers = await asyncio.gather(*(one.process.exec(f"echo {n}") for n, one in enumerate(sandboxes)))
            assert [printed(answer) for answer in answers] == [f"{n}" for n in range(5)]
            await sandboxes[0].fs.upload_file(b"async", "/tmp/f")
            assert await sandboxes[0].fs.download_file("/tmp/f") == b"async"
            await asyncio.gather(*(daytona.delete(one) for one in sandboxes))
        finally:
            await daytona.close()

    asyncio.run(life())


def test_a_wrong_key(locked_server: Any) -> None:
    client = sdk.Daytona(sdk.DaytonaConfig(api_key=API_KEY, api_url=f"{locked_server.url}/api", target="us"))
    with pytest.raises(sdk.DaytonaError):
        client.create()
