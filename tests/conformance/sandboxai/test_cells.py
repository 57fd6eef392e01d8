"""Cells and commands as the original's own tests expect them."""

from __future__ import annotations

import pytest
from conftest import Server
from sandboxai import Sandbox
from sandboxai.api.v1 import CreateSandboxRequest, RunIPythonCellRequest, RunShellCommandRequest, SandboxSpec
from sandboxai.client.v1 import HttpClient


@pytest.fixture(scope="module")
def env_box(server: Server):
    with Sandbox(server.base_url, env={"MY_TEST_VAR": "my-value"}) as box:
        yield box


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("print(123)", "123\n"),
        ("123", "Out[1]: 123\n"),
        ("x = 5", ""),
        ("x + 1", "Out[1]: 6\n"),
        ("import sys", ""),
        ("print('err', file=sys.stderr)", "err\n"),
        ("print('a'); print('b', file=sys.stderr); print('c')", "a\nb\nc\n"),
        ("! echo -n $MY_TEST_VAR", "my-value"),
        ("await __import__('asyncio').sleep(0, 'awaited')", "Out[1]: 'awaited'\n"),
    ],
)
def test_output_is_exactly_the_originals(env_box: Sandbox, code: str, output: str) -> None:
    assert env_box.run_ipython_cell(code).output == output


def test_an_unknown_name_gives_ipythons_traceback(env_box: Sandbox) -> None:
    result = env_box.run_ipython_cell("foo")
    assert "name 'foo' is not defined" in result.output
    assert result.status == "error" and result.error and result.error.name == "NameError"


def test_split_output_fills_the_other_fields(server: Server, env_box: Sandbox) -> None:
    client = HttpClient(server.base_url)
    name = env_box.name or ""
    cell = client.run_ipython_cell(
        "default", name, RunIPythonCellRequest(code="import sys; print(1); print(2, file=sys.stderr)", split_output=True)
    )
    assert (cell.output or "", cell.stdout, cell.stderr) == ("", "1\n", "2\n")
    shell = client.run_shell_command(
        "default", name, RunShellCommandRequest(command="echo 1; echo 2 >&2", split_output=True)
    )
    assert (shell.output or "", shell.stdout, shell.stderr) == ("", "1\n", "2\n")
    merged = client.run_shell_command("default", name, RunShellCommandRequest(command="echo 1; echo 2 >&2; echo 3"))
    assert (merged.output, merged.stdout or "", merged.stderr or "") == ("1\n2\n3\n", "", "")


def test_the_shell_sees_the_environment(env_box: Sandbox) -> None:
    assert env_box.run_shell_command("echo -n $MY_TEST_VAR").output == "my-value"


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("exit 3", 3), ("no-such-program", 127), ("kill -9 $$", 137)])
def test_exit_codes_are_never_lost(env_box: Sandbox, command: str, code: int) -> None:
    assert env_box.run_shell_command(command).exit_code == code


def test_what_is_created_is_what_is_found(server: Server) -> None:
    client = HttpClient(server.base_url)
    for image in ("substratusai/sandboxai-box:v0.2.0", "sandboxai/box", None):
        created = client.create_sandbox("default", CreateSandboxRequest(spec=SandboxSpec(image=image, env={"A": "b"})))
        assert created.name
        found = client.get_sandbox("default", created.name)
        # When it was last active is the one thing that may differ.
        for sandbox in (created, found):
            assert sandbox.status and sandbox.status.model_extra and sandbox.status.model_extra.pop("active_at")
        assert found.model_dump() == created.model_dump()
        client.delete_sandbox("default", created.name)


def test_a_timeout_interrupts_the_cell_and_keeps_the_kernel(env_box: Sandbox) -> None:
    env_box.run_ipython_cell("kept = 41")
    result = env_box.run_ipython_cell("import time; time.sleep(60)", timeout=0.5)
    assert result.status == "timed_out"
    assert env_box.run_ipython_cell("kept + 1").output == "Out[1]: 42\n"


def test_a_dead_kernel_says_so_and_the_next_cell_works(env_box: Sandbox) -> None:
    result = env_box.run_ipython_cell("import os; os._exit(7)")
    assert result.status == "kernel_died" and result.error and result.error.value
    assert env_box.run_ipython_cell("print('again')").output == "again\n"


def test_running_out_of_memory_is_named(server: Server) -> None:
    with Sandbox(server.base_url, memory_mb=256) as box:
        result = box.run_ipython_cell("b = bytearray(1 << 30)\nfor i in range(0, len(b), 4096): b[i] = 1")
        assert result.status == "kernel_died" and result.error and "memory" in result.error.value
        assert box.run_shell_command("echo alive").output == "alive\n"


def test_figures_and_tables_are_rich(env_box: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()"
    result = env_box.run_ipython_cell(code)
    images = [rich.png for rich in result.results if rich.png]
    assert len(images) == 1 and images[0].startswith(b"\x89PNG")
    table = env_box.run_ipython_cell("import pandas as pd; pd.DataFrame({'a': [1]})").result
    assert table and "<table" in table.data["text/html"] and "a" in (table.text or "")
