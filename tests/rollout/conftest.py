"""A server in front of another one of ours, which stands in for the real Daytona.

The drill wants the newest SDK of Daytona: ``scripts/test.sh`` runs it with the interpreter
that has it (see ``tests/conformance/daytona/conftest.py``); others collect the rest only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import httpx
import pytest

from conftest import BINARY, Server

for _name in [name for name in os.environ if name.startswith("DAYTONA_")]:
    del os.environ[_name]

#: Keys of the two servers; neither takes the other's.
KEY = "0123456789abcdef-front"
UPSTREAM_KEY = "fedcba9876543210-upstream"


def _not_for_this_interpreter() -> List[str]:
    versions = {
        package: importlib.metadata.version(package)
        for package in ("daytona", "daytona-sdk")
        if importlib.util.find_spec(package.replace("-", "_"))
    }
    if not versions:
        return ["test_drill.py"]
    return ["test_choices.py", "test_passing.py"] + ([] if versions.get("daytona") == "0.226.1" else ["test_drill.py"])


collect_ignore = _not_for_this_interpreter()


class Pair:
    """Both servers, and what an operator and a program see of them."""

    def __init__(self, front_env: Optional[Dict[str, str]] = None, upstream_env: Optional[Dict[str, str]] = None) -> None:
        self.upstream = Server(env={"SANDBOXAI_SERVER_API_KEYS": UPSTREAM_KEY, **(upstream_env or {})})
        try:
            self.front = Server(ephemeral=False, env={
                "SANDBOXAI_SERVER_API_KEYS": KEY,
                "SANDBOXAI_ROLLOUT_UPSTREAM_URL": f"{self.upstream.url}/api",
                "SANDBOXAI_ROLLOUT_UPSTREAM_KEY": UPSTREAM_KEY,
                **(front_env or {}),
            })
        except BaseException:
            self.upstream.stop()
            raise
        self.api = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60)

    def close(self) -> None:
        """Ends both, and with them all that they made and kept."""
        self.front.stop()
        self.front.ephemeral = True
        self.front.restart()
        self.front.stop()
        self.upstream.stop()
        self.front.check_log()
        self.upstream.check_log()

    # What a program does.

    def create(self, **body: Any) -> httpx.Response:
        return self.api.post(f"{self.front.url}/api/sandbox", json=body)

    # What an operator does.

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "SANDBOXAI_API_KEY": KEY}
        command = [BINARY, "rollout", *arguments, "--server", self.front.url]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def rollout(self, *arguments: str) -> Dict[str, Any]:
        result = self.command(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def metrics(self) -> Dict[str, float]:
        page = self.api.get(f"{self.front.url}/metrics").text
        lines = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
        return {series: float(value) for series, value in lines}

    def requests(self, side: str, operation: str, status: str) -> float:
        return self.metrics()[
            f'sandboxai_rollout_requests_total{{side="{side}",operation="{operation}",status="{status}"}}']

    # Where sandboxes are, as their own server says.

    def here(self) -> List[str]:
        return _ids(self.front, KEY)

    def there(self) -> List[str]:
        return _ids(self.upstream, UPSTREAM_KEY)

    def decisions(self) -> List[str]:
        """The lines of the log that say where a new sandbox goes."""
        plain = self.front.log().replace("\x1b[0m", "")
        return [line for line in plain.splitlines() if "a new sandbox has its side" in line]


def _ids(server: Server, key: str) -> List[str]:
    """Ids, which are the names of sandboxes that nobody gave one."""
    answer = httpx.get(f"{server.base_url}/spaces/default/sandboxes", headers={"Authorization": f"Bearer {key}"})
    return [sandbox["name"] for sandbox in answer.json()["sandboxes"]]


@pytest.fixture()
def make_pair() -> Iterator[Callable[..., Pair]]:
    """Makes pairs that end with the test."""
    made: List[Pair] = []

    def make(**environments: Dict[str, str]) -> Pair:
        made.append(Pair(**environments))
        return made[-1]

    yield make
    for both in made:
        both.close()


@pytest.fixture()
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair()


def spawner_of(server: Server) -> int:
    """The process of a server that makes its sandboxes."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            command = entry.joinpath("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == server.process.pid and b"__spawner" in command:
            return int(entry.name)
    raise AssertionError("the server has no spawner")
