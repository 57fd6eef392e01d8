"""Sandboxes that stop, start again and are archived, on the real server."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, Dict, Optional

import httpx
import pytest
from conftest import STATE_DIR, Server
from leftovers import count, settle

#: Leaves one of everything in the writable layer, below /work.
SCATTER = (
    "mkdir -p /work/dir && cd /work && echo kept > file && ln file same && ln -s file link && chmod 4755 file "
    "&& chown 1000:1000 dir && truncate -s 10G sparse && mkfifo fifo && rm -rf /usr/share/doc && mv /etc/apt /etc/moved"
)
#: What there is of it then.
LOOK = (
    "cd /work && cat file same link && stat -c '%n %F %u:%g %a %h %s %Y' file link dir sparse fifo "
    "&& ls /etc/moved && ls /usr/share/doc /etc/apt 2>&1; id -u"
)


class Box:
    """One sandbox by its plain protocol."""

    def __init__(self, server: Server, name: str, **spec: Any) -> None:
        self.server, self.name = server, name
        self.call("POST", "", {"name": name, "spec": spec}, of_space=True)

    def call(self, method: str, what: str, body: Optional[Dict[str, Any]] = None, of_space: bool = False) -> Dict[str, Any]:
        answer = self.try_call(method, what, body, of_space)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else {}

    def try_call(self, method: str, what: str, body: Optional[Dict[str, Any]] = None, of_space: bool = False) -> httpx.Response:
        url = f"{self.server.base_url}/spaces/default/sandboxes" + ("" if of_space else f"/{self.name}{what}")
        return httpx.request(method, url, json=body, timeout=60)

    def shell(self, command: str) -> str:
        return self.call("POST", "/tools:run_shell_command", {"command": command})["output"]

    def status(self) -> Dict[str, Any]:
        return self.call("GET", "")["status"]

    def wait_for(self, state: str, seconds: float = 30) -> Dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (status := self.status())["state"] != state:
            assert time.monotonic() < deadline, status
            time.sleep(0.02)
        return status


def test_a_stopped_sandbox_keeps_its_files_and_nothing_else(own_server: Server) -> None:
    before = count(STATE_DIR)
    box = Box(own_server, "stopped", env={"GREETING": "hi"}, labels={"team": "x"})
    box.shell(SCATTER)
    look = box.shell(LOOK)
    box.shell("nohup sleep 1000 >/dev/null 2>&1 &")
    assert box.call("POST", "/stop", {})["status"]["state"] == "stopped"
    left = settle(STATE_DIR, before, 3)
    assert set(left) == {"files", "slots"}, left
    refused = box.try_call("POST", "/tools:run_shell_command", {"command": "true"})
    assert refused.status_code == 409 and "is stopped; start it first" in refused.json()["message"]

    own_server.kill()
    own_server.restart()
    assert box.status()["state"] == "stopped"
    started = box.call("POST", "/start", {})
    assert started["status"]["state"] == "running" and started["spec"]["labels"] == {"team": "x"}
    assert box.shell(LOOK) == look
    assert box.shell("pgrep -c sleep; echo $GREETING") == "0\nhi\n"
    # Names resolve and the network is there again, at its old place.
    assert box.shell("ip -4 -o address | wc -l") == "2\n"
    box.call("POST", "/stop", {})
    box.call("DELETE", "")
    assert settle(STATE_DIR, before) == {}


def test_an_archived_sandbox_takes_little_space_and_comes_back(own_server: Server) -> None:
    before = count(STATE_DIR)
    box = Box(own_server, "archived")
    box.shell(SCATTER)
    box.shell("yes | head -c 50000000 > /work/large")
    look = box.shell(LOOK)
    assert box.try_call("POST", "/archive", {}).status_code == 409
    box.call("POST", "/stop", {})
    assert box.call("POST", "/archive", {})["status"]["state"] in ("archiving", "archived")
    box.wait_for("archived")
    left = settle(STATE_DIR, before, 3)
    assert set(left) == {"files"}, left
    size = sum(path.stat().st_size for path in Path(left["files"][0]).rglob("*"))
    assert size < 1_000_000
    own_server.kill()
    own_server.restart()
    assert box.status()["state"] == "archived"
    box.call("POST", "/start", {})
    assert box.shell(LOOK) == look
    assert box.shell("wc -c < /work/large") == "50000000\n"
    box.call("POST", "/stop", {})
    box.call("POST", "/archive", {})
    box.call("DELETE", "")
    assert settle(STATE_DIR, before) == {}


def test_leases_stop_and_end_and_labels_filter(server: Server) -> None:
    box = Box(server, "leased", stop_after_idle_s=0.5, delete_after_stop_s=1.5, labels={"kind": "leased", "n": "1"})
    url = f"{server.base_url}/spaces/default/sandboxes"
    found = httpx.get(url, params={"labels": "kind=leased,n=1"}).json()["sandboxes"]
    assert [sandbox["name"] for sandbox in found] == ["leased"]
    assert httpx.get(url, params={"labels": "kind=leased,n=2"}).json()["sandboxes"] == []
    assert httpx.get(url, params={"labels": "kind"}).status_code == 400
    assert box.shell("sleep 1; echo busy") == "busy\n"
    box.wait_for("stopped", 5)
    deadline = time.monotonic() + 10
    while (answer := box.try_call("GET", "")).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.json()["tombstone"]["reason"] == "stopped"

    ephemeral = Box(server, "ephemeral", delete_after_stop_s=0)
    answer = ephemeral.try_call("POST", "/stop", {})
    assert answer.status_code == 404 and answer.json()["tombstone"]["reason"] == "stopped"


def test_what_dies_is_stopped_with_its_files_where_they_are_kept(own_server: Server) -> None:
    box = Box(own_server, "mortal", archive_after_stop_s=1000)
    box.shell(SCATTER)
    look = box.shell(LOOK)
    uid = box.call("GET", "")["uid"]
    record = json.loads((Path(STATE_DIR) / "sandboxes" / uid / "record.json").read_text())
    os.kill(record["init"]["pid"], signal.SIGKILL)
    status = box.wait_for("stopped")
    assert "signal 9" in status["fault"] or "does not tell" in status["fault"]
    box.call("POST", "/start", {})
    assert box.status()["fault"] is None and box.shell(LOOK) == look


@pytest.mark.parametrize("seed", range(3))
def test_a_server_killed_at_any_moment_loses_no_file(seed: int) -> None:
    before = count(STATE_DIR)
    running = Server(ephemeral=False)
    chance = random.Random(seed)
    box = Box(running, "victim", archive_after_stop_s=1000)
    box.shell(SCATTER)
    look = box.shell(LOOK)
    for _ in range(8):
        thread = threading.Thread(target=_cycle_ignoring_errors, args=(box,))
        thread.start()
        time.sleep(chance.uniform(0, 0.4))
        running.kill()
        thread.join()
        running.restart()
        _wait_for_rest(box)
        box.call("POST", "/start", {})
        assert box.shell(LOOK) == look
    box.call("DELETE", "")
    running.stop()
    running.check_log()
    assert settle(STATE_DIR, before) == {}


def _cycle_ignoring_errors(box: Box) -> None:
    for what in ("/stop", "/archive", "/start", "/stop", "/start"):
        try:
            box.try_call("POST", what, {})
        except httpx.HTTPError:
            return


def _wait_for_rest(box: Box) -> None:
    deadline = time.monotonic() + 30
    while box.status()["state"] not in ("running", "stopped", "archived"):
        assert time.monotonic() < deadline, box.status()
        time.sleep(0.02)
