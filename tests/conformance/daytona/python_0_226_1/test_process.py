"""Commands and code: ``exec`` and ``code_run``."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from daytona import (
    BarChart,
    CodeRunParams,
    CreateSandboxFromSnapshotParams,
    Daytona,
    DaytonaBadRequestError,
    DaytonaTimeoutError,
    LineChart,
    Sandbox,
)
from daytona_toolbox_api_client.exceptions import ApiException


def test_exec(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("echo hello")
    assert (answer.exit_code, answer.result) == (0, "hello\n")
    assert answer.artifacts and answer.artifacts.stdout == "hello\n"


@pytest.mark.parametrize("code", [1, 3, 127, 255])
def test_exit_codes(sandbox: Sandbox, code: int) -> None:
    assert sandbox.process.exec(f"exit {code}").exit_code == code


def test_a_command_that_is_not_there(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("no-such-program --help")
    assert answer.exit_code == 127 and "not found" in answer.result


def test_a_signal_gives_128_and_its_number(sandbox: Sandbox) -> None:
    assert sandbox.process.exec("kill -9 $$").exit_code in (137, -1)
    assert sandbox.process.exec("sh -c 'kill -9 $$'").exit_code == 137


def test_stdout_and_stderr_are_merged_in_order(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("echo 1; echo 2 >&2; echo 3; echo 4 >&2")
    assert answer.result == "1\n2\n3\n4\n"


def test_shell_syntax(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("for i in a b; do echo \"$i\" | tr a-z A-Z; done && (cd / && pwd) || echo no")
    assert answer.result == "A\nB\n/\n"


def test_a_script_of_many_lines(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("cat <<'END'\n  kept $HOME `as` \"is\"\nEND\necho after")
    assert answer.result == '  kept $HOME `as` "is"\nafter\n'


def test_bash_is_the_shell(sandbox: Sandbox) -> None:
    assert sandbox.process.exec("[[ a == a ]] && echo ${BASH_VERSION:+bash}").result == "bash\n"


def test_cwd(sandbox: Sandbox) -> None:
    assert sandbox.process.exec("pwd", cwd="/usr/lib").result == "/usr/lib\n"


def test_a_cwd_that_is_not_there(sandbox: Sandbox) -> None:
    """The command is not run elsewhere."""
    try:
        answer = sandbox.process.exec("echo ran", cwd="/no/such/folder")
    except DaytonaBadRequestError as error:
        assert "/no/such/folder" in str(error)
    else:
        assert answer.exit_code != 0 and "ran" not in answer.result


def test_env(sandbox: Sandbox) -> None:
    value = "spaces  'quotes' \"double\" $dollar\nline ünï"
    answer = sandbox.process.exec('printf %s "$VALUE"', env={"VALUE": value})
    assert answer.result == value
    assert sandbox.process.exec('echo "[$VALUE]"').result == "[]\n", "only for that command"


def test_an_empty_command_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaBadRequestError):
        sandbox.process.exec("")


def test_timeout_ends_the_command(sandbox: Sandbox) -> None:
    started = time.monotonic()
    with pytest.raises(DaytonaTimeoutError) as raised:
        sandbox.process.exec("sleep 31; echo late", timeout=1)
    assert time.monotonic() - started < 5
    assert raised.value.status_code == 408
    assert sandbox.process.exec("pgrep -f 'sleep 3[1]'").exit_code == 1, "and what it started"


def test_stdin_is_empty(sandbox: Sandbox) -> None:
    """A program that asks gets the end of its input, and does not hang."""
    assert sandbox.process.exec("cat; echo end", timeout=5).result == "end\n"


def test_a_background_process_does_not_hold_the_answer(sandbox: Sandbox) -> None:
    started = time.monotonic()
    answer = sandbox.process.exec("sleep 30 & echo started", timeout=20)
    assert answer.result == "started\n"
    assert time.monotonic() - started < 5


def test_a_background_process_lives_on(sandbox: Sandbox) -> None:
    sandbox.process.exec("nohup sleep 1234 >/dev/null 2>&1 &")
    assert sandbox.process.exec("pgrep -f 'sleep 123[4]'").exit_code == 0
    sandbox.process.exec("pkill -f 'sleep 123[4]'")


def test_large_output(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("head -c 300000 /dev/zero | tr '\\0' x")
    assert answer.result == "x" * 300000


def test_output_that_is_no_utf8(sandbox: Sandbox) -> None:
    answer = sandbox.process.exec("printf 'a\\377b'")
    assert answer.exit_code == 0
    assert answer.result.startswith("a") and answer.result.endswith("b")


def test_50_commands_at_once(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda n: sandbox.process.exec(f"echo {n}; exit {n % 5}"), range(50)))
    assert [(a.result, a.exit_code) for a in answers] == [(f"{n}\n", n % 5) for n in range(50)]


def test_what_a_sandbox_can_do_to_itself(make) -> None:
    """Killing all of its processes does not lose the sandbox."""
    made = make()
    made.process.exec("kill -9 -1; true")
    assert made.process.exec("echo back").result == "back\n"


def test_code_run(sandbox: Sandbox) -> None:
    answer = sandbox.process.code_run("import sys\nprint(6 * 7, sys.version_info[0])")
    assert (answer.exit_code, answer.result) == (0, "42 3\n")


def test_code_run_argv_and_env(sandbox: Sandbox) -> None:
    code = "import os, sys\nprint(sys.argv[1:], os.environ['MODE'])"
    answer = sandbox.process.code_run(code, CodeRunParams(argv=["a b", "--c"], env={"MODE": "test"}))
    assert answer.result == "['a b', '--c'] test\n"


def test_code_run_of_an_error(sandbox: Sandbox) -> None:
    answer = sandbox.process.code_run("def f():\n    return 1 / 0\nf()")
    assert answer.exit_code == 1
    assert "ZeroDivisionError: division by zero" in answer.result


def test_code_run_exit_code(sandbox: Sandbox) -> None:
    assert sandbox.process.code_run("import sys; print('x'); sys.exit(7)").exit_code == 7


def test_code_run_keeps_no_state(sandbox: Sandbox) -> None:
    sandbox.process.code_run("kept = 1")
    assert "NameError" in sandbox.process.code_run("print(kept)").result


def test_code_run_timeout(sandbox: Sandbox) -> None:
    started = time.monotonic()
    # This method alone does not turn the answer into an error of the SDK's own.
    with pytest.raises(ApiException) as raised:
        sandbox.process.code_run("import time\nwhile True: time.sleep(1)", timeout=1)
    assert raised.value.status == 408
    assert time.monotonic() - started < 5


def test_code_run_gives_charts(sandbox: Sandbox) -> None:
    code = """
