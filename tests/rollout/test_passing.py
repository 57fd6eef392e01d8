"""What is passed on to the upstream: sandboxes that exist only there, seen through the front.

The SDKs' own suites run through such a pair, too (``scripts/test.sh``); here is what they
do not look at: who may see what, which keys go where, and what an upstream's absence means.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple
from urllib.parse import urlsplit

import httpx
import pytest

from conftest import Server
from previews.conftest import PORT, Previewed, seen
from rollout.conftest import KEY, UPSTREAM_KEY, Pair


@pytest.fixture(scope="module")
def both() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def private(both: Pair) -> Iterator[Previewed]:
    """A private sandbox of the upstream with an application, as the front shows it."""
    previewed = Previewed(both.front, public=False, key=KEY)
    assert both.there() == [previewed.id] and both.here() == []
    previewed.start_app()
    yield previewed
    previewed.delete()


def test_a_private_port_opens_for_who_shows_something(private: Previewed) -> None:
    denied = private.get("/echo")
    assert denied.status_code == 401 and private.by_host("GET", "/echo").status_code == 401
    token = private.link()["token"]
    for shown in (
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"X-Daytona-Preview-Token": token}},
        {"params": {"DAYTONA_SANDBOX_AUTH_KEY": token, "q": "1"}},
    ):
        for response in (private.get("/echo", **shown), private.by_host("GET", "/echo", **shown)):
            told, headers = seen(response)
            for secret in (token, KEY, UPSTREAM_KEY):
                assert secret not in str(told), "the application learns it"
            assert "authorization" not in headers
    for wrong in ("wrong", token[:-1]):
        assert private.get("/echo", headers={"Authorization": f"Bearer {wrong}"}).status_code == 401
        assert private.get("/echo", headers={"X-Daytona-Preview-Token": wrong}).status_code == 401


def test_links_lead_through_the_front(both: Pair, private: Previewed) -> None:
    front, behind = both.front.url, urlsplit(both.upstream.url).netloc
    assert private.link()["url"] == f"{front}/preview/{private.id}/{PORT}"
    signed = private.signed()
    assert signed["url"] == f"{front}/preview/{signed['token']}/{PORT}"
    assert httpx.get(f"{signed['url']}/page").status_code == 200
    assert private.by_host("GET", "/page", key=signed["token"]).status_code == 200
    expire = f"/sandbox/{private.id}/ports/{PORT}/signed-preview-url/{signed['token']}/expire"
    assert private.api.post(expire).is_success
    assert httpx.get(f"{signed['url']}/page").status_code == 401
    for path in (f"/sandbox/{private.id}", "/sandbox", f"/sandbox/{private.id}/toolbox-proxy-url",
                 f"/sandbox/{private.id}/build-logs-url"):
        answer = private.api.get(path).raise_for_status()
        assert behind not in answer.text and UPSTREAM_KEY not in answer.text, path


def test_redirects_and_cookies_are_the_visitors(private: Previewed) -> None:
    moved = private.get("/moved", headers=private.auth)
    assert moved.headers["location"] == private.url("/echo")
    assert moved.headers["set-cookie"] == f"a=b; Path=/preview/{private.id}/{PORT}/"
    moved = private.by_host("GET", "/moved", headers=private.auth)
    assert moved.headers["location"] == f"http://{private.host_of()}/echo"
    assert moved.headers["set-cookie"] == "a=b; Path=/"


def test_a_browser_goes_on_with_its_cookie(private: Previewed) -> None:
    token = private.link()["token"]
    page = {"Accept": "text/html"}
    for visit in (private.by_host, lambda method, path, **more: private.get(path, **more)):
        first = visit("GET", "/page", params={"DAYTONA_SANDBOX_AUTH_KEY": token}, headers=page)
        assert first.status_code == 307 and token not in first.headers["location"]
        pair = first.headers["set-cookie"].split(";")[0]
        assert pair.startswith(f"daytona-sandbox-auth-{private.id}=")
        assert visit("GET", "/page", headers={**page, "Cookie": pair}).status_code == 200


@pytest.mark.parametrize("form", ["host", "path"])
def test_a_tunnel_carries_both_ways_and_half_closes(private: Previewed, form: str) -> None:
    token = private.link()["token"]
    host, path = (private.host_of(), "") if form == "host" else (private.host, f"/preview/{private.id}/{PORT}")
    with private.connect() as stream:
        stream.sendall(
            f"GET {path}/upgrade HTTP/1.1\r\nHost: {host}\r\nX-Daytona-Preview-Token: {token}\r\n"
            "Connection: Upgrade\r\nUpgrade: any-protocol\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += stream.recv(65536)
        head, rest = answer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 ") and b"upgrade: any-protocol" in head.lower()
        said = bytes(range(256)) * 1000
        stream.sendall(said)
        stream.shutdown(socket.SHUT_WR)
        while piece := stream.recv(65536):
            rest += piece
        assert rest == said


def test_the_toolbox_takes_tokens_and_signatures_without_a_key(both: Pair, private: Previewed) -> None:
    toolbox = f"{both.front.url}/toolbox/{private.id}"
    execute = {"json": {"command": "echo there"}}
    assert httpx.post(f"{toolbox}/process/execute", **execute).status_code == 401
    token = private.link(2280)["token"]
    for url in (toolbox, f"{both.front.url}/preview/{private.id}/2280"):
        answer = httpx.post(f"{url}/process/execute", headers={"X-Daytona-Preview-Token": token}, **execute)
        assert answer.status_code == 200 and answer.json()["result"] == "there\n"
    key = private.api.get(f"/sandbox/{private.id}/signing-key").json()
    digest = hmac.new(key.encode(), b"v1:files:GET:/tmp/app.py:0", hashlib.sha256).digest()
    signature = "v1_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    signed = {"path": "/tmp/app.py", "expires": "0", "signature": signature}
    assert httpx.get(f"{toolbox}/files/download", params=signed).text.startswith('"""An application')
    assert httpx.get(f"{toolbox}/files/download", params={**signed, "path": "/etc/passwd"}).status_code == 401


