#!/usr/bin/env python3
"""Ours, peers and the kernel's floor, interleaved in one run.

    sudo bench/run.sh [--rounds N] [--out bench/results/NAME.json]

Every round measures every row once, so that a noisy minute hits all rows
alike: compare rows of one run, not runs. Reported are median, 5th and 95th
percentile. What each row does is in ROWS at the end of this file.

Floor rows do what the kernel at least needs for the same result:
  floor.spawn     posix_spawn of `true`
  floor.unshare   the same in new user, mount, pid, net, ipc and uts namespaces
  floor.shell     posix_spawn of sh -c 'echo hi', output read
  floor.http      GET /v1/healthz on the same server, kept-alive connection
Peers, when installed:
  peer.bwrap      bubblewrap --unshare-all, a read-only root, `true`
  peer.ipykernel  start of a bare ipykernel to its first result, no sandbox at all
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "sandboxai/box"


class Api:
    """A thin client with one kept-alive connection, so that the server is measured and not the client."""

    def __init__(self, host: str, port: int) -> None:
        self.connection = http.client.HTTPConnection(host, port, timeout=120)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timing: Dict[str, float] = {}

    def call(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"} if data else {}
        self.connection.request(method, "/v1" + path, data, headers)
        response = self.connection.getresponse()
        text = response.read()
        self.timing = {}
        for part in (response.getheader("Server-Timing") or "").split(","):
            name, _, rest = part.strip().partition(";dur=")
            if rest:
                self.timing[name] = float(rest)
        if response.status != expect:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:300]!r}")
        return json.loads(text) if text else None


class Bench:
    def __init__(self, server: subprocess.Popen, host: str, port: int) -> None:
        self.server = server
        self.api = Api(host, port)
        self.phases: Dict[str, List[float]] = {}
        created = self.api.call("POST", "/spaces/default/sandboxes", {"name": "steady", "spec": {}}, 201)
        self.steady = f"/spaces/default/sandboxes/{created['name']}"
        self.api.call("POST", f"{self.steady}/tools:run_ipython_cell", {"code": "import numpy"})

    def create_and_shell(self) -> float:
        started = time.perf_counter()
        created = self.api.call("POST", "/spaces/default/sandboxes", {"spec": {}}, 201)
        for name, duration in self.api.timing.items():
            self.phases.setdefault(name, []).append(duration)
        path = f"/spaces/default/sandboxes/{created['name']}"
        self.api.call("POST", f"{path}/tools:run_shell_command", {"command": "echo hi"})
        took = time.perf_counter() - started
        self.api.call("DELETE", path, expect=204)
        return took

    def create(self) -> float:
        started = time.perf_counter()
        created = self.api.call("POST", "/spaces/default/sandboxes", {"spec": {}}, 201)
        took = time.perf_counter() - started
        self.api.call("DELETE", f"/spaces/default/sandboxes/{created['name']}", expect=204)
        return took

    def delete(self) -> float:
        created = self.api.call("POST", "/spaces/default/sandboxes", {"spec": {}}, 201)
        started = time.perf_counter()
        self.api.call("DELETE", f"/spaces/default/sandboxes/{created['name']}", expect=204)
        return time.perf_counter() - started

    def create_and_cell(self) -> float:
        started = time.perf_counter()
        created = self.api.call("POST", "/spaces/default/sandboxes", {"spec": {}}, 201)
        path = f"/spaces/default/sandboxes/{created['name']}"
        self.api.call("POST", f"{path}/tools:run_ipython_cell", {"code": "print(1)"})
        took = time.perf_counter() - started
        self.api.call("DELETE", path, expect=204)
        return took

    def shell(self) -> float:
        return self._timed(f"{self.steady}/tools:run_shell_command", {"command": "echo hi"})

    def cell(self) -> float:
        return self._timed(f"{self.steady}/tools:run_ipython_cell", {"code": "print(1)"})

    def health(self) -> float:
        started = time.perf_counter()
        self.api.call("GET", "/healthz")
        return time.perf_counter() - started

    def _timed(self, path: str, body: Any) -> float:
        started = time.perf_counter()
        self.api.call("POST", path, body)
        return time.perf_counter() - started

    def upload(self) -> float:
        data = b"x" * (100 << 20)
        started = time.perf_counter()
        self.api.connection.request("PUT", f"/v1{self.steady}/files?path=/tmp/big", data, {"Content-Type": "application/octet-stream"})
        response = self.api.connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        return time.perf_counter() - started

    def download(self) -> float:
        started = time.perf_counter()
        self.api.connection.request("GET", f"/v1{self.steady}/files?path=/tmp/big")
        response = self.api.connection.getresponse()
        size = 0
        while chunk := response.read(1 << 20):
            size += len(chunk)
        assert size == 100 << 20, size
        return time.perf_counter() - started


def spawned(*argv: str, capture: bool = False) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        if capture:
            read, write = os.pipe()
            actions = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)]
            pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
            os.close(write)
            while os.read(read, 4096):
                pass
            os.close(read)
        else:
            pid = os.posix_spawnp(argv[0], argv, os.environ)
        os.waitpid(pid, 0)
        return time.perf_counter() - started

    return measure


def ipykernel() -> float:
    from jupyter_client.manager import start_new_kernel  # type: ignore[import-not-found]

    started = time.perf_counter()
    manager, client = start_new_kernel()
    client.execute_interactive("print(1)", output_hook=lambda _: None)
    took = time.perf_counter() - started
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return took


def sandbox_pss_kib() -> int:
    """PSS of all processes of all sandboxes; their user ids begin at one million."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            uid = re.search(r"^Uid:\t(\d+)", status.read_text(), re.M)
            if uid and int(uid.group(1)) >= 1_000_000:
                rollup = (status.parent / "smaps_rollup").read_text()
                total += sum(int(pss) for pss in re.findall(r"^Pss:\s+(\d+)", rollup, re.M))
        except OSError:
            continue  # it has ended
    return total


