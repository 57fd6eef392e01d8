"""A sandbox with an application inside, seen from outside."""

from __future__ import annotations

import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple
from urllib.parse import urlsplit

import httpx
import pytest

from conftest import Server

#: The application's port.
PORT = 3000
KEY = "0123456789abcdef-right"


class Previewed:
    """A sandbox made by Daytona's protocol, and the ways to its ports."""

    def __init__(self, server: Server, public: bool = True, key: str = "any") -> None:
        self.server = server
        self.host = urlsplit(server.url).netloc
        self.api = httpx.Client(
            base_url=f"{server.url}/api", headers={"Authorization": f"Bearer {key}"}, timeout=60
        )
        made = self.api.post("/sandbox", json={"public": public})
        made.raise_for_status()
        self.id = made.json()["id"]

    def start_app(self, port: int = PORT) -> None:
        app = (Path(__file__).parent / "app.py").read_bytes()
        toolbox = f"{self.server.url}/toolbox/{self.id}"
        self.api.post(f"{toolbox}/files/upload", params={"path": "/tmp/app.py"}, files={"file": app}).raise_for_status()
        command = f"sh -c 'nohup python3 /tmp/app.py {port} >/tmp/app.log 2>&1 &'"
        self.api.post(f"{toolbox}/process/execute", json={"command": command}).raise_for_status()
        deadline = time.monotonic() + 20
        while self.get("/counts", port, headers=self.auth).status_code != 200:
            assert time.monotonic() < deadline, "the application does not start"
            time.sleep(0.1)

    @property
    def auth(self) -> Dict[str, str]:
        return {"Authorization": self.api.headers["Authorization"]}

    def url(self, path: str, port: int = PORT, key: Optional[str] = None) -> str:
        return f"{self.server.url}/preview/{key or self.id}/{port}{path}"

    def host_of(self, port: int = PORT, key: Optional[str] = None) -> str:
        """The host that means the port, however it is resolved."""
        return f"{port}-{key or self.id}.localhost:{urlsplit(self.server.url).port}"

    def get(self, path: str, port: int = PORT, **more: Any) -> httpx.Response:
        return httpx.get(self.url(path, port), timeout=30, **more)

    def by_host(self, method: str, path: str, port: int = PORT, key: Optional[str] = None, **more: Any) -> httpx.Response:
        headers = {"Host": self.host_of(port, key), **more.pop("headers", {})}
        return httpx.request(method, f"{self.server.url}{path}", headers=headers, timeout=30, **more)

    def link(self, port: int = PORT) -> Dict[str, Any]:
        return self.api.get(f"/sandbox/{self.id}/ports/{port}/preview-url").raise_for_status().json()

    def signed(self, port: int = PORT, seconds: Optional[int] = None) -> Dict[str, Any]:
        query = {} if seconds is None else {"expiresInSeconds": seconds}
        return self.api.get(f"/sandbox/{self.id}/ports/{port}/signed-preview-url", params=query).raise_for_status().json()

    def connect(self) -> socket.socket:
        address = urlsplit(self.server.url)
        return socket.create_connection((address.hostname, address.port), timeout=20)

    def raw(self, text: bytes) -> bytes:
        """Everything that is answered to these bytes."""
        with self.connect() as stream:
            stream.sendall(text)
            answer = b""
            while piece := stream.recv(65536):
                answer += piece
            return answer

    def counts(self) -> Dict[str, int]:
        return self.get("/counts", headers=self.auth).json()

    def delete(self) -> None:
        self.api.delete(f"/sandbox/{self.id}")
        self.api.close()


def seen(response: httpx.Response) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """What the application saw, and its headers."""
    assert response.status_code == 200, response.text
    told = response.json()
    return told, dict(told["headers"])


@pytest.fixture(scope="session")
def public(server: Server) -> Iterator[Previewed]:
    previewed = Previewed(server)
    previewed.start_app()
    yield previewed
    previewed.delete()


@pytest.fixture(scope="session")
def locked() -> Iterator[Server]:
    """A server that wants a key."""
    running = Server(env={"SANDBOXAI_SERVER_API_KEYS": KEY})
    yield running
    running.stop()
    running.check_log()


@pytest.fixture(scope="session")
def private(locked: Server) -> Iterator[Previewed]:
    previewed = Previewed(locked, public=False, key=KEY)
    previewed.start_app()
    yield previewed
    previewed.delete()
