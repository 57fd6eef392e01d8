"""What SUNA's backend does with the SDK, call by call."""

from __future__ import annotations

import asyncio
import base64
import importlib
import os
import socket
import time
import uuid
from typing import Any, Callable, Dict, Tuple
from urllib.parse import urlsplit

from conformance.suna.conftest import generation

sdk: Any = importlib.import_module("daytona_sdk" if generation() == "0.21.0" else "daytona")
OLD = generation() == "0.21.0"
SNAPSHOT = "kortix/suna:0.1.3.24"
SUPERVISORD = "exec /usr/bin/supervisord -n -c /etc/supervisor/conf.d/supervisord.conf"


def environment(password: str) -> Dict[str, str]:
    """The eleven variables that SUNA gives each sandbox."""
    return {
        "CHROME_PERSISTENT_SESSION": "true",
        "RESOLUTION": "1048x768x24",
        "RESOLUTION_WIDTH": "1048",
        "RESOLUTION_HEIGHT": "768",
        "VNC_PASSWORD": password,
        "ANONYMIZED_TELEMETRY": "false",
        "CHROME_PATH": "",
        "CHROME_USER_DATA": "",
        "CHROME_DEBUGGING_PORT": "9222",
        "CHROME_DEBUGGING_HOST": "localhost",
        "CHROME_CDP": "",
    }


def client(server_url: str) -> Any:
    """As SUNA on the same machine: by a name, below which previews get names of their own."""
    server_url = server_url.replace("127.0.0.1", "localhost")
    return sdk.AsyncDaytona(sdk.DaytonaConfig(api_key="suna", api_url=f"{server_url}/api", target="us"))


async def create(daytona: Any, project: str, password: str = "p", auto_stop: int = 15) -> Any:
    return await daytona.create(
        sdk.CreateSandboxFromSnapshotParams(
            snapshot=SNAPSHOT,
            public=True,
            labels={"id": project},
            env_vars=environment(password),
            auto_stop_interval=auto_stop,
            auto_archive_interval=30,
        )
    )


async def session_command(sandbox: Any, session: str, command: str, var_async: bool = False) -> Any:
    return await sandbox.process.execute_session_command(
        session, sdk.SessionExecuteRequest(command=command, var_async=var_async, cwd="/workspace"), timeout=30
    )


async def logs(sandbox: Any, session: str, command: str) -> str:
    """The text of a command's output, as this generation of SUNA reads it."""
    answer = await sandbox.process.get_session_command_logs(session_id=session, command_id=command)
    if OLD:
        assert isinstance(answer, str)
        return answer
    return answer.output


async def raw_command(sandbox: Any, command: str) -> Tuple[int, str]:
    """One command in a session of its own: four calls."""
    session = f"cmd_{uuid.uuid4().hex}"
    await sandbox.process.create_session(session)
    try:
        answer = await session_command(sandbox, session, command)
        return answer.exit_code, await logs(sandbox, session, answer.cmd_id)
    finally:
        await sandbox.process.delete_session(session)


async def tmux_command(sandbox: Any, name: str, command: str, seconds: float = 20) -> str:
    """The shell tool of 2025: everything is typed into tmux, and read off its screen."""
    _, there = await raw_command(sandbox, f"tmux has-session -t {name} 2>/dev/null || echo 'not_exists'")
    if "not_exists" in there:
        await raw_command(sandbox, f"tmux new-session -d -s {name} -c /workspace")
    marker = f"COMMAND_DONE_{uuid.uuid4().hex[:8]}"
    typed = f"{command} ; echo {marker}".replace('"', '\\"')
    await raw_command(sandbox, f'tmux send-keys -t {name} "{typed}" Enter')
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        _, shown = await raw_command(sandbox, f"tmux capture-pane -t {name} -p -S - -E -")
        if any(line.strip() == marker for line in shown.splitlines()):
            return shown
    raise AssertionError(f"{marker} was not shown")


async def pty_command(sandbox: Any, command: str, seconds: float = 30, pause: float = 0.1) -> Tuple[str, float]:
    """The shell tool of 2026: types into a terminal, and waits for the second sight of
    a marker; the first is the echo of what was typed."""
    marker = f"__CMD_DONE_{uuid.uuid4().hex[:8]}__"
    shown = bytearray()
    done = asyncio.Event()

    async def on_data(data: bytes) -> None:
        shown.extend(data)
        if shown.count(marker.encode()) >= 2:
            done.set()

    handle = await sandbox.process.create_pty_session(
        f"pty_{uuid.uuid4().hex[:8]}", on_data=on_data, pty_size=sdk.PtySize(cols=120, rows=40)
    )
    try:
        await handle.send_input("cd /workspace\n")
        await asyncio.sleep(pause)
        started = time.monotonic()
        await handle.send_input(f"{command}; echo '{marker}' $?\n")
        await asyncio.wait_for(done.wait(), seconds)
        return shown.decode(errors="replace"), time.monotonic() - started
    finally:
        await handle.kill()


async def until(what: Callable[[], Any], seconds: float, title: str) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        answer = await what()
        if answer:
            return answer
        assert time.monotonic() < deadline, title
        await asyncio.sleep(0.2)


def websocket_banner(url: str) -> bytes:
    """The first bytes that a VNC server sends through noVNC's WebSocket at a preview.
    The page opens it at the root of the host that it came from."""
    parts = urlsplit(url)
    port = parts.port or 80
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            (
                f"GET /websockify HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Protocol: binary\r\nOrigin: https://suna.example\r\n\r\n"
            ).encode()
        )
        received = b""
        while b"RFB 003" not in received:
            data = connection.recv(4096)
            assert data, received
            received += data
        assert received.startswith(b"HTTP/1.1 101 "), received
        return received
