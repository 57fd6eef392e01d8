"""Sessions: shells that keep their state, and the output of their commands."""

from __future__ import annotations

import asyncio
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from daytona import (
    DaytonaConflictError,
    DaytonaError,
    DaytonaGoneError,
    DaytonaNotFoundError,
    Sandbox,
    SessionExecuteRequest,
)


@pytest.fixture()
def session(sandbox: Sandbox):
    name = f"s-{uuid.uuid4().hex[:8]}"
    sandbox.process.create_session(name)
    yield name
    try:
        sandbox.process.delete_session(name)
    except DaytonaNotFoundError:
        pass  # the test removed it


def run(sandbox: Sandbox, session: str, command: str, **more: bool):
    return sandbox.process.execute_session_command(session, SessionExecuteRequest(command=command, **more))


def wait_for_exit(sandbox: Sandbox, session: str, command: str, seconds: float = 10) -> int:
    until = time.monotonic() + seconds
    while (code := sandbox.process.get_session_command(session, command).exit_code) is None:
        assert time.monotonic() < until, "it did not end"
        time.sleep(0.02)
    return code


def test_a_command(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "echo out; echo err >&2; (exit 3)")
    assert answer.exit_code == 3 and answer.cmd_id
    assert answer.stdout == "out\n" and answer.stderr == "err\n"


def test_state_is_kept(sandbox: Sandbox, session: str) -> None:
    run(sandbox, session, "cd /usr && export KEPT='a b' && unexported=1 && f() { echo func; }")
    answer = run(sandbox, session, 'pwd; echo "$KEPT$unexported"; f')
    assert answer.stdout == "/usr\na b1\nfunc\n"


def test_a_session_starts_in_the_working_folder(sandbox: Sandbox, session: str) -> None:
    assert run(sandbox, session, "pwd").stdout == "/workspace\n"


def test_the_environment_of_the_sandbox(make) -> None:
    made = make(env_vars={"FROM_CREATE": "yes"})
    made.process.create_session("env")
    assert run(made, "env", "echo $FROM_CREATE").stdout == "yes\n"


def test_output_without_a_newline(sandbox: Sandbox, session: str) -> None:
    assert run(sandbox, session, "printf abc").stdout == "abc"
    assert run(sandbox, session, "printf def >&2").stderr == "def"


def test_a_failed_command_does_not_end_the_session(sandbox: Sandbox, session: str) -> None:
    assert run(sandbox, session, "no-such-program").exit_code == 127
    assert run(sandbox, session, "false").exit_code == 1
    assert run(sandbox, session, "echo on").stdout == "on\n"


def test_a_syntax_error_does_not_end_the_session(sandbox: Sandbox, session: str) -> None:
    assert run(sandbox, session, "echo 'unclosed").exit_code != 0
    assert run(sandbox, session, "for x in").exit_code != 0
    assert run(sandbox, session, "echo on").stdout == "on\n"


def test_many_lines_and_heredocs(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "cat <<EOF\nline $((1 + 1))\nEOF\nif true; then\n  echo yes\nfi")
    assert answer.stdout == "line 2\nyes\n"


def test_a_session_is_listed_with_its_commands(sandbox: Sandbox, session: str) -> None:
    first = run(sandbox, session, "echo 1")
    second = run(sandbox, session, "exit_code_of() { return 4; }; exit_code_of")
    listed = sandbox.process.get_session(session)
    assert listed.session_id == session
    commands = {command.id: command for command in listed.commands}
    assert commands[first.cmd_id].command == "echo 1" and commands[first.cmd_id].exit_code == 0
    assert commands[second.cmd_id].exit_code == 4
    assert session in {one.session_id for one in sandbox.process.list_sessions()}


def test_a_command_by_its_id(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "(exit 9)")
    command = sandbox.process.get_session_command(session, answer.cmd_id)
    assert (command.id, command.command, command.exit_code) == (answer.cmd_id, "(exit 9)", 9)


def test_logs_of_a_command(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "echo out; echo err >&2")
    logs = sandbox.process.get_session_command_logs(session, answer.cmd_id)
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")
    assert "out" in logs.output and "err" in logs.output


def test_an_async_command_answers_at_once(sandbox: Sandbox, session: str) -> None:
    started = time.monotonic()
    answer = run(sandbox, session, "echo begun; sleep 1.5; echo done; (exit 5)", run_async=True)
    assert time.monotonic() - started < 1
    assert answer.exit_code is None
    until = time.monotonic() + 1
    while "begun" not in (sandbox.process.get_session_command_logs(session, answer.cmd_id).stdout or ""):
        assert time.monotonic() < until, "output of a running command is not to be seen"
    assert sandbox.process.get_session_command(session, answer.cmd_id).exit_code is None
    assert wait_for_exit(sandbox, session, answer.cmd_id) == 5
    assert sandbox.process.get_session_command_logs(session, answer.cmd_id).stdout == "begun\ndone\n"


def test_following_logs(sandbox: Sandbox, session: str) -> None:
    answer = run(
        sandbox, session, "for i in 1 2 3; do echo out$i; echo err$i >&2; sleep 0.2; done", run_async=True
    )
    stdout: list[str] = []
    stderr: list[str] = []
    times: list[float] = []

    def on_stdout(text: str) -> None:
        stdout.append(text)
        times.append(time.monotonic())

    asyncio.run(
        asyncio.wait_for(
            sandbox.process.get_session_command_logs_async(session, answer.cmd_id, on_stdout, stderr.append), 10
        )
    )
    assert "".join(stdout) == "out1\nout2\nout3\n"
    assert "".join(stderr) == "err1\nerr2\nerr3\n"
    assert times[-1] - times[0] > 0.2, "as it comes, not at the end"
    assert sandbox.process.get_session_command(session, answer.cmd_id).exit_code == 0


