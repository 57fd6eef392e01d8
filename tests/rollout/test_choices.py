"""Which side a new sandbox goes to, what is counted of it, and what an operator can do."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Callable

import httpx
import pytest

from conftest import BINARY, STATE_DIR, Server
from rollout.conftest import KEY, UPSTREAM_KEY, Pair, spawner_of
from sandboxai.suna.rollout import place_of

#: What no server of ours serves; a real Daytona does.
VOLUME = {"volumes": [{"volumeId": "v", "mountPath": "/v"}]}


def last(both: Pair) -> str:
    return both.decisions()[-1]


def test_nothing_is_made_here_until_it_is_asked_for(pair: Pair) -> None:
    status = pair.rollout("status")
    assert (status["share"], status["reason"]) == (0, "configured")
    assert status["upstream"] == f"{pair.upstream.url}/api"
    made = pair.create(labels={"id": "project"})
    assert made.status_code == 200, made.text
    assert pair.here() == [] and pair.there() == [made.json()["id"]]
    # A label keeps its side; the formula is that of the Python package.
    assert 'side="daytona"' in last(pair) and f"place {place_of('project'):.2f}, share 0 %" in last(pair)
    assert 'label="project"' in last(pair) and "request" in last(pair), "by the request's id it is found again"
    assert pair.rollout("status")["sides"]["daytona"]["sandboxes_created_total"] == 1


def test_of_ten_without_a_label_half_are_here(pair: Pair) -> None:
    pair.rollout("set", "50")
    for _ in range(10):
        assert pair.create().status_code == 200
    assert (len(pair.here()), len(pair.there())) == (5, 5)
    sides = pair.rollout("status")["sides"]
    for side in ("sandboxai", "daytona"):
        assert sides[side]["sandboxes_created_total"] == sides[side]["creations"] == sides[side]["requests"] == 5
        assert sides[side]["failures"] == 0 and 0 < sides[side]["create_p50_seconds"] <= sides[side]["create_p95_seconds"]
        assert pair.requests(side, "create", "success") == 5
        assert pair.metrics()[f'sandboxai_rollout_request_duration_seconds_count{{side="{side}",operation="create"}}'] == 5


def test_a_name_is_taken_on_both_sides_at_once(pair: Pair) -> None:
    assert pair.create(name="there").status_code == 200
    pair.rollout("set", "100")
    assert pair.create(name="there").status_code == 409
    assert pair.create(name="here").status_code == 200
    pair.rollout("set", "0")
    assert pair.create(name="here").status_code == 409
    assert (pair.here(), pair.there()) == (["here"], ["there"])
    sides = pair.rollout("status")["sides"]
    assert sides["sandboxai"]["failures"] == sides["daytona"]["failures"] == 0


def test_what_only_one_side_can_make_is_made_there(pair: Pair) -> None:
    # The stand-in refuses it as this server would: who is asked is what is tested.
    pair.rollout("set", "100")
    assert pair.create(**VOLUME).status_code == 501
    assert 'side="daytona"' in last(pair) and "a volume" in last(pair)
    assert pair.requests("daytona", "create", "refused") == 1
    assert pair.create(gpu=1).status_code == 400
    assert 'side="daytona"' in last(pair)
    here = pair.create(name="taken").json()["id"]
    # Files for builds are where they were uploaded to.
    build = {"dockerfileContent": "FROM sandboxai/box\nCOPY a /a\n", "contextHashes": ["0" * 64]}
    pair.create(buildInfo=build)
    assert 'side="daytona"' in last(pair) and "the files for its image are not here" in last(pair)
    pair.rollout("set", "0")
    assert pair.create(name="taken").status_code == 409
    assert 'side="sandboxai"' in last(pair) and "taken is here already" in last(pair)
    linked = pair.create(linkedSandbox=here)
    assert linked.status_code == 200 and linked.json()["id"] in pair.here()
    assert pair.create(linkedSandbox="elsewhere").status_code == 404
    assert 'side="daytona"' in last(pair)


def test_an_image_that_cannot_be_got_here_is_looked_for_at_the_upstream(make_pair: Callable[..., Pair]) -> None:
    both = make_pair(
        front_env={"SANDBOXAI_IMAGES_FETCH": "false", "SANDBOXAI_ROLLOUT_SHARE": "100"},
        upstream_env={"SANDBOXAI_IMAGES_ALIASES": "only/there:*=sandboxai/box"},
    )
    made = both.create(snapshot="only/there:1")
    assert made.status_code == 200, made.text
    assert made.json()["id"] in both.there()
    first, second = both.decisions()
    assert 'side="sandboxai"' in first and 'side="daytona"' in second and "only/there:1" in second
    assert both.requests("daytona", "create", "success") == 1 and both.requests("sandboxai", "create", "success") == 0


def test_an_upstream_that_does_not_answer_is_named(make_pair: Callable[..., Pair]) -> None:
    both = make_pair()
    both.upstream.stop()
    answer = both.create()
    assert answer.status_code == 502, answer.text
    assert both.upstream.url in answer.json()["message"]
    # Its part of a list is missing by no fault of ours.
    assert both.api.get(f"{both.front.url}/api/sandbox").status_code == 502
    sides = both.rollout("status")["sides"]
    assert (sides["daytona"]["failures"], sides["daytona"]["creation_failures"]) == (2, 1)
    assert sides["sandboxai"]["failures"] == 0
    # What is made here needs no upstream.
    both.rollout("set", "100")
    assert both.create().status_code == 200


def test_our_limit_of_sandboxes_is_a_failure_and_a_callers_mistake_is_none(make_pair: Callable[..., Pair]) -> None:
    both = make_pair(front_env={"SANDBOXAI_LIMITS_SANDBOXES": "1", "SANDBOXAI_ROLLOUT_SHARE": "100",
                           "SANDBOXAI_ROLLOUT_FALLBACK": "false", "SANDBOXAI_ROLLOUT_CREATIONS_MIN": "4", "SANDBOXAI_ROLLOUT_REQUESTS_MIN": "1000"})
    assert both.create(cpu=-1).status_code == 400
    assert both.create().status_code == 200
    assert httpx.post(f"{both.front.url}/api/sandbox", json={}).status_code == 401
    for _ in range(2):
        assert both.create().status_code == 429
    status = both.rollout("status")
    assert (status["share"], status["sides"]["sandboxai"]["requests"]) == (100, 4), "401 is nobody's request"
    both.front.expected.append("new sandboxes go to the upstream")
    assert both.create().status_code == 429
    status = both.rollout("status")
    assert (status["share"], status["reason"]) == (0, "rolled back: 3 of 4 creations failed, more than 5.0 %")
    assert both.create().status_code == 200 and len(both.there()) == 1
    assert both.metrics()["sandboxai_rollout_rollbacks_total"] == 1


def test_what_fails_here_is_made_at_the_upstream_and_counts_as_failed_here(make_pair: Callable[..., Pair]) -> None:
    both = make_pair(front_env={"SANDBOXAI_LIMITS_SANDBOXES": "1", "SANDBOXAI_ROLLOUT_SHARE": "100",
                           "SANDBOXAI_ROLLOUT_CREATIONS_MIN": "3"})
    both.front.expected += ["new sandboxes go to the upstream", "a creation failed here"]
    for _ in range(3):
        assert both.create().status_code == 200
    assert (len(both.here()), len(both.there())) == (1, 2)
    assert 'side="daytona"' in last(both) and "it failed here: " in last(both) and "as many as" in last(both)
    status = both.rollout("status")
    assert (status["share"], status["reason"]) == (0, "rolled back: 2 of 3 creations failed, more than 5.0 %")
    assert both.requests("sandboxai", "create", "failure") == both.requests("daytona", "create", "success") == 2
    # Mistakes of callers are not tried twice.
    both.rollout("set", "100")
    assert both.create(cpu=-1).status_code == 400 and 'side="sandboxai"' in last(both)


def test_creations_that_are_too_slow_roll_back_also_when_nobody_waits_for_them(make_pair: Callable[..., Pair]) -> None:
    # No creation takes so little.
    limits = {"SANDBOXAI_ROLLOUT_CREATE_P95_MAX": "1ms", "SANDBOXAI_ROLLOUT_CREATIONS_MIN": "2"}
    both = make_pair(front_env={"SANDBOXAI_ROLLOUT_SHARE": "100", **limits})
    both.front.expected.append("new sandboxes go to the upstream")
    assert both.create().status_code == 200
    assert both.rollout("status")["share"] == 100
    assert both.create().status_code == 200
    assert "95 of 100 creations take up to" in both.rollout("status")["reason"]
    both.rollout("set", "100")
    # Making sandboxes hangs, and callers give up.
    spawner = spawner_of(both.front)
    os.kill(spawner, 19)
    try:
        for _ in range(2):
            with pytest.raises(httpx.TimeoutException):
                both.api.post(f"{both.front.url}/api/sandbox", json={}, timeout=0.5)
        until = time.monotonic() + 10
        while both.rollout("status")["share"] != 0:
            assert time.monotonic() < until, both.rollout("status")
            time.sleep(0.1)
    finally:
        os.kill(spawner, 18)
    assert "2 of 2 creations failed" in both.rollout("status")["reason"]


def test_a_share_outlives_kill_9_and_a_damaged_file_is_told(pair: Pair) -> None:
    pair.rollout("set", "33.3")
    pair.front.kill()
    pair.front.restart()
    status = pair.rollout("status")
    assert (status["share"], status["reason"]) == (33.3, "set by a client")
    assert [change["share"] for change in status["history"]] == [33.3, 0]
    file = Path(STATE_DIR, "server", pair.front.scope, "rollout.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    whole = file.read_text()
    pair.front.kill()
    file.write_text(whole[:20])
    with pytest.raises(AssertionError, match="is damaged.*remove it"):
        pair.front.restart()
    file.write_text(whole)
    pair.front.restart()
    assert pair.rollout("status")["share"] == 33.3


def test_the_api_says_what_is_wrong(pair: Pair, server: Server) -> None:
    url = f"{pair.front.url}/v1/rollout"
    assert httpx.get(url).status_code == httpx.put(url, json={"share": 1}).status_code == 401
    assert httpx.post(f"{url}/rollback").status_code == 401
    for body in ({}, {"share": 101}, {"share": -1}, {"share": "50"}, {"share": None}, {"shares": 1}, [], None):
        answer = pair.api.put(url, json=body)
        assert (answer.status_code, answer.json()["kind"]) == (400, "invalid_request"), answer.text
        assert "`share`" in answer.json()["message"]
    assert pair.api.post(f"{url}/rollback", json={"reason": 1}).status_code == 400
    assert pair.api.get(url).json()["share"] == 0, "nothing has changed"
    assert pair.api.put(url, json={"share": 50}).json()["share"] == 50
    answer = pair.api.post(f"{url}/rollback").json()
    assert (answer["share"], answer["reason"]) == (0, "rolled back: asked for by a client")
    assert [change["share"] for change in answer["history"]] == [0, 50, 0]
    # Without an upstream there is nothing to divide.
    answer = httpx.get(f"{server.url}/v1/rollout")
    assert (answer.status_code, answer.json()["kind"]) == (404, "not_found")
    assert "rollout.upstream_url" in answer.json()["message"]


def test_the_command_line(pair: Pair, server: Server) -> None:
    result = pair.command("set", "12.5%")
    assert result.returncode == 0 and result.stdout.startswith("12.5 % of new sandboxes are made here"), result.stderr
    assert "SANDBOXAI" in result.stdout and "DAYTONA" in result.stdout and pair.upstream.url in result.stdout
    result = pair.command("rollback", "--reason", "complaints of users")
    assert "rolled back: complaints of users" in result.stdout
    assert pair.command("set", "101").returncode == 2
    none = subprocess.run([BINARY, "rollout", "status", "--server", server.url], capture_output=True, text=True)
    assert none.returncode == 3 and "rollout.upstream_url" in none.stderr


def test_the_key_of_the_upstream_is_nowhere_to_be_seen(pair: Pair) -> None:
    pair.create()
    answers = [pair.api.get(f"{pair.front.url}{path}").text for path in ("/v1/rollout", "/metrics", "/api/config")]
    assert UPSTREAM_KEY not in "".join(answers) + pair.front.log()
    assert KEY not in pair.upstream.log()


def test_an_upstream_without_a_key_is_a_mistake() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    environment = {**os.environ, "SANDBOXAI_ROLLOUT_UPSTREAM_URL": url}
    result = subprocess.run([BINARY, "config"], env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and "rollout.upstream_key_file" in result.stderr, result.stderr
    assert json.dumps(UPSTREAM_KEY) not in result.stderr
