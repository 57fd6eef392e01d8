"""The asynchronous client, and many sandboxes at once."""

from __future__ import annotations

import asyncio
import time

import pytest
from daytona import (
    AsyncDaytona,
    CreateSandboxFromSnapshotParams,
    DaytonaConfig,
    DaytonaNotFoundError,
    ListSandboxesQuery,
    PtySize,
    SandboxState,
    SessionExecuteRequest,
)
from leftovers import count, settle

from conformance.daytona.access import API_KEY


@pytest.fixture()
def config(api_url: str) -> DaytonaConfig:
    return DaytonaConfig(api_key=API_KEY, api_url=api_url, target="local")


def test_a_whole_life(config: DaytonaConfig) -> None:
    async def life() -> None:
        async with AsyncDaytona(config) as daytona:
            sandbox = await daytona.create(CreateSandboxFromSnapshotParams(labels={"async": "yes"}))
            assert sandbox.state == SandboxState.STARTED
            answer = await sandbox.process.exec("echo $((6 * 7)); exit 2")
            assert (answer.result, answer.exit_code) == ("42\n", 2)
            await sandbox.fs.upload_file(b"\x00async", "/tmp/file")
            assert await sandbox.fs.download_file("/tmp/file") == b"\x00async"
            assert (await sandbox.process.code_run("print(1 + 1)")).result == "2\n"
            assert (await sandbox.code_interpreter.run_code("print('cell')")).stdout == "cell\n"
            assert (await daytona.get(sandbox.id)).id == sandbox.id
            listed = [item.id async for item in daytona.list(ListSandboxesQuery(labels={"async": "yes"}))]
            assert listed == [sandbox.id]
            await sandbox.stop()
            assert sandbox.state == SandboxState.STOPPED
            await sandbox.start()
            await sandbox.delete(wait=True)
            with pytest.raises(DaytonaNotFoundError):
                await daytona.get(sandbox.id)

    asyncio.run(life())


def test_a_session_that_is_followed(config: DaytonaConfig) -> None:
    async def follow() -> None:
        async with AsyncDaytona(config) as daytona:
            sandbox = await daytona.create()
            try:
                await sandbox.process.create_session("s")
                begun = await sandbox.process.execute_session_command(
                    "s", SessionExecuteRequest(command="for i in 1 2 3; do echo $i; sleep 0.1; done", run_async=True)
                )
                texts: list[str] = []
                await asyncio.wait_for(
                    sandbox.process.get_session_command_logs_async("s", begun.cmd_id, texts.append, lambda _: None), 10
                )
                assert "".join(texts) == "1\n2\n3\n"
            finally:
                await sandbox.delete()

    asyncio.run(follow())


def test_a_terminal(config: DaytonaConfig) -> None:
    async def terminal() -> None:
        async with AsyncDaytona(config) as daytona:
            sandbox = await daytona.create()
            try:
                shown = bytearray()

                async def on_data(data: bytes) -> None:
                    shown.extend(data)

                handle = await sandbox.process.create_pty_session(
                    "p", on_data=on_data, pty_size=PtySize(cols=120, rows=40)
                )
                await handle.wait_for_connection()
                await handle.send_input("echo $((40 + 2)); exit 3\n")
                result = await asyncio.wait_for(handle.wait(), 10)
                assert result.exit_code == 3 and b"42\r\n" in shown
            finally:
                await sandbox.delete()

    asyncio.run(terminal())


def test_work_in_parallel(config: DaytonaConfig) -> None:
    async def parallel() -> float:
        async with AsyncDaytona(config) as daytona:
            sandbox = await daytona.create()
            try:
                started = time.monotonic()
                answers = await asyncio.gather(*(sandbox.process.exec(f"sleep 1; echo {n}") for n in range(20)))
                assert [answer.result for answer in answers] == [f"{n}\n" for n in range(20)]
                return time.monotonic() - started
            finally:
                await sandbox.delete()

    assert asyncio.run(parallel()) < 6


def test_50_sandboxes_at_once(config: DaytonaConfig, state_dir: str) -> None:
    """None fails, none is lost, none is mixed up, and nothing is left."""
    before = count(state_dir)

    async def fifty() -> None:
        async with AsyncDaytona(config) as daytona:
            sandboxes = await asyncio.gather(
                *(
                    daytona.create(
                        CreateSandboxFromSnapshotParams(labels={"batch": "fifty"}, env_vars={"NUMBER": str(n)}),
                        timeout=120,
                    )
                    for n in range(50)
                )
            )
            assert len({sandbox.id for sandbox in sandboxes}) == 50
            assert {sandbox.state for sandbox in sandboxes} == {SandboxState.STARTED}
            listed = {item.id async for item in daytona.list(ListSandboxesQuery(labels={"batch": "fifty"}, limit=20))}
            assert listed == {sandbox.id for sandbox in sandboxes}
            answers = await asyncio.gather(*(sandbox.process.exec("echo $NUMBER") for sandbox in sandboxes))
            assert [answer.result for answer in answers] == [f"{n}\n" for n in range(50)]
            await asyncio.gather(*(sandbox.delete(timeout=120, wait=True) for sandbox in sandboxes))
            assert [item async for item in daytona.list(ListSandboxesQuery(labels={"batch": "fifty"}))] == []

    asyncio.run(fifty())
    assert settle(state_dir, before) == {}