import matplotlib.pyplot as plt
plt.plot([1, 2, 3], [4, 5, 6], label="line")
plt.title("Ours")
plt.xlabel("x"); plt.ylabel("y")
plt.show()
print("after")
"""
    answer = sandbox.process.code_run(code)
    assert answer.result == "after\n"
    assert answer.artifacts and answer.artifacts.charts
    (chart,) = answer.artifacts.charts
    assert isinstance(chart, LineChart)
    assert (chart.title, chart.x_label, chart.y_label) == ("Ours", "x", "y")
    assert [list(point) for point in chart.elements[0].points] == [[1, 4], [2, 5], [3, 6]]
    import base64

    assert base64.b64decode(chart.png).startswith(b"\x89PNG")


def test_code_run_gives_bar_charts(sandbox: Sandbox) -> None:
    code = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [3, 7])\nplt.show()"
    (chart,) = sandbox.process.code_run(code).artifacts.charts
    assert isinstance(chart, BarChart)
    assert [(element.label, float(element.value)) for element in chart.elements] == [("a", 3.0), ("b", 7.0)]


@pytest.mark.parametrize(
    ("language", "code", "expected"),
    [
        ("javascript", "console.log([1, 2].map(n => n * 2).join())", "2,4\n"),
        ("typescript", "const n: number = 41; console.log(n + 1)", "42\n"),
    ],
)
def test_code_run_in_other_languages(daytona: Daytona, language: str, code: str, expected: str) -> None:
    made = daytona.create(CreateSandboxFromSnapshotParams(language=language))
    try:
        answer = made.process.code_run(code)
        assert (answer.exit_code, answer.result) == (0, expected)
        broken = made.process.code_run("throw new Error('mine')")
        assert broken.exit_code == 1 and "mine" in broken.result
    finally:
        made.delete()
