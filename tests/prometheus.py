"""A real Prometheus that scrapes one server, with the configuration and rules in ``deploy/``."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator, List

import httpx

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
RULES = DEPLOY / "prometheus/alerts.yml"
#: How long Prometheus may take until it has scraped, seconds.
PATIENCE_S = 30


class Prometheus:
    """Answers queries."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, text: str) -> Any:
        return httpx.get(f"{self.url}/api/v1/query", params={"query": text}).json()

    def scrapes(self) -> float:
        """How often it has found the server up."""
        found = self.query("sum_over_time(up[1m])")["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0


@contextlib.contextmanager
def prometheus(server_url: str, folder: Path, key: str = "", rules: bool = True) -> Iterator[Prometheus]:
    """One that has scraped the server twice, since two scrapes make a rate."""
    program = shutil.which("prometheus")
    assert program, "scripts/setup.sh --test installs it"
    config = (DEPLOY / "prometheus/prometheus.yml").read_text()
    assert "127.0.0.1:5266" in config and "scrape_interval: 15s" in config
    config = config.replace("127.0.0.1:5266", server_url.split("//")[1]).replace("scrape_interval: 15s", "scrape_interval: 1s")
    if key:
        config += f"    authorization:\n      credentials: {key}\n"
    folder.mkdir(exist_ok=True)
    (folder / "prometheus.yml").write_text(config)
    (folder / "alerts.yml").write_text(RULES.read_text() if rules else "groups: []\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command: List[str] = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        running = Prometheus(f"http://{address}")
        until = time.monotonic() + PATIENCE_S
        while True:
            # While it starts it says so in words.
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
                if running.scrapes() >= 2:
                    break
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.3)
        yield running
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