def memory(bench: Bench) -> Dict[str, float]:
    """Resident size of the idle server, and PSS of an idle sandbox without a kernel (all its processes), MiB."""
    before = sandbox_pss_kib()
    boxes = [bench.api.call("POST", "/spaces/default/sandboxes", {"spec": {}}, 201) for _ in range(10)]
    for box in boxes:
        bench.api.call("POST", f"/spaces/default/sandboxes/{box['name']}/tools:run_shell_command", {"command": "true"})
    pss = (sandbox_pss_kib() - before) / 1024 / len(boxes)
    for box in boxes:
        bench.api.call("DELETE", f"/spaces/default/sandboxes/{box['name']}", expect=204)
    status = Path(f"/proc/{bench.server.pid}/status").read_text()
    resident = re.search(r"^VmRSS:\s+(\d+)", status, re.M)
    return {
        "server_rss_mib": round(int(resident.group(1)) / 1024, 1) if resident else -1.0,
        "idle_sandbox_pss_mib": round(pss, 2),
    }


def rows(bench: Bench, peers: List[str]) -> List[Tuple[str, Callable[[], float], int]]:
    """Name, what to measure (seconds), how often per round."""
    table: List[Tuple[str, Callable[[], float], int]] = [
        ("floor.spawn", spawned("true"), 5),
        ("floor.unshare", spawned("unshare", "-Urpmnfiu", "true"), 3),
        ("floor.shell", spawned("sh", "-c", "echo hi", capture=True), 5),
        ("floor.http", bench.health, 20),
        ("ours.create", bench.create, 3),
        ("ours.create_and_shell", bench.create_and_shell, 3),
        ("ours.create_and_cell", bench.create_and_cell, 1),
        ("ours.delete", bench.delete, 3),
        ("ours.shell", bench.shell, 20),
        ("ours.cell", bench.cell, 20),
        ("ours.upload_100_mib", bench.upload, 1),
        ("ours.download_100_mib", bench.download, 1),
    ]
    if "bwrap" in peers:
        table.append(("peer.bwrap", spawned("bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"), 3))
    if "ipykernel" in peers:
        table.append(("peer.ipykernel", ipykernel, 1))
    return table


def percentile(values: List[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def machine() -> Dict[str, Any]:
    model = next((l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "?")
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()}


def keep(report: Dict[str, Any], out: Optional[Path]) -> None:
    """Writes the raw figures, where that was asked for."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


def find_peers() -> List[str]:
    found = ["bwrap"] if shutil.which("bwrap") else []
    try:
        import ipykernel as _  # type: ignore[import-not-found]
        import jupyter_client as _  # type: ignore[import-not-found]  # noqa: F811

        found.append("ipykernel")
    except ImportError:
        pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=str(ROOT / "target/release/sandboxai"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    server = subprocess.Popen(
        [arguments.binary, "serve", "--port", "0", "--scope", f"bench-{os.getpid()}", "--delete-on-shutdown"],
        stdout=subprocess.PIPE, text=True,
    )
    assert server.stdout
    address = json.loads(server.stdout.readline())
    try:
        bench = Bench(server, address["host"], address["port"])
        table = rows(bench, find_peers())
        measured: Dict[str, List[float]] = {name: [] for name, _, _ in table}
        for number in range(arguments.rounds + 2):
            for name, measure, times in table:
                for _ in range(times):
                    took = measure() * 1000
                    if number >= 2:  # the first two rounds warm the caches
                        measured[name].append(took)
        report = {
            "machine": machine(),
            "rounds": arguments.rounds,
            "rows_ms": {
                name: {
                    "median": round(statistics.median(values), 3),
                    "p5": round(percentile(values, 0.05), 3),
                    "p95": round(percentile(values, 0.95), 3),
                    "n": len(values),
                }
                for name, values in measured.items()
            },
            "create_phases_ms": {name: round(statistics.median(values), 3) for name, values in bench.phases.items()},
            "memory": memory(bench),
        }
        bench.api.call("DELETE", bench.steady, expect=204)
    finally:
        server.terminate()
        server.wait(40)
    for name, row in report["rows_ms"].items():
        print(f"{name:24} {row['median']:10.3f} ms   (p5 {row['p5']:.3f}, p95 {row['p95']:.3f}, n={row['n']})")
    print("create by phase, ms:", json.dumps(report["create_phases_ms"]))
    print("memory:", json.dumps(report["memory"]))
    keep(report, arguments.out)


if __name__ == "__main__":
    main()
