"""The script that moves sandboxes here; both ends are our own server."""

from __future__ import annotations

import json
import subprocess
import sys

from daytona import Daytona, SandboxState

from conftest import ROOT


def test_a_stopped_sandbox_moves(daytona: Daytona, api_url: str, make) -> None:
    old = make(labels={"id": "project"}, env_vars={"KEEP": "me"}, public=True, auto_stop_interval=20)
    old.process.exec("mkdir -p '/workspace/a b' && echo content > '/workspace/a b/file' && chmod 600 '/workspace/a b/file'")
    old.stop()
    finished = subprocess.run(
        [sys.executable, str(ROOT / "scripts/move-from-daytona.py"), "--from", api_url, "--from-key", "any",
         "--to", api_url, "--to-key", "any", old.id],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    new = daytona.get(told["new"])
    try:
        assert told["old"] == old.id and set(told["previews"]) == {"6080", "8080"}
        assert new.fs.download_file("/workspace/a b/file") == b"content\n"
        assert new.fs.get_file_info("/workspace/a b/file").permissions == "0600"
        assert new.process.exec("echo $KEEP").result == "me\n"
        assert (new.labels["id"], new.public, new.auto_stop_interval) == ("project", True, 20)
        assert daytona.get(old.id).state == SandboxState.STOPPED, "as it was"
    finally:
        new.delete()


def test_a_sandbox_that_is_not_there(api_url: str) -> None:
    finished = subprocess.run(
        [sys.executable, str(ROOT / "scripts/move-from-daytona.py"), "--from", api_url, "--from-key", "any",
         "--to", api_url, "--to-key", "any", "none"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert finished.returncode == 1 and "none" in finished.stderr and "not found" in finished.stderr