def test_no_path_climbs_to_another_place(both: Pair, private: Previewed) -> None:
    for path in (
        f"/api/sandbox/{private.id}x/../../../v1/spaces",
        f"/toolbox/{private.id}/%2e%2e/%2e%2e/v1/spaces",
        f"/preview/{private.id}/{PORT}/%2e%2e/%2e%2e/%2e%2e/v1/spaces",
    ):
        request = f"GET {path} HTTP/1.1\r\nHost: {private.host}\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
        assert private.raw(request.encode()).split(b" ")[1] in (b"400", b"404"), path


def test_a_restart_of_the_front_loses_nobody(both: Pair, private: Previewed) -> None:
    before = private.link()["url"]
    both.front.kill()
    both.front.restart()
    private.api.base_url = f"{both.front.url}/api"
    again = private.api.get(f"/sandbox/{private.id}").raise_for_status().json()
    assert again["state"] == "started" and again["toolboxProxyUrl"] == f"{both.front.url}/toolbox"
    path = urlsplit(before).path
    assert httpx.get(f"{both.front.url}{path}/page", headers=private.auth).status_code == 200


def test_an_absent_upstream_is_told_and_no_list_lacks_its_sandboxes() -> None:
    pair = Pair()
    pair.rollout("set", "100")
    here = pair.create().json()["id"]
    pair.rollout("set", "0")
    there = pair.create().json()["id"]
    api = f"{pair.front.url}/api"
    listed = pair.api.get(f"{api}/sandbox").json()["items"]
    assert [sandbox["id"] for sandbox in listed] == [here, there]
    pair.upstream.stop()
    for path in (f"{api}/sandbox/{there}", f"{api}/sandbox", f"{api}/sandbox/paginated",
                 f"{pair.front.url}/toolbox/{there}/work-dir", f"{pair.front.url}/preview/{there}/{PORT}/"):
        answer = pair.api.get(path)
        assert answer.status_code == 502, path
        assert pair.upstream.url in answer.json()["message"] and UPSTREAM_KEY not in answer.text
    sides = pair.rollout("status")["sides"]
    assert (sides["sandboxai"]["failures"], sides["daytona"]["failures"]) == (0, 4), "this side has not failed"
    assert pair.api.get(f"{api}/sandbox/{here}").status_code == 200
    assert pair.api.get(f"{pair.front.url}/toolbox/{here}/work-dir").status_code == 200
    pair.close()


#: What Daytona's ids and signed tokens look like.
DAYTONA_ID, DAYTONA_TOKEN = "0195c1a2-7e01-4abc-8def-0123456789ab", "k3j9x0a7b2c4d5e6"


