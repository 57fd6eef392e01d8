#!/usr/bin/env python3
"""Answers what the benchmark's Daytona SDK asks with canned, valid bodies and does
nothing: the floor that the SDK itself sets. Prints its port; ends with its parent."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Dict, Tuple

SANDBOX = {
    "id": "stub", "organizationId": "stub", "name": "stub", "user": "root", "env": {}, "labels": {},
    "public": False, "networkBlockAll": False, "kvm": False, "target": "local", "cpu": 1, "gpu": 0,
    "memory": 1, "disk": 3, "state": "started",
}  # fmt: skip
EXECUTED = {"exitCode": 0, "result": "hi\n", "artifacts": {"charts": []}}
SESSION_COMMAND = {"cmdId": "c", "output": "hi\n", "stdout": "hi\n", "stderr": "", "exitCode": 0}
#: Method and end of the path, status, body.
ANSWERS = (
    ("POST", r"/api/sandbox", 200, SANDBOX),
    ("GET", r"/api/sandbox/stub", 200, SANDBOX),
    ("DELETE", r"/api/sandbox/stub", 200, SANDBOX),
    ("POST", r"/process/execute", 200, EXECUTED),
    ("POST", r"/process/code-run", 200, EXECUTED),
    ("POST", r"/files/bulk-upload", 200, {"files": []}),
    ("POST", r"/process/session", 201, {}),
    ("POST", r"/process/session/[^/]+/exec", 200, SESSION_COMMAND),
    ("DELETE", r"/process/session/[^/]+", 204, None),
)


async def read_body(reader: asyncio.StreamReader, headers: Dict[str, str]) -> None:
    """Reads the body off the connection and drops it."""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
        return
    left = int(headers.get("content-length", 0))
    while left:
        left -= len(await reader.read(min(left, 1 << 20)))


def answer(method: str, path: str, host: str) -> Tuple[int, bytes]:
    for verb, pattern, status, body in ANSWERS:
        if verb == method and re.search(pattern + "$", path):
            if body is SANDBOX:
                body = {**SANDBOX, "toolboxProxyUrl": f"http://{host}/toolbox"}
            return status, b"" if body is None else json.dumps(body).encode()
    return 404, b"{}"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            method, target, _ = line.decode().split(" ", 2)
            headers = {}
            while (header := await reader.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode().partition(":")
                headers[name.lower()] = value.strip()
            await read_body(reader, headers)
            status, body = answer(method, target.partition("?")[0], headers.get("host", ""))
            head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\n"
            head += "\r\n" if status == 204 else f"Content-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
