"""What sandboxes of an engine reach: the internet, and nothing that is private.

A network namespace plays the internet, and a private network behind it.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import Iterator

import httpx
import pytest

from conftest import Server
from docker_runtime.conftest import IMAGE, Engine  # type: ignore[import-not-found]
from docker_runtime.test_docker import settings  # type: ignore[import-not-found]
from sandboxai import Sandbox

#: An address for documentation, which no network uses: the internet of this test.
PUBLIC, HOST_OUTSIDE = "203.0.113.2", "203.0.113.1"
PRIVATE = "10.99.0.2"
SERVE = "import http.server as h; h.ThreadingHTTPServer(('0.0.0.0', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
PORT, HOST_PORT = 18480, 18481


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def outside() -> Iterator[None]:
    """Web servers on the host, on the internet and in a private network."""
    space, link = f"out-{uuid.uuid4().hex[:8]}", f"o{uuid.uuid4().hex[:8]}"
    servers = []
    ip("netns", "add", space)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("addr", "add", f"{HOST_OUTSIDE}/30", "dev", link)
        ip("link", "set", link, "up")
        for address in (f"{PUBLIC}/30", f"{PRIVATE}/32"):
            ip("-n", space, "addr", "add", address, "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", space, "route", "add", "default", "via", HOST_OUTSIDE)
        ip("route", "add", f"{PRIVATE}/32", "via", PUBLIC)
        inside = ["ip", "netns", "exec", space, sys.executable, "-c", SERVE.format(port=PORT)]
        servers.append(subprocess.Popen(inside, cwd="/proc", stderr=subprocess.DEVNULL))
        servers.append(subprocess.Popen([sys.executable, "-c", SERVE.format(port=HOST_PORT)], cwd="/proc", stderr=subprocess.DEVNULL))
        yield
    finally:
        for server in servers:
            server.kill()
            server.wait()
        ip("netns", "del", space)
        subprocess.run(["nft", "delete", "table", "inet", "sandboxai_bridge"], capture_output=True)


@pytest.fixture(scope="module")
def open_server(engine: Engine) -> Iterator[Server]:
    running = Server(env={**settings(engine), "SANDBOXAI_SANDBOX_NETWORK": "open"})
    yield running
    running.stop()
    running.check_log()


def reaches(box: Sandbox, address: str, port: int) -> bool:
    # Servers need a moment to start; a refused connection is refused again.
    asked = f"for i in 1 2 3; do printf 'GET /version HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 3 {address} {port} 2>/dev/null && exit; sleep 0.3; done"
    return box.run_shell_command(asked).output != ""


def own_address(box: Sandbox) -> str:
    told = box.run_shell_command("/bin/busybox ip -4 addr show eth0").output
    return told.split("inet ")[1].split("/")[0]


def test_an_open_sandbox_reaches_the_internet_and_nothing_private(outside: None, open_server: Server) -> None:
    with Sandbox(open_server.base_url, image=IMAGE) as box, Sandbox(open_server.base_url, image=IMAGE) as other:
        gateway = box.run_shell_command("/bin/busybox ip route").output.split("via ")[1].split()[0]
        other.run_shell_command("(while :; do echo x | /bin/busybox nc -l -p 8000; done) >/dev/null 2>&1 &")
        assert reaches(box, PUBLIC, PORT)
        assert not reaches(box, PRIVATE, PORT)
        for address in (gateway, HOST_OUTSIDE):
            assert not reaches(box, address, HOST_PORT), f"the host at {address}"
        assert not reaches(box, own_address(other), 8000), "another sandbox"
        # And the host's users do not reach the sandbox past the server.
        tried = subprocess.run([sys.executable, "-c", f"import socket; socket.create_connection(('{own_address(other)}', 8000), 2)"], capture_output=True)
        assert tried.returncode != 0


def test_without_the_guard_the_engines_network_decides(outside: None, engine: Engine) -> None:
    subprocess.run(["nft", "delete", "table", "inet", "sandboxai_bridge"], capture_output=True)
    server = Server(env={**settings(engine), "SANDBOXAI_SANDBOX_NETWORK": "open", "SANDBOXAI_DOCKER_NETWORK_GUARD": "false"})
    try:
        with Sandbox(server.base_url, image=IMAGE) as box:
            assert reaches(box, PRIVATE, PORT) and reaches(box, HOST_OUTSIDE, HOST_PORT)
    finally:
        server.stop()
    server.check_log()


def test_a_bridge_that_is_not_ours_gives_no_network(engine: Engine) -> None:
    engine.docker("network", "rm", "sandboxai", check=False)
    engine.docker("network", "create", "sandboxai")
    server = Server(env={**settings(engine), "SANDBOXAI_SANDBOX_NETWORK": "open"})
    try:
        server.expected.append("sandboxes have no network")
        wanted = {"spec": {"image": IMAGE, "network": "open"}}
        refused = httpx.post(f"{server.base_url}/spaces/default/sandboxes", json=wanted, timeout=30)
        assert refused.status_code == 400 and "docker network rm sandboxai" in refused.text
    finally:
        server.stop()
        engine.docker("network", "rm", "sandboxai")
    server.check_log()
