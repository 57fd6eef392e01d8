"""Terminals."""

from __future__ import annotations

import threading
import time
import uuid

import pytest
from daytona import DaytonaConflictError, DaytonaError, DaytonaNotFoundError, PtySize, Sandbox


@pytest.fixture()
def name() -> str:
    return f"pty-{uuid.uuid4().hex[:8]}"


class Screen:
    """Collects what a terminal shows."""

    def __init__(self, handle) -> None:
        self.handle = handle
        self.data = b""
        self.result = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        def keep(data: bytes) -> None:
            self.data += data

        self.result = self.handle.wait(on_data=keep)

    def until(self, text: str, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while text.encode() not in self.data:
            assert time.monotonic() < end, f"{text!r} is not shown: {self.data!r}"
            time.sleep(0.01)

    def ended(self, seconds: float = 10):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"the terminal has not ended: {self.data!r}"
        return self.result


@pytest.fixture()
def terminal(sandbox: Sandbox, name: str):
    handle = sandbox.process.create_pty_session(name, pty_size=PtySize(rows=30, cols=100))
    yield handle
    handle.disconnect()
    try:
        sandbox.process.kill_pty_session(name)
    except DaytonaError:
        pass  # it has ended


def test_a_command(terminal) -> None:
    screen = Screen(terminal)
    terminal.send_input("echo $((40 + 2))-shown\n")
    screen.until("42-shown")


def test_exit_code(terminal) -> None:
    screen = Screen(terminal)
    terminal.send_input("exit 0\n")
    assert screen.ended().exit_code == 0
    assert not terminal.is_connected()


def test_exit_code_that_is_not_zero(terminal) -> None:
    screen = Screen(terminal)
    terminal.send_input("exit 42\n")
    assert screen.ended().exit_code == 42


def test_size(terminal) -> None:
    screen = Screen(terminal)
    terminal.send_input("stty size\n")
    screen.until("30 100")


def test_resize(sandbox: Sandbox, terminal) -> None:
    screen = Screen(terminal)
    info = terminal.resize(PtySize(rows=50, cols=150))
    assert (info.rows, info.cols) == (50, 150)
    terminal.send_input("stty size\n")
    screen.until("50 150")


def test_it_is_a_terminal_with_echo_and_colours(terminal) -> None:
    screen = Screen(terminal)
    terminal.send_input("test -t 0 && test -t 1 && echo is-''tty; echo $TERM\n")
    screen.until("is-tty")
    screen.until("xterm")
    assert b"test -t 0" in screen.data, "what is typed is echoed"


def test_ctrl_c(terminal) -> None:
    screen = Screen(terminal)
    terminal.send_input("sleep 100; echo code-$?\n")
    time.sleep(0.5)
    terminal.send_input("\x03")
    terminal.send_input("echo after-$((1 + 1))\n")
    screen.until("after-2", 5)


def test_cwd_and_envs(sandbox: Sandbox, name: str) -> None:
    handle = sandbox.process.create_pty_session(name, cwd="/usr/lib", envs={"MARK": "of env"})
    screen = Screen(handle)
    handle.send_input("pwd; echo \"[$MARK]\"; exit\n")
    screen.ended()
    assert b"/usr/lib\r\n" in screen.data and b"[of env]\r\n" in screen.data


def test_the_prompt_comes_before_connected(sandbox: Sandbox, name: str) -> None:
    """A caller types at once. Typed before the prompt, a line would be echoed twice: by
    the kernel, and by the shell. SUNA counts echoes, see docs/protocols/daytona.md."""
    sandbox.process.exec("cp ~/.bashrc ~/.bashrc.kept 2>/dev/null; echo 'sleep 0.5' >> ~/.bashrc")
    try:
        handle = sandbox.process.create_pty_session(name)
        screen = Screen(handle)
        handle.send_input("sleep 0.3; echo done-$((1 + 1))\n")
        screen.until("done-2")
        assert screen.data.count(b"echo done-$") == 1, screen.data
        handle.kill()
    finally:
        sandbox.process.exec("rm ~/.bashrc; mv ~/.bashrc.kept ~/.bashrc 2>/dev/null")


def test_kill(sandbox: Sandbox, terminal, name: str) -> None:
    screen = Screen(terminal)
    terminal.send_input("sleep 5432\n")
    time.sleep(0.3)
    terminal.kill()
    screen.ended()
    assert sandbox.process.exec("pgrep -f 'sleep 543[2]'").exit_code == 1
    assert name not in {info.id for info in sandbox.process.list_pty_sessions() if info.active}


def test_list_and_info(sandbox: Sandbox, terminal, name: str) -> None:
    assert name in {info.id for info in sandbox.process.list_pty_sessions()}
    info = sandbox.process.get_pty_session_info(name)
    assert (info.id, info.rows, info.cols, info.active) == (name, 30, 100, True)
    assert info.cwd == "/workspace"


def test_connect_again(sandbox: Sandbox, terminal, name: str) -> None:
    Screen(terminal)
    terminal.send_input("MINE=kept\n")
    time.sleep(0.2)
    terminal.disconnect()
    again = sandbox.process.connect_pty_session(name)
    screen = Screen(again)
    again.send_input("echo [$MINE]\n")
    screen.until("[kept]\r\n")
    again.disconnect()


def test_a_taken_name(sandbox: Sandbox, terminal, name: str) -> None:
    with pytest.raises(DaytonaConflictError):
        sandbox.process.create_pty_session(name)


def test_nothing_to_connect_to(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaError):
        sandbox.process.connect_pty_session("none")
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.get_pty_session_info("none")
    with pytest.raises(DaytonaNotFoundError):
        sandbox.process.kill_pty_session("none")


def test_much_output_is_whole(terminal) -> None:
    screen = Screen(terminal)
    terminal.send_input("stty -echo -opost; seq 100000; exit\n")
    screen.ended(30)
    assert b"\n99999\n100000\n" in screen.data
    assert b"\n50000\n50001\n" in screen.data
