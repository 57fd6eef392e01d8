#!/usr/bin/env python3
"""What Daytona's SDK takes on our server, beside its own floor, interleaved in one run.

    sudo bench/run.sh --daytona [--rounds N] [--out bench/results/NAME.json]

Each row is one public call of daytona 0.226.1, measured twice per round: at our server
and at a stub that answers the same calls with canned bodies and does nothing
(`daytona_stub.py`). Their difference is what our server adds; `server` is the time that
our answer itself reports, as Server-Timing's total. State is observed by polling at
both, so that neither row has the start of a WebSocket in it; create is answered with a
started sandbox, so that nothing is polled.

  create           daytona.create(), by default image
  exec             process.exec("echo hi")
  code_run         process.code_run("print('hi')"), a Python started for it
  session_command  process.execute_session_command("echo hi"), waited for
  upload_10_mib    fs.upload_file() of 10 MiB
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import httpx
import urllib3
from daytona import Daytona, DaytonaConfig, SessionExecuteRequest

from bench import keep, machine, percentile

ROOT = Path(__file__).resolve().parent.parent
UPLOAD = os.urandom(10 << 20)
#: Rounds that warm the caches, and are not counted.
WARMING = 3


class ServerShare:
    """Reads Server-Timing off the answers, which the SDK does not show."""

    def __init__(self) -> None:
        self.total_ms: Optional[float] = None
        rest = urllib3.connectionpool.HTTPConnectionPool.urlopen
        files = httpx.Client.send

        def urlopen(pool: Any, *arguments: Any, **more: Any) -> Any:
            response = rest(pool, *arguments, **more)
            self._read(response.headers.get("Server-Timing"))
            return response

        def send(client: Any, *arguments: Any, **more: Any) -> Any:
            response = files(client, *arguments, **more)
            self._read(response.headers.get("Server-Timing"))
            return response

        urllib3.connectionpool.HTTPConnectionPool.urlopen = urlopen  # type: ignore[method-assign]
        httpx.Client.send = send  # type: ignore[method-assign]

    def _read(self, header: Optional[str]) -> None:
        total = re.search(r"\btotal;dur=([\d.]+)", header or "")
        self.total_ms = float(total.group(1)) if total else None


class Calls:
    """The measured calls, at one server."""

    def __init__(self, url: str, key: str = "bench") -> None:
        self.daytona = Daytona(
            DaytonaConfig(api_key=key, api_url=f"{url}/api", target="local", use_deprecated_polling=True)
        )
        self.made: Any = None
        self.steady = self.daytona.create()
        self.steady.process.create_session("bench")

    def create(self) -> None:
        self.made = self.daytona.create()

    def remove_created(self) -> None:
        self.made.delete()

    def exec(self) -> None:
        assert self.steady.process.exec("echo hi").result == "hi\n"

    def code_run(self) -> None:
        assert self.steady.process.code_run("print('hi')").result == "hi\n"

    def session_command(self) -> None:
        answer = self.steady.process.execute_session_command("bench", SessionExecuteRequest(command="echo hi"))
        assert answer.stdout == "hi\n"

    def upload(self) -> None:
        self.steady.fs.upload_file(UPLOAD, "/tmp/upload")

    def close(self) -> None:
        self.steady.delete()


#: Name of the row, the call, what to do after it outside of the measurement, how often per round.
ROWS = (
    ("create", Calls.create, Calls.remove_created, 2),
    ("exec", Calls.exec, None, 5),
    ("code_run", Calls.code_run, None, 3),
    ("session_command", Calls.session_command, None, 5),
    ("upload_10_mib", Calls.upload, None, 1),
)


def measure(ours: Calls, floor: Calls, rounds: int) -> Dict[str, Dict[str, List[float]]]:
    share = ServerShare()
    samples: Dict[str, Dict[str, List[float]]] = {
        name: {"ours": [], "floor": [], "server": []} for name, _, _, _ in ROWS
    }

    def once(calls: Calls, call: Callable[[Calls], None], after: Optional[Callable[[Calls], None]]) -> float:
        started = time.perf_counter()
        call(calls)
        took = (time.perf_counter() - started) * 1000
        timing = share.total_ms
        if after:
            after(calls)
        share.total_ms = timing
        return took

    for number in range(rounds + WARMING):
        for name, call, after, times in ROWS:
            for _ in range(times):
                floor_ms = once(floor, call, after)
                ours_ms = once(ours, call, after)
                if number < WARMING:
                    continue
                samples[name]["floor"].append(floor_ms)
                samples[name]["ours"].append(ours_ms)
                if share.total_ms is not None:
                    samples[name]["server"].append(share.total_ms)
    return samples


def summary(values: List[float]) -> Dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "p95": round(percentile(values, 0.95), 3),
        "n": len(values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target/release/sandboxai"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    stub = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("daytona_stub.py"))], stdout=subprocess.PIPE, text=True
    )
    server = subprocess.Popen(
        [arguments.binary, "serve", "--port", "0", "--scope", f"bench-{os.getpid()}", "--delete-on-shutdown"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert stub.stdout and server.stdout
        floor = Calls(f"http://127.0.0.1:{int(stub.stdout.readline())}")
        address = json.loads(server.stdout.readline())
        ours = Calls(f"http://{address['host']}:{address['port']}")
        samples = measure(ours, floor, arguments.rounds)
        ours.close()
    finally:
        stub.terminate()
        server.terminate()
        server.wait(40)
    report = {
        "machine": machine(),
        "sdk": "daytona 0.226.1",
        "rounds": arguments.rounds,
        "rows_ms": {
            name: {
                **{of: summary(values) for of, values in parts.items() if values},
                "above_floor": round(statistics.median(parts["ours"]) - statistics.median(parts["floor"]), 3),
            }
            for name, parts in samples.items()
        },
    }
    print(f"{'ms':16} {'ours':>8} {'p95':>8} {'floor':>8} {'p95':>8} {'above':>8} {'server':>8} {'p95':>8}")
    for name, row in report["rows_ms"].items():
        server_share = row.get("server", {"median": float("nan"), "p95": float("nan")})
        print(
            f"{name:16} {row['ours']['median']:8.2f} {row['ours']['p95']:8.2f} {row['floor']['median']:8.2f}"
            f" {row['floor']['p95']:8.2f} {row['above_floor']:8.2f} {server_share['median']:8.2f} {server_share['p95']:8.2f}"
        )
    keep(report, arguments.out)


if __name__ == "__main__":
    main()