#: Paths and headers that have arrived.
Arrived = List[Tuple[str, Dict[str, str]]]


@contextmanager
def recorder(tls: Optional[ssl.SSLContext] = None) -> Iterator[Tuple[str, Arrived]]:
    """Stands in for Daytona where only the form of its ids and URLs matters: says where
    things are, and keeps what arrives."""
    arrived: Arrived = []
    scheme = "https" if tls else "http"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = f"{scheme}://{self.headers['Host']}"
            arrived.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            said = json.dumps({
                "id": DAYTONA_ID, "cpu": 1, "toolboxProxyUrl": f"{url}/proxied/toolbox", "token": "port-token",
                "url": f"{url}/port", "proxyTemplateUrl": f"{url}/at/{{{{PORT}}}}-{{{{sandboxId}}}}",
            }).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"{scheme}://127.0.0.1:{server.server_port}", arrived
    server.shutdown()


@contextmanager
def in_front_of(url: str, **more: str) -> Iterator[Server]:
    front = Server(env={
        "SANDBOXAI_SERVER_API_KEYS": KEY,
        "SANDBOXAI_ROLLOUT_UPSTREAM_URL": f"{url}/api",
        "SANDBOXAI_ROLLOUT_UPSTREAM_KEY": UPSTREAM_KEY,
        **more,
    })
    yield front
    front.stop()
    front.check_log()


def test_ids_and_tokens_of_daytona_lead_there() -> None:
    with recorder() as (url, arrived), in_front_of(url) as front:
        visit_daytona(front, arrived)
    for path, headers in arrived:
        assert KEY not in str(headers) and KEY not in path
        assert UPSTREAM_KEY not in str(headers) or path.startswith(("/api/", "/proxied/"))


def visit_daytona(front: Server, arrived: Arrived) -> None:
    port = urlsplit(front.url).port
    shown = {"Authorization": f"Bearer {KEY}"}
    for key in (DAYTONA_ID, DAYTONA_TOKEN):
        for target, host in (("/a?b", f"3000-{key}.localhost:{port}"), (f"/preview/{key}/3000/a?b", f"127.0.0.1:{port}")):
            assert httpx.get(f"{front.url}{target}", headers={"Host": host}).status_code == 200
            path, headers = arrived[-1]
            assert path == f"/at/3000-{key}/a?b" and "authorization" not in headers
    for odd in ("03000", "3000-1", "0", "65536"):
        count = len(arrived)
        answer = httpx.get(f"{front.url}/", headers={"Host": f"{odd}-{DAYTONA_ID}.localhost:{port}"})
        assert answer.status_code >= 400 and len(arrived) == count, odd
    assert httpx.get(f"{front.url}/preview/{DAYTONA_ID}/3000/x", headers=shown).status_code == 200
    path, headers = arrived[-1]
    assert (path, headers["x-daytona-preview-token"]) == ("/port/x", "port-token")
    sandbox = httpx.get(f"{front.url}/api/sandbox/{DAYTONA_ID}", headers=shown)
    assert '"cpu": 1' in sandbox.text or '"cpu":1' in sandbox.text
    assert sandbox.json()["toolboxProxyUrl"] == f"{front.url}/toolbox"
    httpx.get(f"{front.url}/toolbox/{DAYTONA_ID}/work-dir", headers=shown)
    path, headers = arrived[-1]
    assert (path, headers["authorization"]) == (f"/proxied/toolbox/{DAYTONA_ID}/work-dir", f"Bearer {UPSTREAM_KEY}")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made by openssl")
def test_an_upstream_by_https_is_who_its_certificate_says() -> None:
    # Not pytest's own folder: the server reads this one when it is no longer root.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        visit_by_https(folder)


def visit_by_https(folder: Path) -> None:
    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)

    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=tests")
    openssl("req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=upstream")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl("x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with recorder(tls) as (url, arrived):
        with in_front_of(url, SANDBOXAI_ROLLOUT_CA_CERTIFICATES=str(folder / "ca.pem")) as front:
            visit_daytona(front, arrived)
        count = len(arrived)
        with in_front_of(url) as front:
            shown = {"Authorization": f"Bearer {KEY}"}
            answer = httpx.get(f"{front.url}/api/sandbox/{DAYTONA_ID}", headers=shown)
            assert answer.status_code == 502 and "certificate" in answer.json()["message"]
        assert len(arrived) == count, "nobody unknown gets the key"
