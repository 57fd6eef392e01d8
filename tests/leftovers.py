"""What sandboxes leave on the host: counted before and after."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, List


def _cgroups() -> List[str]:
    found = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        if re.search(r"/sandboxai/[^/]+$", folder):
            found.append(folder)
            names.clear()
    return found


def _processes() -> List[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        uid = re.search(r"^Uid:\t(\d+)", text, re.M)
        # Sandboxes' user ids begin at one million.
        if uid and int(uid.group(1)) >= 1_000_000:
            found.append(re.sub(r"\s+", " ", text.splitlines()[0]) + f" {status.parent.name}")
    return found


def _links() -> List[str]:
    return [name for name in os.listdir("/sys/class/net") if re.fullmatch(r"sbx\d+", name)]


def _elements() -> List[str]:
    listed = subprocess.run(["nft", "list", "table", "inet", "sandboxai"], capture_output=True, text=True)
    return re.findall(r'"sbx\d+" \. [\d.]+', listed.stdout)


def _files(folder: Path) -> List[str]:
    return [str(path) for path in folder.iterdir()] if folder.is_dir() else []


def count(state_dir: str, run_dir: str = "/run/sandboxai") -> Dict[str, List[str]]:
    """Everything on this host that belongs to some sandbox."""
    return {
        "processes": _processes(),
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "sandboxai" in line],
        "cgroups": _cgroups(),
        "network namespaces": _files(Path("/run/netns")),
        "links": _links(),
        "nft elements": _elements(),
        "files": _files(Path(state_dir) / "sandboxes"),
        "trash": _files(Path(state_dir) / "trash"),
        "slots": _files(Path(run_dir) / "slots"),
        "sockets": _files(Path(run_dir) / "agents"),
    }


def settle(state_dir: str, before: Dict[str, List[str]], seconds: float = 20.0) -> Dict[str, List[str]]:
    """What is there now and was not before, once the kernel and the trash have caught up."""
    deadline = time.monotonic() + seconds
    while True:
        now = count(state_dir)
        new = {what: sorted(set(now[what]) - set(before[what])) for what in now}
        new = {what: things for what, things in new.items() if things}
        if not new or time.monotonic() > deadline:
            return new
        time.sleep(0.1)
