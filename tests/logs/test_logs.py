"""Log lines as JSON: each says which request and which sandbox it is about."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Dict, Iterator, List

import httpx
import pytest
from conftest import Server
from sandboxai import Sandbox

#: What Daytona's SDKs send; this server asks for none.
KEY = {"Authorization": "Bearer any-key"}
Line = Dict[str, Any]


@pytest.fixture()
def talkative() -> Iterator[Server]:
    running = Server(env={"SANDBOXAI_LOG_FORMAT": "json", "SANDBOXAI_LOG_LEVEL": "debug"})
    yield running
    running.stop()
    assert [line for line in lines(running) if line["level"] in ("WARN", "ERROR")] == []


def lines(server: Server) -> List[Line]:
    def unique(pairs: list) -> Line:
        assert len(dict(pairs)) == len(pairs), f"a name twice: {pairs}"
        return dict(pairs)

    found = [json.loads(line, object_pairs_hook=unique) for line in server.log().splitlines()]
    for line in found:
        assert {"timestamp", "level", "message", "target"} <= set(line), line
    return found


def about(server: Server, response: httpx.Response) -> List[Line]:
    """The lines with the request id that the answer has."""
    found = [line for line in lines(server) if line.get("request_id") == response.headers["x-request-id"]]
    assert found, f"no line about {response.request.method} {response.request.url}"
    return found


def of_sandbox(server: Server, uid: str) -> List[Line]:
    return [line for line in lines(server) if line.get("sandbox") == uid]


def test_both_protocols_and_previews_tell_request_and_sandbox(talkative: Server) -> None:
    server, at = talkative, f"{talkative.base_url}/spaces/default/sandboxes"
    ask = httpx.Client(timeout=60)
    made = ask.post(at, json={"name": "one"}, headers={"X-Request-Id": "the-callers-own:1"})
    assert made.headers["x-request-id"] == "the-callers-own:1"
    uid = made.json()["uid"]
    daytona = ask.post(f"{server.url}/api/sandbox", headers=KEY, json={})
    other = daytona.json()["id"]
    toolbox = f"{server.url}/api/toolbox/{other}/toolbox"
    shown = ask.get(f"{server.url}/api/sandbox/{other}/ports/8000/preview-url", headers=KEY)
    token = {"X-Daytona-Preview-Token": shown.json()["token"]}
    expected = {
        uid: [
            made,
            ask.post(f"{at}/one/tools:run_shell_command", json={"command": "exit 3"}),
            ask.post(f"{at}/one/tools:stream_shell_command", json={"command": "echo hi"}),
            ask.get(f"{at}/one/files", params={"path": "/no/such/file"}),
            ask.post(f"{at}/one/tools:run_shell_command", json={"comand": "misspelt"}),
            ask.delete(f"{at}/one"),
            ask.get(f"{at}/one"),
        ],
        other: [
            daytona,
            ask.post(f"{toolbox}/process/execute", headers=KEY, json={"command": "echo hi"}),
            ask.get(f"{toolbox}/files/download", headers=KEY, params={"path": "/no/such/file"}),
            shown,
            # Nothing listens there.
            ask.get(shown.json()["url"], headers=token),
            ask.delete(f"{server.url}/api/sandbox/{other}", headers=KEY),
        ],
    }
    for sandbox, answers in expected.items():
        for answer in answers:
            told = about(server, answer)
            assert told[-1]["message"] == "answered" and told[-1]["status"] == answer.status_code
            # What is refused before anybody looks for the sandbox is about the request alone.
            if answer.status_code != 400:
                assert {line.get("sandbox") for line in told} <= {sandbox, None}
                assert told[-1]["sandbox"] == sandbox, told
        assert "a sandbox ended" in {line["message"] for line in of_sandbox(server, sandbox)}
    for unknown in (ask.get(f"{at}/nobody"), ask.get(f"{server.url}/api/sandbox/nobody", headers=KEY)):
        assert unknown.status_code == 404 and len(about(server, unknown)) == 2


def test_what_happens_in_a_stream_is_about_its_request(talkative: Server) -> None:
    box = Sandbox(talkative.base_url)
    uid = box.info()["uid"]
    call = f"{talkative.base_url}/spaces/default/sandboxes/{box.name}/tools:stream_shell_command"
    with httpx.stream("POST", call, json={"command": "echo begun; sleep 60"}, timeout=60) as answer:
        pieces = answer.iter_text()
        assert "begun" in next(pieces)
        threading.Timer(0.2, box.delete).start()
        assert "error" in "".join(pieces)
        after = about(talkative, answer)[-1]
    assert after["message"] != "answered" and after["kind"] == "sandbox_lost" and after["sandbox"] == uid


def test_what_nobody_asked_for_is_about_its_sandbox(talkative: Server) -> None:
    uid = Sandbox(talkative.base_url, idle_timeout=0.5).info()["uid"]
    until = time.monotonic() + 20
    while not (ended := [line for line in of_sandbox(talkative, uid) if line["message"] == "a sandbox ended"]):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert "idle" in ended[0]["reason"] and ended[0]["level"] == "INFO" and "request_id" not in ended[0]
