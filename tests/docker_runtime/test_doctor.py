"""``sandboxai doctor --runtime docker`` on a real engine, before and after what it says to change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, List, Optional

from conftest import BINARY
from docker_runtime.conftest import IMAGE, Engine  # type: ignore[import-not-found]

#: The settings of the plan that brought SUNA here.
PLAN = """{
  "log-driver": "json-file",
  "log-opts": {
    "max-size": "10m",
    "max-file": "3"
  },
  "storage-driver": "overlay2",
  "default-ulimits": {
    "nofile": {
      "Name": "nofile",
      "Hard": 64000,
      "Soft": 64000
    }
  }
}
"""
#: Whether an engine started from here can give containers so many open files; on a
#: host it always can, in a container it may lack the right.
FILES = 64000
CAN_GIVE_FILES = subprocess.run(["prlimit", f"--nofile={FILES}:{FILES}", "true"], capture_output=True).returncode == 0


def run(host: str, file: Path, *words: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "SANDBOXAI_DOCKER_HOST": host, "SANDBOXAI_SANDBOX_IMAGE": IMAGE, **settings}
    command = [BINARY, "doctor", "--runtime", "docker", "--daemon-json", str(file), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def told(engine: Engine, **settings: str) -> dict:
    ran = run(engine.host, engine.folder / "daemon.json", "--json", **settings)
    said = json.loads(ran.stdout)
    assert ran.returncode == (0 if said["ok"] else 1), ran.stderr
    assert all(check["fix"] for check in said["checks"] if check["status"] != "pass"), said
    return said


def not_well(said: dict) -> Dict[str, str]:
    return {check["name"]: check["status"] for check in said["checks"] if check["status"] != "pass"}


def of_container(engine: Engine, command: str, *words: str) -> str:
    ran = engine.docker("run", "--rm", "--network", "none", *words, IMAGE, "sh", "-c", command)
    return ran.stdout.decode().strip()


def restart(engine: Engine) -> None:
    engine.stop()
    engine.start()


def test_what_it_proposes_is_taken_by_the_engine(plain_engine: Engine) -> None:
    engine, file = plain_engine, plain_engine.folder / "daemon.json"
    file.write_text('{"labels": ["kept=yes"]}')
    said = told(engine)
    assert not_well(said).keys() >= {"log rotation", "open files", "live restore", "user ids"}, said
    assert set(not_well(said).values()) == {"warn"} and said["ok"]
    proposed = said["daemon_json"]
    assert proposed["path"] == str(file)
    assert proposed["commands"] == ["systemctl reload docker", "systemctl restart docker"]
    written = json.loads(proposed["content"])
    assert written["labels"] == ["kept=yes"] and written["live-restore"] is True
    wanted = json.loads(PLAN)
    assert (written["log-driver"], written["log-opts"]) == (wanted["log-driver"], wanted["log-opts"])
    assert written.get("default-ulimits") == (wanted["default-ulimits"] if CAN_GIVE_FILES else None)
    file.write_text(proposed["content"])
    restart(engine)
    after = told(engine)
    assert "user ids" in not_well(after) and after["daemon_json"] is None
    assert not not_well(after).keys() & {"log rotation", "live restore", "storage driver"}
    assert ("open files" in not_well(after)) != CAN_GIVE_FILES
    assert (of_container(engine, "ulimit -n") == str(FILES)) == CAN_GIVE_FILES
    engine.docker("create", "--name", "logged", IMAGE, "true")
    config = json.loads(engine.docker("inspect", "logged").stdout)[0]["HostConfig"]["LogConfig"]
    assert config == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    engine.docker("rm", "logged")


def test_with_the_plans_file_a_reload_is_enough(plain_engine: Engine) -> None:
    engine, file = plain_engine, plain_engine.folder / "daemon.json"
    file.write_text(PLAN)
    restart(engine)
    said = told(engine)
    assert not not_well(said).keys() & {"log rotation", "storage driver"}
    starts = engine.docker("run", "--rm", "--network", "none", IMAGE, "true", check=False).returncode == 0
    assert starts == CAN_GIVE_FILES == (not_well(said).get("open files") != "fail")
    assert said["daemon_json"]["commands"] == ["systemctl reload docker"]
    file.write_text(said["daemon_json"]["content"])
    assert json.loads(file.read_text()) == {**json.loads(PLAN), "live-restore": True}
    # What `systemctl reload` does.
    engine.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while "live restore" in not_well(told(engine)):
        assert time.monotonic() < deadline, "the engine does not take its file"
        time.sleep(0.2)
    assert told(engine)["daemon_json"] is None


def test_what_makes_no_sandboxes_fails(plain_engine: Engine) -> None:
    engine, file = plain_engine, plain_engine.folder / "daemon.json"
    assert not_well(told(engine, SANDBOXAI_DOCKER_OCI_RUNTIME="kata"))["OCI runtime"] == "fail"
    assert not_well(told(engine, SANDBOXAI_SANDBOX_IMAGE="nobody/nothing"))["image"] == "fail"
    file.write_text('{\n  "debug": true,\n  "log-opts": {"max-file": 3}\n}\n')
    ran = run(engine.host, file)
    assert ran.returncode == 1
    assert f"fail  daemon.json: {file}:3: `log-opts.max-file` is 3; write it as a text" in ran.stdout
    file.write_text('{\n  "debug": true\n  "log-driver": "local"\n}\n')
    assert f"{file}:3: not JSON" in run(engine.host, file).stdout
    file.write_text("{}")


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    ran = run(f"unix://{tmp_path}/none.sock", tmp_path / "daemon.json")
    assert ran.returncode == 1 and ran.stdout.startswith("fail  engine: "), ran.stdout + ran.stderr
    assert "systemctl enable --now docker" in ran.stdout


def test_people_get_the_file_and_the_commands(plain_engine: Engine) -> None:
    ran = run(plain_engine.host, plain_engine.folder / "daemon.json")
    assert ran.returncode == 0, ran.stdout
    lines: List[Optional[str]] = list(ran.stdout.splitlines())
    assert f"Write this to {plain_engine.folder}/daemon.json:" in lines
    assert lines[-3:] == ["", "systemctl reload docker", "systemctl restart docker"]


def test_the_first_checklist_looks_at_the_engine(plain_engine: Engine, tmp_path: Path) -> None:
    def first(host: str) -> Dict[str, str]:
        words = ["--json", "--checklist", "before-migration"]
        ran = run(host, tmp_path / "daemon.json", *words, SANDBOXAI_URL="http://127.0.0.1:1")
        item: Dict[str, str] = json.loads(ran.stdout)["items"][0]
        assert item["name"] == "Docker, or the embedded runtime, works" and ran.returncode == 1
        return item

    works = first(plain_engine.host)
    assert works["status"] == "pass" and works["finding"].startswith("`sandboxai doctor` advises "), works
    absent = first(f"unix://{tmp_path}/none.sock")
    assert absent["status"] == "fail" and f"the engine at unix://{tmp_path}/none.sock" in absent["finding"], absent
