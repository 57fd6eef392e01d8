#!/usr/bin/env python3
"""What a server in front of a Daytona adds to calls on the Daytona's sandboxes, interleaved in one run.

    sudo bench/run.sh --front [--rounds N] [--out bench/results/NAME.json]

The calls of `through_daytona.py`, each twice per round: at a server of ours that stands in for
Daytona, and at one in front of it with a share of 0, which passes them on. Both are on
this machine, so the difference is what passing on costs, without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any, Dict

from bench import keep, machine
from through_daytona import ROOT, Calls, measure, summary

UPSTREAM_KEY = "bench-key-of-the-upstream"


def start(binary: str, name: str, environment: Dict[str, str]) -> Any:
    arguments = ["serve", "--port", "0", "--scope", f"bench-{name}-{os.getpid()}", "--delete-on-shutdown"]
    process = subprocess.Popen(
        [binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **environment}
    )
    assert process.stdout
    address = json.loads(process.stdout.readline())
    return process, f"http://{address['host']}:{address['port']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target/release/sandboxai"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    upstream, upstream_url = start(arguments.binary, "upstream", {"SANDBOXAI_SERVER_API_KEYS": UPSTREAM_KEY})
    front, front_url = start(
        arguments.binary,
        "front",
        {"SANDBOXAI_ROLLOUT_UPSTREAM_URL": f"{upstream_url}/api", "SANDBOXAI_ROLLOUT_UPSTREAM_KEY": UPSTREAM_KEY},
    )
    try:
        direct, through = Calls(upstream_url, UPSTREAM_KEY), Calls(front_url)
        direct.daytona.get(through.steady.id)  # it is really there
        samples = measure(through, direct, arguments.rounds)
        through.close()
        direct.close()
    finally:
        for server in (front, upstream):
            server.terminate()
            server.wait(40)
    report = {
        "machine": machine(),
        "sdk": "daytona 0.226.1",
        "rounds": arguments.rounds,
        "rows_ms": {
            name: {
                "through": summary(parts["ours"]),
                "direct": summary(parts["floor"]),
                "added": round(statistics.median(parts["ours"]) - statistics.median(parts["floor"]), 3),
            }
            for name, parts in samples.items()
        },
    }
    print(f"{'ms':16} {'through':>8} {'p95':>8} {'direct':>8} {'p95':>8} {'added':>8}")
    for name, row in report["rows_ms"].items():
        through_row, direct_row = row["through"], row["direct"]
        print(
            f"{name:16} {through_row['median']:8.2f} {through_row['p95']:8.2f}"
            f" {direct_row['median']:8.2f} {direct_row['p95']:8.2f} {row['added']:8.2f}"
        )
    keep(report, arguments.out)


if __name__ == "__main__":
    main()
