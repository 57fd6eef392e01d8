"""``sandboxai doctor`` about this host, and a host that lacks something."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Dict

from conftest import BINARY, Server
from sandboxai import Sandbox


def checks(**settings: str) -> Dict[str, Dict[str, str]]:
    ran = subprocess.run([BINARY, "--json", "doctor"], env={**os.environ, **settings}, capture_output=True, text=True, timeout=60)
    said = json.loads(ran.stdout)
    assert ran.returncode == (0 if said["ok"] else 1), ran.stderr
    return {check["name"]: check for check in said["checks"]}


def test_a_host_that_makes_sandboxes_passes() -> None:
    found = checks()
    failed = [check for check in found.values() if check["status"] == "fail"]
    assert not failed
    for name in ("namespaces", "AppArmor", "file system", "open files", "processes", "watched files", "memory", "clock"):
        assert found[name]["finding"], name
    assert all(check["fix"] for check in found.values() if check["status"] != "pass")


def test_a_host_without_certificate_authorities_only_pulls_nothing(tmp_path: Path) -> None:
    nothing = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": str(tmp_path), "SANDBOXAI_SANDBOX_CA_CERTIFICATES": ""}
    warned = checks(**nothing)["certificate authorities"]
    assert warned["status"] == "warn" and "ca-certificates" in warned["fix"]
    server = Server(env=nothing)
    try:
        with Sandbox(server.base_url) as box:
            assert box.run_shell_command("echo on").output == "on\n"
        ran = subprocess.run([BINARY, "ls"], env={**os.environ, **nothing, "SANDBOXAI_URL": server.url}, capture_output=True)
        assert ran.returncode == 0, ran.stderr
    finally:
        server.stop()
        server.check_log()