def test_following_ends_soon_after_the_command(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "sleep 0.3", run_async=True)
    started = time.monotonic()
    asyncio.run(
        sandbox.process.get_session_command_logs_async(session, answer.cmd_id, lambda _: None, lambda _: None)
    )
    assert time.monotonic() - started < 1.5


def test_following_a_command_that_has_ended(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "echo early")
    texts: list[str] = []
    asyncio.run(
        asyncio.wait_for(
            sandbox.process.get_session_command_logs_async(session, answer.cmd_id, texts.append, lambda _: None), 5
        )
    )
    assert "".join(texts) == "early\n"


def test_partial_lines_are_seen(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "printf 'prompt> '; sleep 2", run_async=True)
    until = time.monotonic() + 1
    while sandbox.process.get_session_command_logs(session, answer.cmd_id).stdout != "prompt> ":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_input(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, 'read -r line; echo "got: $line"', run_async=True)
    time.sleep(0.2)
    sandbox.process.send_session_command_input(session, answer.cmd_id, "hello there")
    assert wait_for_exit(sandbox, session, answer.cmd_id) == 0
    assert "got: hello there\n" in sandbox.process.get_session_command_logs(session, answer.cmd_id).stdout


def test_input_without_echo(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, 'read -r line; echo "got: $line"', run_async=True, suppress_input_echo=True)
    time.sleep(0.2)
    sandbox.process.send_session_command_input(session, answer.cmd_id, "quiet")
    wait_for_exit(sandbox, session, answer.cmd_id)
    assert sandbox.process.get_session_command_logs(session, answer.cmd_id).stdout == "got: quiet\n"


def test_input_for_a_command_that_has_ended(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "true")
    with pytest.raises(DaytonaGoneError):
        sandbox.process.send_session_command_input(session, answer.cmd_id, "late")


def test_exec_replaces_the_shell_and_the_session_lives(sandbox: Sandbox, session: str) -> None:
    """As SUNA does with supervisord."""
    answer = run(sandbox, session, "exec sh -c 'echo replaced; sleep 30'", run_async=True)
    until = time.monotonic() + 3
    while sandbox.process.get_session_command_logs(session, answer.cmd_id).stdout != "replaced\n":
        assert time.monotonic() < until
        time.sleep(0.05)
    assert session in {one.session_id for one in sandbox.process.list_sessions()}
    assert sandbox.process.get_session_command(session, answer.cmd_id).exit_code is None


def test_delete_ends_what_the_session_runs(sandbox: Sandbox, session: str) -> None:
    run(sandbox, session, "sleep 4321 & sleep 4322", run_async=True)
    time.sleep(0.3)
    assert sandbox.process.exec("pgrep -f 'sleep 432[12]' | wc -l").result.strip() == "2"
    sandbox.process.delete_session(session)
    assert session not in {one.session_id for one in sandbox.process.list_sessions()}
    until = time.monotonic() + 3
    while sandbox.process.exec("pgrep -f 'sleep 432[12]'").exit_code == 0:
        assert time.monotonic() < until, "processes of the session live on"
        time.sleep(0.1)


def test_a_taken_name(sandbox: Sandbox, session: str) -> None:
    with pytest.raises(DaytonaConflictError) as raised:
        sandbox.process.create_session(session)
    assert raised.value.status_code == 409


def test_no_such_session(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaNotFoundError) as raised:
        sandbox.process.get_session("none")
    assert "session" in str(raised.value).lower() and "not found" in str(raised.value).lower()
    with pytest.raises(DaytonaNotFoundError):
        run(sandbox, "none", "echo")
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.delete_session("none")


def test_no_such_command(sandbox: Sandbox, session: str) -> None:
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.get_session_command(session, "none")
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.get_session_command_logs(session, "none")


def test_a_large_output_is_whole(sandbox: Sandbox, session: str) -> None:
    answer = run(sandbox, session, "seq 50000")
    assert answer.stdout == "".join(f"{n}\n" for n in range(1, 50001))


def test_exit_ends_the_session_and_tells_the_code(sandbox: Sandbox, session: str) -> None:
    """The shell is gone: the command still has its code, and the next one is refused or runs."""
    answer = run(sandbox, session, "exit 6")
    assert answer.exit_code == 6
    try:
        assert run(sandbox, session, "echo again").stdout == "again\n"
    except DaytonaError as error:
        assert error.status_code in (404, 409, 410)


def test_10_sessions_in_parallel(sandbox: Sandbox) -> None:
    def one(number: int) -> str:
        name = f"parallel-{number}"
        sandbox.process.create_session(name)
        run(sandbox, name, f"N={number}; sleep 0.2")
        answer = run(sandbox, name, "echo $N").stdout
        sandbox.process.delete_session(name)
        return answer

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(one, range(10))) == [f"{n}\n" for n in range(10)]


def test_the_entrypoint_session(sandbox: Sandbox) -> None:
    """The image's entrypoint is not run here, so it has no output."""
    assert sandbox.process.get_entrypoint_session().session_id
    logs = sandbox.process.get_entrypoint_logs()
    assert (logs.stdout or "") == "" and (logs.stderr or "") == ""
