"""The code interpreter: Python with kept state, streamed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from daytona import DaytonaError, DaytonaNotFoundError, DaytonaTimeoutError, Sandbox


def test_output(sandbox: Sandbox) -> None:
    result = sandbox.code_interpreter.run_code("import sys\nprint('out')\nprint('err', file=sys.stderr)")
    assert (result.stdout, result.stderr, result.error) == ("out\n", "err\n", None)


def test_state_is_kept(sandbox: Sandbox) -> None:
    sandbox.code_interpreter.run_code("import math\nkept = 20\ndef double(n):\n    return 2 * n")
    assert sandbox.code_interpreter.run_code("print(double(kept) + math.floor(2.5))").stdout == "42\n"


def test_an_error(sandbox: Sandbox) -> None:
    result = sandbox.code_interpreter.run_code("print('before')\n{}['missing']\nprint('after')")
    assert result.stdout == "before\n"
    assert result.error and (result.error.name, result.error.value) == ("KeyError", "'missing'")
    assert "Traceback" in result.error.traceback and "missing" in result.error.traceback


def test_a_syntax_error(sandbox: Sandbox) -> None:
    result = sandbox.code_interpreter.run_code("def broken(:\n    pass")
    assert result.error and result.error.name == "SyntaxError"


def test_state_outlives_an_error(sandbox: Sandbox) -> None:
    sandbox.code_interpreter.run_code("survives = 1")
    sandbox.code_interpreter.run_code("1 / 0")
    assert sandbox.code_interpreter.run_code("print(survives)").stdout == "1\n"


def test_callbacks_come_while_it_runs(sandbox: Sandbox) -> None:
    seen: list[tuple[str, float]] = []
    errors = []
    sandbox.code_interpreter.run_code(
        "import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.3)\nraise ValueError('v')",
        on_stdout=lambda message: seen.append((message.output, time.monotonic())),
        on_error=errors.append,
    )
    assert "".join(text for text, _ in seen) == "0\n1\n2\n"
    assert seen[-1][1] - seen[0][1] > 0.4
    assert [error.name for error in errors] == ["ValueError"]


def test_envs_hold_for_one_run(sandbox: Sandbox) -> None:
    code = "import os\nprint(os.environ.get('ONCE'))"
    assert sandbox.code_interpreter.run_code(code, envs={"ONCE": "yes"}).stdout == "yes\n"
    assert sandbox.code_interpreter.run_code(code).stdout == "None\n"


def test_timeout(sandbox: Sandbox) -> None:
    started = time.monotonic()
    with pytest.raises(DaytonaTimeoutError):
        sandbox.code_interpreter.run_code("import time\nwhile True: time.sleep(0.1)", timeout=1)
    assert time.monotonic() - started < 6
    assert sandbox.code_interpreter.run_code("print('goes on')").stdout == "goes on\n"


def test_contexts_are_apart(sandbox: Sandbox) -> None:
    first = sandbox.code_interpreter.create_context()
    second = sandbox.code_interpreter.create_context()
    try:
        sandbox.code_interpreter.run_code("value = 1", context=first)
        sandbox.code_interpreter.run_code("value = 2", context=second)
        assert sandbox.code_interpreter.run_code("print(value)", context=first).stdout == "1\n"
        assert sandbox.code_interpreter.run_code("print(value)", context=second).stdout == "2\n"
        missing = sandbox.code_interpreter.run_code("del value\nprint(value)", context=first)
        assert missing.error and missing.error.name == "NameError"
    finally:
        sandbox.code_interpreter.delete_context(first)
        sandbox.code_interpreter.delete_context(second)


def test_context_cwd(sandbox: Sandbox) -> None:
    context = sandbox.code_interpreter.create_context(cwd="/usr/lib")
    try:
        assert context.cwd == "/usr/lib" and context.language == "python" and context.active
        assert sandbox.code_interpreter.run_code("import os; print(os.getcwd())", context=context).stdout == "/usr/lib\n"
    finally:
        sandbox.code_interpreter.delete_context(context)


def test_list_and_delete_contexts(sandbox: Sandbox) -> None:
    sandbox.code_interpreter.run_code("pass")
    assert sandbox.code_interpreter.list_contexts() == [], "the default one is not listed"
    context = sandbox.code_interpreter.create_context()
    assert [one.id for one in sandbox.code_interpreter.list_contexts()] == [context.id]
    sandbox.code_interpreter.delete_context(context)
    assert sandbox.code_interpreter.list_contexts() == []
    with pytest.raises(DaytonaNotFoundError):
        sandbox.code_interpreter.delete_context(context)


def test_a_context_that_is_gone(sandbox: Sandbox) -> None:
    context = sandbox.code_interpreter.create_context()
    sandbox.code_interpreter.delete_context(context)
    with pytest.raises(DaytonaError):
        sandbox.code_interpreter.run_code("print(1)", context=context)


def test_runs_of_a_context_wait_for_each_other(sandbox: Sandbox) -> None:
    sandbox.code_interpreter.run_code("count = 0")
    code = "import time\nseen = count\ntime.sleep(0.1)\ncount = seen + 1"
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: sandbox.code_interpreter.run_code(code), range(5)))
    assert sandbox.code_interpreter.run_code("print(count)").stdout == "5\n"


def test_large_output(sandbox: Sandbox) -> None:
    assert sandbox.code_interpreter.run_code("print('x' * 1_000_000)").stdout == "x" * 1_000_000 + "\n"
