"""Invariant 4: the server can be killed at any moment."""

from __future__ import annotations

import random
import threading
import time
from typing import List

import httpx
import pytest
from conftest import STATE_DIR, Server
from leftovers import count, settle
from sandboxai import Sandbox


def test_a_variable_survives_kill_9_of_the_server(own_server: Server) -> None:
    box = Sandbox(own_server.base_url, name="survivor")
    box.run_ipython_cell("kept = 'still here'")
    box.run_shell_command("echo on disk > /tmp/file; (sleep 300 &) ; true")
    own_server.kill()
    own_server.restart()
    box = Sandbox.attach("survivor", own_server.base_url)
    assert box.run_ipython_cell("print(kept)").output == "still here\n"
    assert box.run_shell_command("cat /tmp/file; pgrep -c sleep").output == "on disk\n1\n"


def test_names_resolve_after_a_restart(own_server: Server) -> None:
    box = Sandbox(own_server.base_url, name="resolver")
    own_server.kill()
    own_server.restart()
    box = Sandbox.attach("resolver", own_server.base_url)
    probe = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(8); " \
        "s.connect(('127.0.0.53', 53)); " \
        "s.send(b'\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x07invalid\\x00\\x00\\x01\\x00\\x01'); " \
        "print(s.recv(512)[:2].hex())"
    assert box.run_ipython_cell(probe).output == "1234\n"


def test_200_creates_and_deletes_20_of_them_killed_halfway_leave_nothing() -> None:
    before = count(STATE_DIR)
    running = Server(ephemeral=False)
    chance = random.Random(20)
    for number in range(180):
        with httpx.Client(base_url=running.base_url, timeout=30) as http:
            created = http.post("/spaces/default/sandboxes", json={"name": f"b{number}", "spec": {}})
            assert created.status_code == 201, created.text
            assert http.delete(f"/spaces/default/sandboxes/b{number}").status_code == 204
    for number in range(20):
        thread = threading.Thread(target=_create_ignoring_errors, args=(running.base_url, f"k{number}"))
        thread.start()
        time.sleep(chance.uniform(0, 0.02))
        running.kill()
        thread.join()
        running.restart()
    names = [s["name"] for s in httpx.get(f"{running.base_url}/spaces/default/sandboxes").json()["sandboxes"]]
    for name in names:
        assert httpx.delete(f"{running.base_url}/spaces/default/sandboxes/{name}", timeout=30).status_code == 204
    running.stop()
    running.check_log()
    assert settle(STATE_DIR, before) == {}


def _create_ignoring_errors(base_url: str, name: str) -> None:
    try:
        httpx.post(f"{base_url}/spaces/default/sandboxes", json={"name": name, "spec": {}}, timeout=30)
    except httpx.HTTPError:
        pass


def test_the_same_idempotency_key_makes_one_sandbox(server: Server) -> None:
    url, headers = f"{server.base_url}/spaces/default/sandboxes", {"Idempotency-Key": "once"}
    answers: List[dict] = []
    threads = [
        threading.Thread(target=lambda: answers.append(httpx.post(url, json={"spec": {}}, headers=headers, timeout=30).json()))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer["uid"] for answer in answers}) == 1
    httpx.delete(f"{url}/{answers[0]['name']}", timeout=30)


def test_a_second_server_on_the_same_scope_is_refused(own_server: Server) -> None:
    with pytest.raises(AssertionError) as refused:
        Server(scope=own_server.scope, ephemeral=False)
    assert own_server.scope in str(refused.value) or "another" in str(refused.value)


def test_50_created_at_once_all_work(server: Server) -> None:
    outputs: List[str] = []

    def one(number: int) -> None:
        with Sandbox(server.base_url) as box:
            outputs.append(box.run_shell_command(f"echo {number}").output)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs, key=int) == [f"{number}\n" for number in range(50)]
