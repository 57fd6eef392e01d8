"""Bytes between a visitor and an application inside."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from typing import Iterator

import httpx
import pytest

from .conftest import PORT, Previewed, seen


def test_both_forms_lead_to_the_port(public: Previewed) -> None:
    for response in (public.get("/echo?a=%20b&c"), public.by_host("GET", "/echo?a=%20b&c")):
        told, headers = seen(response)
        assert told["line"] == "GET /echo?a=%20b&c HTTP/1.1"
        assert headers["host"] == f"localhost:{PORT}"
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["via"] == "1.1 sandboxai"
    assert headers["x-forwarded-host"] == public.host_of()
    assert seen(public.get("/echo"))[1]["x-forwarded-prefix"] == f"/preview/{public.id}/{PORT}"


def test_a_link_is_the_url_of_the_port(public: Previewed) -> None:
    link = public.link()
    assert link["url"] == f"{public.server.url}/preview/{public.id}/{PORT}"
    assert httpx.get(f"{link['url']}/echo").status_code == 200
    assert public.link(2280)["url"] == f"{public.server.url}/toolbox/{public.id}"


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_arrives_whole(public: Previewed, chunked: bool) -> None:
    content = bytes(range(256)) * (20 * 4096)
    pieces: Iterator[bytes] = (content[start : start + 100_000] for start in range(0, len(content), 100_000))
    for method in ("POST", "PUT", "GET"):
        body = iter(list(pieces)) if chunked else content
        pieces = (content[start : start + 100_000] for start in range(0, len(content), 100_000))
        told, headers = seen(httpx.request(method, public.url("/echo"), content=body, timeout=60))
        assert told["length"] == len(content) == 20 << 20
        assert told["sha256"] == hashlib.sha256(content).hexdigest()
        assert ("transfer-encoding" in headers) == chunked


def test_a_download_arrives_whole(public: Previewed) -> None:
    assert len(public.get("/large?size=30000000").content) == 30_000_000


def test_events_come_as_they_are_sent(public: Previewed) -> None:
    begun = time.monotonic()
    with httpx.stream("GET", public.url("/sse"), timeout=10) as response:
        times = [time.monotonic() - begun for line in response.iter_lines() if line.startswith("data")]
    assert len(times) == 3 and times[0] < 0.4 and times[2] - times[0] > 0.8, times


def test_a_slow_answer_is_waited_for(public: Previewed) -> None:
    assert public.get("/slow?seconds=3").text == "late"


def test_trailers_pass_both_ways(public: Previewed) -> None:
    host = public.host_of().encode()
    answer = public.raw(
        b"POST /echo HTTP/1.1\r\nHost: " + host + b"\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n"
        b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Check: 7\r\n\r\n"
    )
    assert json.loads(answer[answer.index(b"{") :])["trailers"] == {"x-check": "7"}
    answer = public.raw(b"GET /trailers HTTP/1.1\r\nHost: " + host + b"\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n")
    assert b"hello" in answer and b"x-sum: 42" in answer.lower()


def test_a_head_has_no_body(public: Previewed) -> None:
    response = httpx.head(public.url("/page"))
    assert (response.headers["content-length"], response.content) == ("13", b"")


def test_a_body_is_asked_for_before_it_is_sent(public: Previewed) -> None:
    with public.connect() as stream:
        stream.sendall(
            b"POST /echo HTTP/1.1\r\nHost: " + public.host_of().encode() + b"\r\nContent-Length: 3\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert stream.recv(100).startswith(b"HTTP/1.1 100 Continue")
        stream.sendall(b"abc")
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    assert b'"length": 3' in answer


def test_an_answer_before_the_end_of_the_upload_arrives(public: Previewed) -> None:
    assert httpx.post(public.url("/reject"), content=b"x" * 100_000).status_code == 413


def upgraded(public: Previewed, protocol: str) -> socket.socket:
    stream = public.connect()
    stream.sendall(
        f"GET /upgrade HTTP/1.1\r\nHost: {public.host_of()}\r\nConnection: keep-alive, Upgrade\r\n"
        f"Upgrade: {protocol}\r\nSec-WebSocket-Key: x\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += stream.recv(4096)
    assert head.startswith(b"HTTP/1.1 101 ") and protocol.encode() in head, head
    return stream


@pytest.mark.parametrize("protocol", ["websocket", "something/1"])
def test_an_upgraded_connection_is_carried_raw(public: Previewed, protocol: str) -> None:
    left = public.counts()["left"]
    with upgraded(public, protocol) as stream:
        for size in (1, 70_000):
            sent = bytes(range(256)) * size
            stream.sendall(sent[:size])
            got = b""
            while len(got) < size:
                got += stream.recv(65536)
            assert got == sent[:size]
    wait_for(lambda: public.counts()["left"] == left + 1)


@pytest.mark.parametrize("path", ["/hang", "/silent"])
def test_a_visitor_that_leaves_ends_the_connection_inside(public: Previewed, path: str) -> None:
    left = public.counts()["left"]
    with public.connect() as stream:
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {public.host_of()}\r\n\r\n".encode())
        if path == "/hang":
            answer = b""
            while b"begun" not in answer:
                answer += stream.recv(4096)
        else:
            wait_for(lambda: public.counts()["open"] > 1)
    wait_for(lambda: public.counts()["left"] == left + 1)
    assert public.counts()["open"] == 1, "only this one"


def wait_for(is_true) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_an_application_that_breaks_off_is_told(public: Previewed) -> None:
    response = public.get("/garbage")
    assert response.status_code == 502 and "no valid HTTP answer" in response.json()["message"]
    with pytest.raises(httpx.RemoteProtocolError):
        public.get("/broken")


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: -1",
        "Content-Length: 5, 6",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Content-Length: 5\r\n folded: x",
        "Host: other",
        "Bad Name: x",
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused(public: Previewed, framing: str) -> None:
    with public.connect() as stream:
        stream.sendall(f"POST /echo HTTP/1.1\r\nHost: {public.host_of()}\r\n{framing}\r\n\r\nabcde".encode())
        answer = stream.recv(4096)
    assert answer.split(b" ", 2)[1] == b"400", answer


def test_a_length_beside_chunks_does_not_count(public: Previewed) -> None:
    answer = public.raw(
        f"POST /echo HTTP/1.1\r\nHost: {public.host_of()}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()
    )
    told = json.loads(answer[answer.index(b"{") :])
    assert told["length"] == 5 and "content-length" not in dict(told["headers"])


def test_places_and_cookies_are_the_visitors(public: Previewed) -> None:
    moved = public.by_host("GET", "/moved")
    assert moved.headers["location"] == f"http://{public.host_of()}/echo"
    assert moved.headers["set-cookie"] == "a=b; Path=/"
    moved = public.get("/moved")
    assert moved.headers["location"] == public.url("/echo")
    assert moved.headers["set-cookie"] == f"a=b; Path=/preview/{public.id}/{PORT}/"


def test_a_page_of_elsewhere_may_read_answers(public: Previewed) -> None:
    origin = "https://suna.example"
    asked = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "cache-control"}
    for preflight in (
        httpx.options(public.url("/page"), headers=asked),
        httpx.options(public.url("/", 9), headers=asked),
    ):
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert preflight.headers["access-control-allow-headers"] == "cache-control"
    answer = public.get("/page", headers={"Origin": origin})
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-credentials"] == "true"
    own = httpx.options(public.url("/own-cors"), headers=asked)
    assert own.headers["access-control-allow-origin"] == "https://only.example"
    quiet = public.get("/page", headers={"Origin": origin, "X-Daytona-Disable-CORS": "true"})
    assert "access-control-allow-origin" not in quiet.headers


def test_a_browser_here_is_led_to_an_origin_of_its_own(public: Previewed) -> None:
    browser = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
    led = public.get("/page?x=1", headers=browser)
    assert (led.status_code, led.headers["location"]) == (307, f"http://{public.host_of()}/page?x=1")
    led = httpx.get(public.url("/page"), headers={**browser, "Host": "192.168.7.7:5266"})
    assert led.status_code == 200, "a browser elsewhere cannot follow"
    assert "sandbox" in led.headers["content-security-policy"]
    # Browsers say where they go to hosts that they trust only.
    bare = httpx.get(public.url(""), headers={"Accept": "text/html", "Host": "192.168.7.7:5266"})
    assert bare.headers["location"] == f"/preview/{public.id}/{PORT}/"


def test_what_cannot_be_shown_is_told_quickly(public: Previewed) -> None:
    begun = time.monotonic()
    closed = public.get("/", 9)
    assert closed.status_code == 502 and "Nothing listens on port 9" in closed.json()["message"]
    assert "retry-after" in closed.headers
    page = public.get("/", 9, headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html") and "port 9" in page.text
    unknown = httpx.get(f"{public.server.url}/preview/{'a' * 26}/80/")
    assert unknown.status_code == 404 and "no sandbox" in unknown.json()["message"]
    for port in ("02280", "+2280", "0", "65536", "x"):
        assert httpx.get(f"{public.server.url}/preview/{public.id}/{port}/").status_code == 400
        assert public.by_host("GET", "/", port).status_code == 400  # type: ignore[arg-type]
    assert time.monotonic() - begun < 3
