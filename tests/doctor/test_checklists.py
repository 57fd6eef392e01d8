"""``sandboxai doctor --checklist``: the four lists, failing and passing, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List

import httpx
import pytest
from conftest import BINARY, PATIENCE_S, ROOT, Server
from prometheus import Prometheus, prometheus
from rollout.conftest import KEY as FRONT_KEY
from rollout.conftest import Pair
from sandboxai import Sandbox

KEY = "a-key-for-the-checklists"
#: Over which the rollout counts, seconds; a stage takes as long at least.
WINDOW_S = 5
LISTS = {
    "before-migration": 6,
    "before-ab": 4,
    "before-full": 4,
    "after": 4,
}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    """A server that wants a key, as in production."""
    running = Server(env={"SANDBOXAI_SERVER_API_KEYS": KEY})
    yield running
    running.stop()
    running.check_log()


@pytest.fixture(scope="module")
def watched(keyed: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus(keyed.url, tmp_path_factory.mktemp("prometheus"), KEY) as running:
        yield running


def run(url: str, checklist: str, *words: str, key: str = KEY) -> Dict[str, Dict[str, str]]:
    """The lines of a list by name; the exit code must say what they say."""
    environment = {**os.environ, "SANDBOXAI_URL": url, "SANDBOXAI_API_KEY": key, "PYTHONPATH": str(ROOT / "python")}
    command = [BINARY, "--json", "doctor", "--checklist", checklist, *words]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    said = json.loads(ran.stdout)
    items = {item["name"]: item for item in said["items"]}
    assert said["checklist"] == checklist and len(items) == LISTS[checklist]
    for item in items.values():
        assert item["status"] == "pass" or (item["status"] == "fail" and item["fix"]), item
    assert said["ok"] == all(item["status"] == "pass" for item in items.values())
    assert ran.returncode == (0 if said["ok"] else 1), ran.stderr
    return items


def failing(items: Dict[str, Dict[str, str]]) -> List[str]:
    return [name for name, item in items.items() if item["status"] == "fail"]


def env_file(folder: Path, name: str, **variables: str) -> str:
    path = folder / name
    path.write_text("".join(f"{key}={value}\n" for key, value in variables.items()))
    return str(path)


def of_suna(folder: Path, server: Server, **more: str) -> str:
    """SUNA's environment after the move: only these three have changed."""
    url = f"{server.url}/api"
    return env_file(folder, "suna.env", DAYTONA_SERVER_URL=url, DAYTONA_API_KEY=KEY, DAYTONA_TARGET="us", **more)


def of_daytona(folder: Path) -> str:
    return env_file(
        folder, "old.env", DAYTONA_SERVER_URL="https://app.daytona.io/api", DAYTONA_API_KEY="dtn_1", DAYTONA_TARGET="us"
    )


def test_without_evidence_every_line_fails_and_says_what_to_do(keyed: Server) -> None:
    assert failing(run(keyed.url, "before-migration")) == [
        "adapter tested",
        "tools use the factory",
        "monitoring set up",
        "rollback plan ready",
    ]
    assert failing(run(keyed.url, "before-ab", "--log-file", "/nowhere")) == [
        "feature flag",
        "logging set up",
        "metrics collected",
        "alerts set up",
    ]
    assert failing(run(keyed.url, "after")) == [
        "Daytona removed",
        "dependencies updated",
        "documentation updated",
        "team trained",
    ]


def test_without_a_server_nothing_is_tested() -> None:
    items = run("http://127.0.0.1:1", "before-migration")
    assert "there is no server at" in items["SandboxAI tested"]["finding"]
    assert len(failing(run("http://127.0.0.1:1", "before-full"))) == 4


