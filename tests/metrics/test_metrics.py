"""`/metrics`, and what is delivered for Prometheus and Grafana."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Dict, Iterator, List

import httpx
import pytest
import sandboxai
from conftest import PATIENCE_S, Server
from prometheus import DEPLOY, RULES, prometheus
from sandboxai import Sandbox


@pytest.fixture()
def fresh() -> Iterator[Server]:
    """A server that has counted nothing."""
    running = Server()
    yield running
    running.stop()
    running.check_log()


@pytest.fixture()
def in_front() -> Iterator[Server]:
    """A server with an upstream, which nobody asks anything."""
    running = Server(env={
        "SANDBOXAI_ROLLOUT_UPSTREAM_URL": "http://127.0.0.1:9/api",
        "SANDBOXAI_ROLLOUT_UPSTREAM_KEY": "a-key-of-the-upstream",
        "SANDBOXAI_ROLLOUT_SHARE": "12.5",
    })
    yield running
    running.stop()
    running.check_log()


def scrape(server: Server) -> Dict[str, float]:
    """Every sample by name and labels."""
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    lines = answer.text.splitlines()
    assert lines[-1] == "# EOF" and lines.count("# EOF") == 1
    samples = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    assert len({series for series, _ in samples}) == len(samples), "a series twice"
    return {series: float(value) for series, value in samples}


def workload(server: Server) -> List[Sandbox]:
    """3 creations, 5 commands of which 1 fails by its exit code, 1 unknown file, 2 cells."""
    boxes = [Sandbox(server.base_url, name=f"box-{number}") for number in range(3)]
    for code in (0, 0, 0, 0, 3):
        assert boxes[0].run_shell_command(f"exit {code}").exit_code == code
    with pytest.raises(sandboxai.SandboxError):
        boxes[1].read_file("/no/such/file")
    for number in range(2):
        assert boxes[2].run_ipython_cell(f"print({number})").output == f"{number}\n"
    return boxes


def operations(samples: Dict[str, float]) -> Dict[str, float]:
    pattern = r'sandbox_operations_total\{operation_type="(.*)",status="(.*)"\}'
    found = ((re.fullmatch(pattern, series), value) for series, value in samples.items())
    return {f"{match[1]} {match[2]}": value for match, value in found if match}


def queries() -> List[str]:
    """Every query of the dashboard and of the alert rules."""
    dashboard = json.loads((DEPLOY / "grafana/sandboxai.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    rules = re.findall(r"expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", RULES.read_text())
    watched = [block or line for block, line in rules]
    assert len(shown) > 5 and len(watched) == RULES.read_text().count("alert: ")
    return [query.replace("$__rate_interval", "1m") for query in shown + watched]


def test_a_known_workload_is_counted_exactly(fresh: Server) -> None:
    boxes = workload(fresh)
    during = scrape(fresh)
    assert during["active_sandboxes"] == 3
    assert during['sandboxai_sandboxes{state="running"}'] == 3
    assert len([series for series in during if series.startswith("sandboxai_sandbox_memory_bytes{")]) == 3
    memory = sum(value for series, value in during.items() if series.startswith("sandboxai_sandbox_memory_bytes{"))
    assert during["sandboxai_sandboxes_memory_bytes"] == memory > 0
    for box in boxes:
        box.delete()
    after = scrape(fresh)
    assert operations(after) == {
        "create success": 3,
        "run_shell_command success": 5,
        "read_file failure": 1,
        "run_ipython_cell success": 2,
        "delete success": 3,
    }
    for operation, count in (("create", 3), ("run_shell_command", 5), ("read_file", 1), ("run_ipython_cell", 2), ("delete", 3)):
        assert after[f'sandbox_operation_duration_seconds_count{{operation_type="{operation}"}}'] == count
    assert after["active_sandboxes"] == 0
    assert after['sandboxai_sandboxes_ended_total{reason="deleted"}'] == 3
    assert after['sandboxai_errors_total{kind="not_found"}'] == 1
    phases = [value for series, value in after.items() if series.startswith("sandboxai_creation_phase_seconds_count{")]
    assert len(phases) > 5 and set(phases) == {3}
    assert not [series for series in after if "box-" in series], "series of sandboxes that have ended"


def test_what_belongs_to_no_sandbox_is_counted_until_it_is_removed(fresh: Server) -> None:
    boxes = workload(fresh)
    assert scrape(fresh)['sandboxai_leaks{kind="control_group"}'] == 0
    # In the alphabet of ids.
    stray = "stray" + uuid.uuid4().hex[:21].translate(str.maketrans("01", "zz"))
    # Beside a sandbox's own, in each hierarchy.
    own = boxes[0].info()["uid"]
    groups = [group.with_name(stray) for group in Path("/sys/fs/cgroup").glob(f"**/sandboxai/{own}")]
    assert groups
    until = time.monotonic() + PATIENCE_S
    while (counted := scrape(fresh))['sandboxai_leaks{kind="control_group"}'] == 0:
        for group in groups:
            group.mkdir(exist_ok=True)
        assert time.monotonic() < until, counted
        time.sleep(1)
    assert counted['sandboxai_leaks{kind="control_group"}'] == 1
    assert counted['sandboxai_leaks{kind="sandbox"}'] == 0
    for box in boxes:
        box.delete()
    # The start of a server sweeps.
    fresh.stop()
    fresh.restart()
    assert not [group for group in groups if group.exists()]
    assert scrape(fresh)['sandboxai_leaks{kind="control_group"}'] == 0


def test_requests_are_counted_by_route_and_never_by_path(fresh: Server) -> None:
    for path in ("/v1/spaces/default/sandboxes/nobody", "/v1/spaces/default/sandboxes/nobody-else", "/no/such/path"):
        assert httpx.get(f"{fresh.url}{path}").status_code == 404
    httpx.request("BREW", f"{fresh.url}/no/such/path")
    samples = {series: value for series, value in scrape(fresh).items() if series.startswith("sandboxai_http_requests_total")}
    route = "/v1/spaces/{space}/sandboxes/{name}"
    assert samples[f'sandboxai_http_requests_total{{method="GET",route="{route}",status="404"}}'] == 2
    assert samples['sandboxai_http_requests_total{method="GET",route="unmatched",status="404"}'] == 1
    assert samples['sandboxai_http_requests_total{method="other",route="unmatched",status="404"}'] == 1
    assert not [series for series in samples if "nobody" in series or "BREW" in series]


def test_a_scrape_needs_a_key_where_keys_are_configured() -> None:
    server = Server(env={"SANDBOXAI_SERVER_API_KEYS": "a-key-for-the-scraper"})
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    key = {"Authorization": "Bearer a-key-for-the-scraper"}
    assert httpx.get(f"{server.url}/metrics", headers=key).status_code == 200
    server.stop()
    server.check_log()


def test_a_rollout_is_counted_where_there_is_one(fresh: Server, in_front: Server) -> None:
    assert not [series for series in scrape(fresh) if "rollout" in series]
    samples = scrape(in_front)
    assert samples["sandboxai_rollout_share"] == 12.5
    assert samples["sandboxai_rollout_rollbacks_total"] == 0
    counted = [value for series, value in samples.items() if series.startswith("sandboxai_rollout_requests_total{")]
    assert len(counted) == 2 * 6 * 3 and set(counted) == {0}


def test_every_query_names_metrics_that_are_there(in_front: Server) -> None:
    boxes = workload(in_front)
    boxes[0].delete()
    names = {series.split("{")[0] for series in scrape(in_front)}
    for query in queries():
        without_texts = re.sub('"[^"]*"', "", query)
        used = set(re.findall(r"\b(?:sandboxai|sandbox|active)_[a-z_]+\b", without_texts))
        assert used or query.startswith("up{"), query
        assert used <= names, f"{query} uses {used - names}"
    for box in boxes[1:]:
        box.delete()


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "scripts/setup.sh --test installs it"
    for command, path in (("check", RULES), ("test", RULES.with_name("alerts_test.yml"))):
        result = subprocess.run([promtool, command, "rules", str(path)], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_scrapes_and_answers_every_query(fresh: Server, tmp_path: Path) -> None:
    boxes = workload(fresh)
    with prometheus(fresh.url, tmp_path) as running:
        for text in queries():
            assert running.query(text)["status"] == "success", text
        counted = running.query('sandbox_operations_total{operation_type="run_shell_command",status="success"}')
        assert counted["data"]["result"][0]["value"][1] == "5"
    for box in boxes:
        box.delete()
