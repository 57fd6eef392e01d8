"""An application inside a sandbox that shows what reaches it, and answers in odd ways.

It speaks HTTP by hand, so that the tests know every byte of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import Dict, List, Tuple

PORT = int(sys.argv[1])
#: How many connections are open now, and how many visitors of ``/hang`` went away.
COUNTS = {"open": 0, "left": 0}


async def read_head(reader: asyncio.StreamReader) -> Tuple[str, List[Tuple[str, str]]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    pairs = [line.split(":", 1) for line in lines]
    return first, [(name.lower(), value.strip()) for name, value in pairs]


async def read_body(reader: asyncio.StreamReader, headers: Dict[str, str]) -> Tuple[int, str, Dict[str, str]]:
    """Length, digest and trailers."""
    digest, length, trailers = hashlib.sha256(), 0, {}
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            digest.update(await reader.readexactly(size))
            length += size
            await reader.readline()
        while (line := (await reader.readline()).decode().strip()) != "":
            name, value = line.split(":", 1)
            trailers[name.lower()] = value.strip()
    else:
        left = int(headers.get("content-length", 0))
        while left:
            piece = await reader.read(min(left, 65536))
            if not piece:
                break
            digest.update(piece)
            length += len(piece)
            left -= len(piece)
    return length, digest.hexdigest(), trailers


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    first, pairs = await read_head(reader)
    headers = dict(pairs)
    method, target, _ = first.split(" ", 2)
    path = target.split("?")[0]

    def send(status: str, body: bytes = b"", *lines: str) -> None:
        head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *lines]
        writer.write(("\r\n".join(head) + "\r\n\r\n").encode() + (b"" if method == "HEAD" else body))

    if path == "/echo":
        length, digest, trailers = await read_body(reader, headers)
        seen = {"line": first, "headers": pairs, "length": length, "sha256": digest, "trailers": trailers}
        send("200 OK", json.dumps(seen).encode(), "Content-Type: application/json")
    elif path == "/sse":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for number in range(3):
            writer.write(f"data: {number}\n\n".encode())
            await writer.drain()
            await asyncio.sleep(0.5)
    elif path == "/slow":
        await asyncio.sleep(float(target.split("=")[1]))
        send("200 OK", b"late")
    elif path == "/trailers":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        writer.write(b"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n")
    elif path == "/large":
        size = int(target.split("=")[1])
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode())
        while size > 0:
            writer.write(b"x" * min(size, 65536))
            size -= 65536
            await writer.drain()
    elif path == "/hang":
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbegun")
        await reader.read()
        COUNTS["left"] += 1
    elif path == "/silent":
        await reader.read()
        COUNTS["left"] += 1
    elif path == "/counts":
        send("200 OK", json.dumps(COUNTS).encode())
    elif path == "/moved":
        send("302 Found", b"", f"Location: http://localhost:{PORT}/echo", "Set-Cookie: a=b; Domain=localhost; Path=/")
    elif path == "/page":
        send("200 OK", b"<p>a page</p>", "Content-Type: text/html")
    elif path == "/own-cors":
        send("204 No Content", b"", "Access-Control-Allow-Origin: https://only.example")
    elif path == "/garbage":
        writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
    elif path == "/broken":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    elif path == "/reject":
        send("413 Content Too Large", b"no")
    elif path == "/upgrade":
        name = headers.get("upgrade", "none")
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {name}\r\n\r\n".encode())
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        COUNTS["left"] += 1
    else:
        send("404 Not Found", b"no such page here")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    COUNTS["open"] += 1
    try:
        await answer(reader, writer)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError, ValueError):
        pass
    finally:
        COUNTS["open"] -= 1
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", PORT)
    async with server:
        await server.serve_forever()


asyncio.run(main())