def test_people_read_lines(keyed: Server) -> None:
    environment = {**os.environ, "SANDBOXAI_URL": keyed.url, "SANDBOXAI_API_KEY": KEY}
    command = [BINARY, "doctor", "--checklist", "before-full", "--confirm", "users"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert "pass  users content: confirmed by --confirm users\n" in ran.stdout
    assert "fail  A/B test went 10 → 50 → 100: " in ran.stdout and "      fix: " in ran.stdout


def test_before_the_migration(keyed: Server, watched: Prometheus, tmp_path: Path) -> None:
    words = ["--env-file", of_suna(tmp_path, keyed), "--old-env-file", of_daytona(tmp_path), "--prometheus", watched.url]
    items = run(keyed.url, "before-migration", *words)
    assert failing(items) == []
    assert keyed.url.split("//")[1] in items["monitoring set up"]["finding"]
    left = httpx.get(f"{keyed.base_url}/spaces/default/sandboxes", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert left["sandboxes"] == [], "the trials leave sandboxes"


def test_an_environment_that_leads_elsewhere(keyed: Server, server: Server, tmp_path: Path) -> None:
    elsewhere = of_suna(tmp_path, server)
    items = run(keyed.url, "before-migration", "--env-file", elsewhere, "--old-env-file", elsewhere)
    assert "does not lead to this server" in items["adapter tested"]["finding"]
    assert "does not lead to this server" in items["tools use the factory"]["finding"]
    here = of_suna(tmp_path, keyed)
    items = run(keyed.url, "before-migration", "--env-file", here, "--old-env-file", here)
    assert "leads here" in items["rollback plan ready"]["finding"]
    wrong_key = env_file(tmp_path, "k", DAYTONA_API_URL=f"{keyed.url}/api", DAYTONA_API_KEY="another-key-than-ours")
    items = run(keyed.url, "before-migration", "--env-file", wrong_key, "--old-env-file", wrong_key)
    assert failing(items)[0] == "adapter tested"
    assert "lacks DAYTONA_TARGET" in items["rollback plan ready"]["finding"]


def test_the_adapter_and_a_backend_that_uses_it(keyed: Server, tmp_path: Path) -> None:
    backend = tmp_path / "backend"
    for path, text in {
        "core/sandbox/__init__.py": "from sandboxai.suna import *\n",
        "core/sandbox/sandbox.py": "from daytona_sdk import Daytona\n",
        "core/tools/sb_files_tool.py": "import os\nfrom daytona_sdk import Daytona\n",
        "pyproject.toml": '[project]\ndependencies = [\n  "daytona-sdk==0.21.0",\n]\n',
        "docs/SANDBOX.md": "Get a key at https://app.daytona.io\n",
    }.items():
        (backend / path).parent.mkdir(parents=True, exist_ok=True)
        (backend / path).write_text(text)
    words = ["--python", sys.executable, "--backend", str(backend)]
    items = run(keyed.url, "before-migration", *words)
    assert items["adapter tested"]["status"] == "pass", items["adapter tested"]
    assert "core/tools/sb_files_tool.py:2" in items["tools use the factory"]["finding"]
    (backend / "core/tools/sb_files_tool.py").write_text("from core.sandbox import get_sandbox_client\n")
    assert run(keyed.url, "before-migration", *words)["tools use the factory"]["status"] == "pass"

    after = ["--backend", str(backend), "--docs", str(backend / "docs"), "--confirm", "team"]
    items = run(keyed.url, "after", *after)
    assert "core/sandbox/sandbox.py:1" in items["Daytona removed"]["finding"]
    assert "pyproject.toml:3" in items["dependencies updated"]["finding"]
    assert "SANDBOX.md:1" in items["documentation updated"]["finding"]
    (backend / "core/sandbox/sandbox.py").unlink()
    (backend / "pyproject.toml").write_text('[project]\ndependencies = ["sandboxai"]\n')
    (backend / "docs/SANDBOX.md").write_text("SUNA's sandboxes are made by SandboxAI.\n")
    assert failing(run(keyed.url, "after", *after)) == []


def test_after_the_move_of_an_unchanged_suna(keyed: Server, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/SANDBOX.md").write_text("SUNA speaks to SandboxAI with Daytona's SDK.\n")
    words = ["--env-file", of_suna(tmp_path, keyed), "--docs", str(tmp_path / "docs"), "--confirm", "team"]
    items = run(keyed.url, "after", *words)
    assert failing(items) == []
    assert "Daytona's SDK stays" in items["dependencies updated"]["finding"]
    of_old = run(keyed.url, "after", "--env-file", env_file(tmp_path, "x", DAYTONA_API_URL="http://127.0.0.1:1/api"), *words[2:])
    assert failing(of_old) == ["Daytona removed", "dependencies updated"]


def test_a_python_without_the_adapter(keyed: Server, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {sys.executable} -I "$@"\n')
    python.chmod(0o755)
    items = run(keyed.url, "before-migration", "--python", str(python))
    assert "No module named 'sandboxai'" in items["adapter tested"]["finding"]


def test_before_the_ab_test(keyed: Server, watched: Prometheus, tmp_path: Path) -> None:
    Sandbox(keyed.base_url, api_key=KEY).delete()
    until = time.monotonic() + PATIENCE_S
    while not watched.query("sandbox_operations_total")["data"]["result"]:
        assert time.monotonic() < until, "operations are not scraped"
        time.sleep(0.3)
    share = {"SANDBOX_AB_TEST": "true", "SANDBOX_AB_PERCENTAGE": "10"}
    words = ["--prometheus", watched.url, "--log-file", str(keyed.log_path)]
    items = run(keyed.url, "before-ab", *words, "--env-file", env_file(tmp_path, "e", **share))
    assert failing(items) == []
    assert "10 %" in items["feature flag"]["finding"]
    share["SANDBOX_AB_PERCENTAGE"] = "lots"
    items = run(keyed.url, "before-ab", *words, "--env-file", env_file(tmp_path, "e", **share))
    assert failing(items) == ["feature flag"] and '"lots"' in items["feature flag"]["finding"]


def test_rules_that_are_not_loaded_are_named(keyed: Server, tmp_path: Path) -> None:
    with prometheus(keyed.url, tmp_path / "prometheus", KEY, rules=False) as bare:
        items = run(keyed.url, "before-ab", "--prometheus", bare.url, "--log-file", str(keyed.log_path))
    assert "SandboxAIDown" in items["alerts set up"]["finding"]


def test_a_prometheus_of_another_server(keyed: Server, watched: Prometheus) -> None:
    # Servers are told apart by when they were started.
    page = httpx.get(f"{keyed.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    uptime = float(page.split("\nsandboxai_uptime_seconds ")[1].split("\n")[0])
    time.sleep(max(0.0, 11 - uptime))
    other = Server(env={"SANDBOXAI_SERVER_API_KEYS": KEY})
    try:
        items = run(other.url, "before-migration", "--prometheus", watched.url)
        assert "does not scrape this server" in items["monitoring set up"]["finding"]
    finally:
        other.stop()
        other.check_log()


def test_before_daytona_is_given_up_without_a_rollout_in_the_server() -> None:
    server = Server(env={"SANDBOXAI_SERVER_API_KEYS": KEY})
    try:
        people = ["--confirm", "users", "--confirm", "ab"]
        assert failing(run(server.url, "before-full", *people)) == ["no critical errors", "performance acceptable"]
        for number in range(10):
            Sandbox(server.base_url, api_key=KEY, name=f"box-{number}").delete()
        items = run(server.url, "before-full", *people)
        assert failing(items) == []
        assert items["no critical errors"]["finding"].startswith("0 of 20 operations")
        assert failing(run(server.url, "before-full")) == ["A/B test went 10 → 50 → 100", "users content"]
    finally:
        server.stop()
        server.check_log()


def test_a_rollout_in_the_server_is_judged_by_what_it_tells() -> None:
    limits = {"WINDOW": f"{WINDOW_S}s", "REQUESTS_MIN": "4", "CREATIONS_MIN": "2"}
    pair = Pair({f"SANDBOXAI_ROLLOUT_{name}": value for name, value in limits.items()})

    def of(checklist: str, *words: str) -> Dict[str, Dict[str, str]]:
        return run(pair.front.url, checklist, *words, key=FRONT_KEY)

    try:
        plan = of("before-migration")["rollback plan ready"]
        assert plan["status"] == "pass" and pair.upstream.url in plan["finding"], plan
        assert pair.create(name="left").status_code == 200 and pair.there() == ["left"]
        assert "the server makes 0 % here" in of("before-ab", "--log-file", "/nowhere")["feature flag"]["finding"]
        assert "the share is 0 %" in of("before-full")["A/B test went 10 → 50 → 100"]["finding"]
        pair.rollout("set", "10")
        assert "has lasted only" in of("before-full")["A/B test went 10 → 50 → 100"]["finding"]
        time.sleep(WINDOW_S)
        pair.rollout("set", "50")
        assert "only 10 %" in of("before-full")["A/B test went 10 → 50 → 100"]["finding"]
        time.sleep(WINDOW_S)
        pair.rollout("set", "100")
        time.sleep(WINDOW_S)
        few = of("before-full", "--confirm", "users")
        assert failing(few) == ["no critical errors", "performance acceptable"]
        for number in range(3):
            made = pair.create(name=f"box-{number}")
            assert made.status_code == 200, made.text
            assert pair.api.delete(f"{pair.front.url}/api/sandbox/{made.json()['id']}").status_code == 200
        items = of("before-full", "--confirm", "users")
        assert failing(items) == [], items
        assert "100 % since" in items["A/B test went 10 → 50 → 100"]["finding"]
        left = of("after")["Daytona removed"]
        assert left["status"] == "fail" and left["finding"].startswith("1 sandboxes are at "), left
        pair.rollout("rollback", "--reason", "a test")
        back = of("before-full", "--confirm", "users")["A/B test went 10 → 50 → 100"]
        assert back["status"] == "fail" and "a test" in back["finding"], back
        pair.upstream.stop()
        gone = of("before-migration")["rollback plan ready"]
        assert gone["status"] == "fail" and "does not answer" in gone["finding"], gone
    finally:
        pair.close()
