"""daytona 0.115.0: toolbox calls go to the address that `GET /config` names."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest

from conformance.daytona.older_cases import *  # noqa: F403
from conformance.daytona.older_cases import run, sdk


def test_folders(sandbox: Any) -> None:
    assert sandbox.get_user_home_dir() == "/root"
    assert sandbox.get_work_dir() == "/workspace"


def test_a_name(daytona: Any, make: Any) -> None:
    name = f"named-{uuid.uuid4().hex[:8]}"
    made = make(name=name)
    assert made.name == name and daytona.get(name).id == made.id


def test_list_by_pages(daytona: Any, make: Any) -> None:
    mark = uuid.uuid4().hex
    made = {make(labels={"mark": mark}).id for _ in range(3)}
    first = daytona.list(labels={"mark": mark}, page=1, limit=2)
    second = daytona.list(labels={"mark": mark}, page=2, limit=2)
    assert (first.total, first.total_pages, len(first.items), len(second.items)) == (3, 2, 2, 1)
    assert {item.id for item in [*first.items, *second.items]} == made


def test_the_outputs_of_a_session_are_told_apart(sandbox: Any, session: str) -> None:
    """By marks in the text, which this SDK reads."""
    answer = run(sandbox, session, "echo out; echo err >&2")
    assert (answer.stdout, answer.stderr) == ("out\n", "err\n")
    logs = sandbox.process.get_session_command_logs(session, answer.cmd_id)
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")


def test_logs_are_followed_over_a_websocket(sandbox: Any, session: str) -> None:
    begun = run(sandbox, session, "for i in 1 2 3; do echo o$i; echo e$i >&2; sleep 0.2; done", run_async=True)
    stdout: list = []
    stderr: list = []
    asyncio.run(
        asyncio.wait_for(
            sandbox.process.get_session_command_logs_async(session, begun.cmd_id, stdout.append, stderr.append), 20
        )
    )
    assert ("".join(stdout), "".join(stderr)) == ("o1\no2\no3\n", "e1\ne2\ne3\n")


def test_download_many(sandbox: Any, folder: str) -> None:
    sandbox.fs.upload_file(b"one", f"{folder}/1")
    answers = sandbox.fs.download_files(
        [sdk.FileDownloadRequest(source=f"{folder}/1"), sdk.FileDownloadRequest(source=f"{folder}/none")]
    )
    by_source = {answer.source: answer for answer in answers}
    assert by_source[f"{folder}/1"].result == b"one"
    assert by_source[f"{folder}/none"].error and by_source[f"{folder}/none"].result is None


def test_delete_of_a_folder(sandbox: Any, folder: str) -> None:
    sandbox.fs.upload_file(b"x", f"{folder}/sub/f")
    with pytest.raises(sdk.DaytonaError):
        sandbox.fs.delete_file(f"{folder}/sub")
    sandbox.fs.delete_file(f"{folder}/sub", recursive=True)
    assert sandbox.fs.list_files(folder) == []


def test_a_terminal(sandbox: Any) -> None:
    shown = bytearray()
    handle = sandbox.process.create_pty_session("pty", pty_size=sdk.PtySize(rows=30, cols=100))
    handle.resize(sdk.PtySize(rows=31, cols=101))
    handle.send_input("stty size; exit 6\n")
    result = handle.wait(on_data=shown.extend)
    assert result.exit_code == 6 and b"31 101" in shown


def test_terminals_are_listed_and_killed(sandbox: Any) -> None:
    handle = sandbox.process.create_pty_session("listed")
    assert "listed" in [one.id for one in sandbox.process.list_pty_sessions().sessions]
    info = sandbox.process.get_pty_session_info("listed")
    assert info.active and info.id == "listed"
    handle.kill()
    until = time.monotonic() + 5
    while any(one.id == "listed" and one.active for one in sandbox.process.list_pty_sessions().sessions):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_ephemeral_sandbox(daytona: Any, make: Any) -> None:
    made = make(ephemeral=True)
    made.stop()
    until = time.monotonic() + 15
    while True:
        try:
            daytona.get(made.id)
        except sdk.DaytonaError:
            break
        assert time.monotonic() < until
        time.sleep(0.2)


def test_ssh_is_not_served(sandbox: Any) -> None:
    with pytest.raises(sdk.DaytonaError):
        sandbox.create_ssh_access(expires_in_minutes=10)
