"""Runs Daytona's adapter over the SDK of the interpreter that runs this, and prints what it saw as JSON.

A program and no test: the test environment has no such SDK (``test_backends.py`` starts it).
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, Dict, List

from sandboxai.suna.daytona_adapter import DaytonaClient
from sandboxai.suna.daytona_aio import AsyncDaytonaClient

ODD = "a b/-x$'.txt"


def one_workspace(workspace: str) -> Dict[str, Any]:
    client, again = DaytonaClient(workspace), DaytonaClient(workspace)
    client.connect()
    try:
        written = client.write_file(ODD, "no newline")["success"]
        again.connect()
        return {
            "written": written,
            "read": client.read_file(ODD)["content"],
            "listed": [file["name"] for file in client.list_files("a b")["files"]],
            "not there": client.list_files("nope")["success"],
            "climbing": client.write_file("../../etc/x", "y")["success"],
            "exit code": client.execute_shell_command("exit 4")["exit_code"],
            "python": client.execute_code("print(1 + 1)")["output"].strip(),
            "python that raises": client.execute_code("raise ValueError(1)")["success"],
            "javascript": client.execute_code("console.log(3)", "javascript")["output"].strip(),
            "another client": again.sandbox.id == client.sandbox.id and again.read_file(ODD)["success"],
            "removed": client.delete_file("a b", recursive=True)["success"],
            "removed twice": client.delete_file("a b", recursive=True)["success"],
        }
    finally:
        client.delete()


def made_at_once(workspace: str) -> Dict[str, Any]:
    """Clients that connect at the same time come to one sandbox."""
    ids: List[str] = []

    def connect() -> None:
        client = DaytonaClient(workspace)
        client.connect()
        ids.append(client.sandbox.id)

    threads = [threading.Thread(target=connect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def end() -> List[bool]:
        client = AsyncDaytonaClient(workspace)
        await client.connect()
        lives = [await client.is_alive()]
        await client.delete()
        lives.append(await client.is_alive())
        await client.disconnect()
        return lives

    return {"clients": len(ids), "sandboxes": len(set(ids)), "alive, deleted": asyncio.run(end())}


if __name__ == "__main__":
    import sys

    print(json.dumps({**one_workspace(f"{sys.argv[1]}-one"), **made_at_once(f"{sys.argv[1]}-many")}))
