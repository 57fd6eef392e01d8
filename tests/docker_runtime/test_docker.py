"""The server on a Docker engine: the same API, over containers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import httpx
import pytest

from conftest import BINARY, ROOT, Server
from docker_runtime.conftest import DAEMON, IMAGE, Engine, needs_gvisor  # type: ignore[import-not-found]
from sandboxai import Sandbox


def settings(engine: Engine) -> dict:
    return {
        "SANDBOXAI_SERVER_RUNTIME": "docker",
        "SANDBOXAI_DOCKER_HOST": engine.host,
        "SANDBOXAI_SANDBOX_NETWORK": "none",
    }


@pytest.fixture(scope="module")
def docker_server(engine: Engine) -> Iterator[Server]:
    running = Server(env=settings(engine))
    yield running
    running.stop()
    running.check_log()


@pytest.fixture()
def box(docker_server: Server) -> Iterator[Sandbox]:
    with Sandbox(docker_server.base_url, image=IMAGE, env={"GREETING": "hi there"}) as sandbox:
        yield sandbox


def test_the_engine_passes_the_suite_of_all_runtimes(engine: Engine) -> None:
    agents = sorted((ROOT / "target/agent-build").glob("*/agent/sandboxai-agent"), key=lambda path: path.stat().st_mtime)
    ran = subprocess.run(
        ["cargo", "test", "--quiet", "--locked", "--package", "sandboxai-runtime-docker", "--test", "engine", "--"]
        + ["--ignored", "--test-threads", "1"],
        cwd=ROOT,
        env={
            **os.environ,
            "SANDBOXAI_TEST_DOCKER": engine.host,
            "SANDBOXAI_TEST_AGENT": str(agents[-1]),
            "SANDBOXAI_TEST_IMAGE": IMAGE,
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert "3 passed" in ran.stdout


def test_commands_and_files(box: Sandbox) -> None:
    result = box.run_shell_command('echo "$GREETING"; pwd; echo err >&2; exit 3', split_output=True)
    assert (result.stdout, result.stderr, result.exit_code) == ("hi there\n/work\n", "err\n", 3)
    data = bytes(range(256)) * 20_000
    box.write_file("/work/data.bin", data)
    assert box.read_file("/work/data.bin") == data


def test_the_walls_are_up(engine: Engine, box: Sandbox) -> None:
    status = box.run_shell_command("cat /proc/self/status").output
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    # Ten capabilities, those of the embedded runtime.
    bounding = int(next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1], 16)
    assert bin(bounding).count("1") == 10
    assert box.run_shell_command("echo x > /.sandboxai/agent").exit_code != 0, "the agent is read-only"
    inspected = engine.inspect(box.info()["uid"])
    host = inspected["HostConfig"]
    (agent,) = inspected["Mounts"]
    assert agent["Destination"] == "/.sandboxai/agent" and not agent["RW"]
    assert host["PidsLimit"] == 1024 and host["NanoCpus"] == 2_000_000_000
    assert host["Memory"] == host["MemorySwap"] == 2 << 30, "no swap"
    assert host["SecurityOpt"] == ["no-new-privileges"] and host["CapDrop"] == ["ALL"] and not host["Privileged"]
    assert not host["PortBindings"] and not host["PublishAllPorts"] and not inspected["NetworkSettings"]["Ports"]
    assert (host["NetworkMode"], host["PidMode"], host["IpcMode"]) == ("none", "", "private")
    assert inspected["Config"]["Labels"]["dev.sandboxai.scope"].startswith("test-")


def test_the_limits_hold(docker_server: Server) -> None:
    with Sandbox(docker_server.base_url, image=IMAGE, pids=16, memory_mb=64) as small:
        # A file in memory counts, and there is no more than half of the memory for such.
        full = small.run_shell_command("head -c 60000000 /dev/zero 2>/dev/null > /dev/shm/file || wc -c < /dev/shm/file")
        assert full.output == f"{32 << 20}\n"
        small.run_shell_command("busybox rm /dev/shm/file")
        hungry = small.run_shell_command("head -c 200000000 /dev/zero | busybox sort > /dev/null; echo $?")
        assert hungry.output.endswith("137\n"), "killed, and nothing else is"
        crowd = small.run_shell_command("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18; do sleep 2 & done; wait")
        assert "can't fork" in crowd.output, crowd.output


def test_a_seccomp_profile_of_ones_own(engine: Engine) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    path = engine.folder / "seccomp.json"
    path.write_text(json.dumps(profile))
    server = Server(env={**settings(engine), "SANDBOXAI_DOCKER_SECCOMP_PROFILE": str(path)})
    try:
        with Sandbox(server.base_url, image=IMAGE) as box:
            refused = box.run_shell_command("busybox ln -s here /tmp/there")
            assert refused.exit_code != 0 and "Operation not permitted" in refused.output
            assert box.run_shell_command("touch /tmp/here && busybox ln /tmp/here /tmp/there").exit_code == 0
    finally:
        server.stop()
    server.check_log()


def test_archiving_is_refused_with_what_to_do_instead(docker_server: Server, box: Sandbox) -> None:
    box.stop()
    answer = httpx.post(f"{docker_server.base_url}/spaces/default/sandboxes/{box.name}/archive", timeout=60)
    assert (answer.status_code, answer.json()["kind"]) == (409, "conflict")
    assert "does not archive; leave the sandbox stopped" in answer.json()["message"]
    box.start()


def test_stopped_sandboxes_keep_their_files(docker_server: Server, box: Sandbox) -> None:
    box.run_shell_command("echo kept > /work/file")
    at = f"{docker_server.base_url}/spaces/default/sandboxes/{box.name}"
    assert httpx.post(f"{at}/stop", timeout=60).json()["status"]["state"] == "stopped"
    assert httpx.post(f"{at}/start", timeout=60).json()["status"]["state"] == "running"
    assert box.run_shell_command("cat /work/file").output == "kept\n"


def test_pausing(docker_server: Server, box: Sandbox) -> None:
    at = f"{docker_server.base_url}/spaces/default/sandboxes/{box.name}"
    assert httpx.post(f"{at}/pause", timeout=60).json()["status"]["state"] == "paused"
    assert httpx.post(f"{at}/resume", timeout=60).json()["status"]["state"] == "running"
    assert box.run_shell_command("echo on").output == "on\n"


@needs_gvisor
def test_a_sandbox_keeps_the_runtime_class_that_was_chosen_for_it(engine: Engine) -> None:
    server = Server(env={**settings(engine), "SANDBOXAI_DOCKER_RUNTIME_CLASSES": "runsc"}, ephemeral=False)
    try:
        box = Sandbox(server.base_url, image=IMAGE, runtime_class="runsc")
        at = f"/spaces/default/sandboxes/{box.name}"

        def check() -> None:
            told = httpx.get(server.base_url + at, timeout=30).json()
            assert told["spec"]["runtime_class"] == "runsc"
            assert engine.inspect(told["uid"])["HostConfig"]["Runtime"] == "runsc"
            inside = Sandbox.attach(box.name, server.base_url).run_shell_command("dmesg").output
            assert "gVisor" in inside, "it is another kernel"

        check()
        assert httpx.post(f"{server.base_url}{at}/stop", timeout=60).json()["status"]["state"] == "stopped"
        server.kill()
        server.restart()
        assert httpx.post(f"{server.base_url}{at}/start", timeout=60).json()["status"]["state"] == "running"
        check()
        listed = subprocess.run([BINARY, "--server", server.url, "ls"], check=True, capture_output=True, text=True)
        assert listed.stdout.splitlines()[1].split()[-1] == "runsc"
        made = subprocess.run(
            [BINARY, "--server", server.url, "create", "--image", IMAGE, "--runtime-class", "runc"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        uid = httpx.get(f"{server.base_url}/spaces/default/sandboxes/{made}").json()["uid"]
        assert engine.inspect(uid)["HostConfig"]["Runtime"] == "runc"
        for name in (box.name, made):
            assert httpx.delete(f"{server.base_url}/spaces/default/sandboxes/{name}", timeout=60).status_code == 204
    finally:
        server.stop()
    server.check_log()


def test_only_runtime_classes_on_the_list_may_be_chosen(engine: Engine, docker_server: Server, box: Sandbox) -> None:
    uid = box.info()["uid"]
    assert box.info()["spec"]["runtime_class"] is None
    assert engine.inspect(uid)["HostConfig"]["Runtime"] == "runc"
    # The engine has it; this server's list does not.
    spec = {"image": IMAGE, "runtime_class": "runsc"}
    answer = httpx.post(f"{docker_server.base_url}/spaces/default/sandboxes", json={"spec": spec}, timeout=60)
    assert (answer.status_code, answer.json()["field"]) == (400, "spec.runtime_class")
    assert answer.json()["message"].endswith("use one of these, or leave it out: runc")


def test_a_runtime_class_that_the_engine_does_not_have_is_told_at_the_start(engine: Engine) -> None:
    with pytest.raises(AssertionError, match="docker.runtime_classes: the engine has no runtime `kata`, it has .*runc"):
        Server(env={**settings(engine), "SANDBOXAI_DOCKER_RUNTIME_CLASSES": "kata"})


def test_images_tell_when_the_engine_made_them(engine: Engine, docker_server: Server) -> None:
    listed = httpx.get(f"{docker_server.url}/api/snapshots", headers={"Authorization": "Bearer any"}, timeout=30).json()["items"]
    told = next(found["createdAt"] for found in listed if found["name"] == IMAGE)
    made = json.loads(engine.docker("image", "inspect", IMAGE).stdout)[0]["Created"]
    # The same moment to the millisecond, in the form of RFC 3339.
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told) and told[:-1] == made[: len(told) - 1]
    assert told[:4] >= "2026"


def test_images_go_by_the_engines_names(engine: Engine, docker_server: Server) -> None:
    other = "sandboxai-test/another-name:2"
    engine.docker("tag", IMAGE, other)
    with Sandbox(docker_server.base_url, image=other) as box:
        assert box.run_shell_command("echo hi").output == "hi\n"
        assert engine.inspect(box.info()["uid"])["Config"]["Image"] == other
    engine.docker("rmi", other)


def test_an_unknown_image_says_what_to_do(docker_server: Server) -> None:
    with pytest.raises(ValueError, match="docker pull"):
        Sandbox(docker_server.base_url, image="nobody/nothing")


def test_sandboxes_outlive_a_killed_server_and_a_restarted_engine(engine: Engine) -> None:
    server = Server(env=settings(engine), ephemeral=False)
    try:
        box = Sandbox(server.base_url, image=IMAGE)
        at = f"/spaces/default/sandboxes/{box.name}"
        started = httpx.post(server.base_url + at + "/processes", json={"command": "sleep 1000"}).json()
        server.kill()
        server.restart()
        still = httpx.get(server.base_url + at + f"/processes/{started['id']}", timeout=30).json()
        assert still["pid"] == started["pid"] and still["exit"] is None
        server.expected += ["lost an agent", "cannot watch a sandbox", "a request failed", "facade_sandboxai::error"]
        engine.stop()
        engine.start()
        deadline = time.monotonic() + 60
        while True:
            answer = httpx.get(server.base_url + at + f"/processes/{started['id']}", timeout=30)
            if answer.status_code == 200 or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert answer.json()["pid"] == started["pid"]
        assert httpx.delete(server.base_url + at, timeout=60).status_code == 204
    finally:
        server.stop()
    server.check_log()


def test_what_is_kept_when_the_engine_takes_its_containers_along(forgetful_engine: Engine) -> None:
    engine = forgetful_engine
    server = Server(env={**settings(engine), "SANDBOXAI_DOCKER_NETWORK_GUARD": "false"}, ephemeral=False)
    try:
        at = f"{server.base_url}/spaces/default/sandboxes"
        spec = {"image": IMAGE, "stop_after_idle_s": 3600}
        for name, more in (("kept", spec), ("lost", {"image": IMAGE})):
            assert httpx.post(at, json={"name": name, "spec": more}, timeout=60).status_code == 201
        kept = Sandbox.attach("kept", server.base_url)
        kept.write_file("/work/file", "kept")
        server.expected += ["lost an agent", "cannot watch a sandbox", "a request failed", "facade_sandboxai::error"]
        engine.stop()
        engine.start()
        deadline = time.monotonic() + 60
        while True:
            state = httpx.get(f"{at}/kept", timeout=30).json()["status"]
            gone = httpx.get(f"{at}/lost", timeout=30)
            if state["state"] == "stopped" and gone.status_code == 404:
                break
            assert time.monotonic() < deadline, (state, gone.text)
            time.sleep(0.3)
        assert state["fault"] and gone.json()["tombstone"]["reason"] == "agent_lost"
        assert len(engine.containers().split()) == 1
        kept.start()
        assert kept.read_text("/work/file") == "kept"
        kept.delete()
    finally:
        server.stop()
    server.check_log()


def test_containers_that_nobody_knows_are_counted_and_removed_at_the_next_start(engine: Engine) -> None:
    server = Server(env=settings(engine), ephemeral=False)
    try:
        scope = f"dev.sandboxai.scope={server.scope}"
        engine.docker("create", "--label", scope, "--network", "none", IMAGE, "sh")
        unknown = "s" * 26
        named = ["--name", f"sandboxai-{unknown}", "--label", f"dev.sandboxai.id={unknown}"]
        engine.docker("create", "--label", scope, *named, "--network", "none", IMAGE, "sh")
        deadline = time.monotonic() + 60
        while True:
            page = httpx.get(f"{server.url}/metrics", timeout=30).text
            if 'sandboxai_leaks{kind="container"} 1' in page and 'sandboxai_leaks{kind="sandbox"} 1' in page:
                break
            assert time.monotonic() < deadline, page
            time.sleep(1)
        server.kill()
        server.restart()
        assert engine.docker("ps", "-aq", "--filter", f"label={scope}").stdout.decode().split() == [], "swept"
        page = httpx.get(f"{server.url}/metrics", timeout=30).text
        assert 'sandboxai_leaks{kind="container"} 0' in page and 'sandboxai_leaks{kind="sandbox"} 0' in page
    finally:
        server.stop()
    server.check_log()


@pytest.mark.slow
def test_the_plans_steps_pass_on_docker(engine: Engine) -> None:
    from conftest import STATE_DIR

    names = json.loads((Path(STATE_DIR) / "images/names.json").read_text())
    manifest = json.loads((Path(STATE_DIR) / f"images/manifests/{names['sandboxai/box:latest']}.json").read_text())
    layer = Path(STATE_DIR) / "images/layers" / manifest["config"]["layers"][0]["digest"]
    tar = subprocess.Popen(["tar", "-C", str(layer), "-c", "."], stdout=subprocess.PIPE)
    path = manifest["config"]["env"]["PATH"]
    engine.docker("import", "-c", "WORKDIR /workspace", "-c", f"ENV PATH={path}", "-", "sandboxai/box:latest", stdin=tar.stdout)
    for oci_runtime in ["runc", *DAEMON.get("runtimes", ())]:
        run_the_plans_steps(Server(env={**settings(engine), "SANDBOXAI_DOCKER_OCI_RUNTIME": oci_runtime}))


def run_the_plans_steps(server: Server) -> None:
    try:
        steps = ROOT / "tests/conformance/sandboxai/plan_steps.py"
        ran = subprocess.run(
            [sys.executable, str(steps), server.base_url],
            env={"PYTHONPATH": str(ROOT / "python"), "PATH": "/usr/bin:/bin", "SANDBOXAI_BINARY": BINARY},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    finally:
        server.stop()
    server.check_log()
