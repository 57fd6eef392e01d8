"""Who may use a port, and what pages of sandboxes cannot do."""

from __future__ import annotations

import time

import httpx
import pytest

from conftest import Server

from .conftest import KEY, PORT, Previewed, seen


def test_a_private_port_needs_something_shown(private: Previewed) -> None:
    denied = private.get("/echo")
    assert denied.status_code == 401 and denied.headers["www-authenticate"] == "Bearer"
    token = private.link()["token"]
    for shown in (
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"headers": {"X-Daytona-Preview-Token": token}},
        {"params": {"DAYTONA_SANDBOX_AUTH_KEY": token, "q": "1"}},
    ):
        told, headers = seen(private.get("/echo", **shown))
        everything = str(told)
        assert token not in everything and KEY not in everything, "the application learns it"
        assert "authorization" not in headers
    assert private.get("/echo", 8080, headers={"X-Daytona-Preview-Token": token}).status_code == 401
    assert private.get("/echo", headers={"X-Daytona-Preview-Token": token[:-1]}).status_code == 401


def test_a_browser_keeps_a_cookie_and_loses_the_token(private: Previewed) -> None:
    token = private.link()["token"]
    first = private.by_host(
        "GET", f"/echo?a=1&DAYTONA_SANDBOX_AUTH_KEY={token}", headers={"Sec-Fetch-Mode": "navigate"}
    )
    assert (first.status_code, first.headers["location"]) == (307, "/echo?a=1")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie and "Partitioned" in cookie
    pair = cookie.split(";")[0]
    assert pair.startswith(f"daytona-sandbox-auth-{private.id}=")
    told, headers = seen(private.by_host("GET", "/echo", headers={"Cookie": f"mine=1; {pair}"}))
    assert headers["cookie"] == "mine=1"
    own = f"http://{private.host_of()}"
    assert private.by_host("POST", "/echo", headers={"Cookie": pair, "Origin": own}).status_code == 200
    foreign = private.by_host("POST", "/echo", headers={"Cookie": pair, "Origin": "https://evil.example"})
    assert foreign.status_code == 403


def test_a_signed_url_needs_nothing_else(private: Previewed) -> None:
    signed = private.signed()
    assert signed["port"] == PORT and signed["sandboxId"] == private.id
    assert signed["url"].endswith(f"/preview/{signed['token']}/{PORT}")
    answer = httpx.get(f"{signed['url']}/page")
    assert answer.status_code == 200 and answer.headers["referrer-policy"] == "same-origin"
    assert private.by_host("GET", "/page", key=signed["token"]).status_code == 200
    assert private.by_host("GET", "/page", 8080, key=signed["token"]).status_code == 404
    expire = f"/sandbox/{private.id}/ports/{PORT}/signed-preview-url/{signed['token']}/expire"
    assert private.api.post(expire).is_success
    assert httpx.get(f"{signed['url']}/page").status_code == 401


def test_a_signed_url_expires_and_its_browser_goes_on(private: Previewed) -> None:
    signed = private.signed(seconds=1)
    first = httpx.get(f"{signed['url']}/page")
    pair = first.headers["set-cookie"].split(";")[0]
    time.sleep(1.5)
    assert httpx.get(f"{signed['url']}/page").status_code == 401
    assert httpx.get(f"{signed['url']}/page", headers={"Cookie": pair}).status_code == 200


def test_the_toolbox_is_no_public_port(public: Previewed, private: Previewed) -> None:
    execute = {"command": "echo hello"}
    for form in ("host", "path"):
        def ask(headers: dict[str, str], form: str = form) -> httpx.Response:
            if form == "host":
                return public.by_host("POST", "/process/execute", 2280, headers=headers, json=execute)
            return httpx.post(public.url("/process/execute", 2280), headers=headers, json=execute)

        assert ask({}).status_code == 401
        assert ask({"X-Daytona-Preview-Token": public.link()["token"]}).status_code == 401
        token = public.link(2280)["token"]
        assert ask({"X-Daytona-Preview-Token": token}).json()["result"] == "hello\n"
        assert ask({"X-Daytona-Preview-Token": token, "Origin": "http://evil.example"}).status_code == 403


def test_a_page_in_a_preview_cannot_use_the_server(public: Previewed) -> None:
    """A browser names the page that asks; the server serves none but its own."""
    for origin in (f"http://{public.host_of()}", "null"):
        for method, path in (("POST", "/api/sandbox"), ("GET", "/v1/spaces/default/sandboxes")):
            answer = httpx.request(method, f"{public.server.url}{path}", headers={"Origin": origin})
            assert answer.status_code == 403, (origin, path)
            assert "access-control-allow-origin" not in answer.headers


def test_a_stopped_sandbox_says_so_and_comes_back_under_the_same_url(server: Server) -> None:
    box = Previewed(server)
    box.start_app()
    link = box.link()
    box.api.post(f"/sandbox/{box.id}/stop").raise_for_status()
    begun = time.monotonic()
    stopped = box.get("/page")
    assert stopped.status_code == 503 and "stopped" in stopped.json()["message"]
    assert time.monotonic() - begun < 1
    box.api.post(f"/sandbox/{box.id}/start").raise_for_status()
    assert box.link() == link
    box.start_app()
    assert box.get("/page").status_code == 200
    box.delete()
    assert box.get("/page").status_code == 404


def test_a_visit_starts_a_stopped_sandbox_if_so_configured() -> None:
    running = Server(env={"SANDBOXAI_PREVIEW_AUTO_START": "true"})
    box = Previewed(running)
    box.api.post(f"/sandbox/{box.id}/stop").raise_for_status()
    assert box.get("/page").status_code == 502, "it runs, and nothing listens yet"
    assert box.api.get(f"/sandbox/{box.id}").json()["state"] == "started"
    box.delete()
    running.stop()
    running.check_log()


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_methods_of_proxies_are_refused(public: Previewed, method: str) -> None:
    target = public.host_of() if method == "CONNECT" else "/"
    answer = public.raw(f"{method} {target} HTTP/1.1\r\nHost: {public.host_of()}\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] == b"405", answer
