"""Ports of a sandbox, opened from outside."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
from daytona import Daytona, DaytonaBadRequestError, DaytonaError, Sandbox

from conformance.daytona.access import fetch

#: A small application: echoes what came, streams events, takes uploads, speaks WebSocket.
APPLICATION = rb'''
import base64, hashlib, http.server, json, socketserver, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def answer(self, body, kind="application/json", status=200, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers: self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    def handle_any(self):
        if self.path == "/slow":
            time.sleep(3)
            return self.answer(b"late", "text/plain")
        if self.path == "/redirect":
            return self.answer(b"", status=302, headers=[("Location", "/there")])
        if self.path == "/cookies":
            return self.answer(b"", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Path=/")])
        if self.path == "/frame":
            return self.answer(b"<p>", "text/html")
        if self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(3):
                data = b"data: %d\n\n" % number
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data)); self.wfile.flush()
                time.sleep(0.3)
            return self.wfile.write(b"0\r\n\r\n")
        if self.path == "/socket":
            key = self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key).digest()).decode())
            self.end_headers()
            head = self.rfile.read(2); length = head[1] & 127
            mask = self.rfile.read(4); data = self.rfile.read(length)
            text = bytes(b ^ mask[i % 4] for i, b in enumerate(data)).upper()
            self.wfile.write(bytes([0x81, len(text)]) + text); self.wfile.flush()
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while True:
                size = int(self.rfile.readline(), 16)
                body += self.rfile.read(size); self.rfile.readline()
                if not size: break
        self.answer(json.dumps({"method": self.command, "path": self.path, "headers": dict(self.headers.items()),
            "length": len(body), "sha": hashlib.sha256(body).hexdigest()}).encode(), headers=[("X-App", "yes")])
    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = handle_any

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 100

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''
PORT = 3000


def start_application(sandbox: Sandbox, port: int = PORT) -> None:
    sandbox.fs.upload_file(APPLICATION, "/srv/application.py")
    sandbox.process.exec(f"nohup python3 /srv/application.py {port} >/tmp/application.log 2>&1 &")
    up = sandbox.process.exec(f"for i in $(seq 100); do curl -s localhost:{port}/ && exit 0; sleep 0.05; done; exit 1")
    assert up.exit_code == 0, sandbox.process.exec("cat /tmp/application.log").result


@pytest.fixture(scope="module")
def application(daytona: Daytona):
    made = daytona.create()
    start_application(made)
    yield made
    made.delete()


@pytest.fixture(scope="module")
def url(application: Sandbox) -> str:
    """A preview that needs no token."""
    application.set_public(True)
    link = application.get_preview_link(PORT)
    return link.url.rstrip("/")


@pytest.fixture()
def private(make):
    made = make()
    start_application(made)
    return made, made.get_preview_link(PORT)


def test_the_link(application: Sandbox) -> None:
    link = application.get_preview_link(PORT)
    assert link.url.startswith("http") and str(PORT) in link.url and not link.url.endswith("/")
    assert link.token and len(link.token) >= 16
    assert application.get_preview_link(PORT).url == link.url
    assert application.get_preview_link(PORT + 1).url != link.url


def test_a_public_preview(url: str) -> None:
    """The application listens on 127.0.0.1 of the sandbox only."""
    answer = fetch(f"{url}/some/path?a=1&b=%20x")
    assert answer.status_code == 200 and answer.headers["x-app"] == "yes"
    assert answer.json()["path"] == "/some/path?a=1&b=%20x"


def test_a_private_preview_wants_a_token(private) -> None:
    _, link = private
    assert fetch(link.url + "/").status_code in (401, 403, 302, 307)
    assert fetch(link.url + "/", headers={"X-Daytona-Preview-Token": "wrong" * 8}).status_code in (401, 403)


def test_the_token_as_header_query_and_cookie(private) -> None:
    sandbox, link = private
    assert fetch(link.url + "/x", headers={"X-Daytona-Preview-Token": link.token}).json()["path"] == "/x"
    by_query = fetch(f"{link.url}/x?DAYTONA_SANDBOX_AUTH_KEY={link.token}&keep=1")
    if by_query.status_code in (302, 303, 307):  # the token goes into a cookie, and out of the address
        assert "DAYTONA_SANDBOX_AUTH_KEY" not in by_query.headers["location"]
    else:
        assert by_query.json()["path"] == "/x?keep=1"
    cookie = by_query.headers["set-cookie"].split(";")[0]
    assert fetch(link.url + "/x", headers={"Cookie": cookie}).json()["path"] == "/x"


def test_the_application_does_not_see_the_token(private) -> None:
    _, link = private
    seen = fetch(link.url + "/", headers={"X-Daytona-Preview-Token": link.token}).text
    assert link.token not in seen


def test_methods_and_status(url: str) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        assert fetch(f"{url}/", method).json()["method"] == method
    assert fetch(f"{url}/", "HEAD").headers["x-app"] == "yes"
    redirect = fetch(f"{url}/redirect")
    assert redirect.status_code == 302 and redirect.headers["location"].endswith("/there")


def test_several_cookies(url: str) -> None:
    """By path, each gets the path of the preview, so that it stays there."""
    cookies = fetch(f"{url}/cookies").headers.get_list("set-cookie")
    assert [cookie.split(";")[0] for cookie in cookies] == ["a=1", "b=2"]


def test_an_upload(url: str) -> None:
    import hashlib

    content = b"u" * (20 << 20)
    answer = fetch(f"{url}/", "POST", content=content, timeout=60).json()
    assert (answer["length"], answer["sha"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_headers_by_the_book(url: str) -> None:
    headers = {"X-Mine": "kept", "Connection": "X-Hop", "X-Hop": "no", "TE": "trailers", "Accept": "text/x"}
    seen = {name.lower(): value for name, value in fetch(f"{url}/", headers=headers).json()["headers"].items()}
    assert seen["x-mine"] == "kept" and seen["accept"] == "text/x"
    assert "x-hop" not in seen, "hop-by-hop headers end here"
    assert seen["x-forwarded-for"] and seen["x-forwarded-host"] and seen["x-forwarded-proto"] == "http"


def test_server_sent_events(url: str) -> None:
    parsed = httpx.URL(url + "/events")
    times = []
    with httpx.stream("GET", parsed.copy_with(host="127.0.0.1"), headers={"Host": parsed.netloc.decode()}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        for line in answer.iter_lines():
            if line.startswith("data:"):
                times.append(time.monotonic())
    assert len(times) == 3 and times[2] - times[0] > 0.4


def test_websocket(url: str) -> None:
    from httpx_ws import connect_ws

    parsed = httpx.URL(url + "/socket")
    with connect_ws(
        str(parsed.copy_with(scheme="ws", host="127.0.0.1")), headers={"Host": parsed.netloc.decode()}
    ) as socket:
        socket.send_text("spoken")
        assert socket.receive_text(timeout=5) == "SPOKEN"


def test_a_slow_answer(url: str) -> None:
    assert fetch(f"{url}/slow").text == "late"


def test_many_at_once(url: str) -> None:
    started = time.monotonic()
    threads = [threading.Thread(target=fetch, args=(f"{url}/slow",)) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 12


def test_a_preflight(url: str) -> None:
    """The application has no CORS; the frontend of another origin may fetch."""
    answer = fetch(
        f"{url}/data.json",
        "OPTIONS",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "cache-control,x-other",
        },
    )
    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "cache-control" in answer.headers["access-control-allow-headers"].lower()
    plain = fetch(f"{url}/data.json", headers={"Origin": "https://app.example"})
    assert plain.headers["access-control-allow-origin"] == "https://app.example"


def test_framing_is_allowed(url: str) -> None:
    answer = fetch(f"{url}/frame", headers={"Accept": "text/html", "User-Agent": "Mozilla/5.0"})
    assert answer.text == "<p>", "and no warning page"
    assert "x-frame-options" not in answer.headers
    assert "frame-ancestors" not in answer.headers.get("content-security-policy", "")


def test_a_closed_port_answers_soon(application: Sandbox, url: str) -> None:
    started = time.monotonic()
    answer = fetch(application.get_preview_link(9).url + "/")
    assert answer.status_code == 502 and "9" in answer.text
    assert time.monotonic() - started < 3


def test_a_stopped_sandbox_answers_soon_and_the_url_stays(private) -> None:
    sandbox, before = private
    sandbox.stop()
    started = time.monotonic()
    answer = fetch(before.url + "/", headers={"X-Daytona-Preview-Token": before.token})
    assert answer.status_code >= 400 and "stopped" in answer.text.lower()
    assert time.monotonic() - started < 3
    sandbox.start()
    after = sandbox.get_preview_link(PORT)
    assert (after.url, after.token) == (before.url, before.token)
    start_application(sandbox)
    assert fetch(after.url + "/", headers={"X-Daytona-Preview-Token": after.token}).status_code == 200


def test_a_deleted_sandbox(private) -> None:
    sandbox, link = private
    sandbox.delete(wait=True)
    assert fetch(link.url + "/", headers={"X-Daytona-Preview-Token": link.token}).status_code in (401, 404)


def test_signed(private) -> None:
    sandbox, _ = private
    signed = sandbox.create_signed_preview_url(PORT, expires_in_seconds=2)
    assert signed.token and signed.token in signed.url
    url = signed.url if signed.url.endswith("/") or "?" in signed.url else signed.url + "/"
    assert fetch(url).status_code in (200, 302, 307)
    time.sleep(2.5)
    assert fetch(url).status_code in (401, 403, 404, 410)


def test_a_signed_one_is_revoked(private) -> None:
    sandbox, _ = private
    signed = sandbox.create_signed_preview_url(PORT, expires_in_seconds=600)
    url = signed.url if signed.url.endswith("/") or "?" in signed.url else signed.url + "/"
    assert fetch(url).status_code in (200, 302, 307)
    sandbox.expire_signed_preview_url(PORT, signed.token)
    assert fetch(url).status_code in (401, 403, 404, 410)


def test_bad_ports(sandbox: Sandbox) -> None:
    for port in (0, 70000):
        with pytest.raises(DaytonaBadRequestError):
            sandbox.get_preview_link(port)
    with pytest.raises(DaytonaError):
        sandbox.create_signed_preview_url(PORT, expires_in_seconds=0)
