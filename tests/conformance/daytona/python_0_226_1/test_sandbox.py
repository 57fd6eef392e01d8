"""One sandbox: its states, its settings, its environment."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timezone

import pytest
from daytona import (
    Daytona,
    DaytonaBadRequestError,
    DaytonaError,
    DaytonaNotFoundError,
    Resources,
    Sandbox,
    SandboxState,
)


def test_folders(sandbox: Sandbox) -> None:
    assert sandbox.get_user_home_dir() == "/root"
    assert sandbox.get_work_dir() == "/workspace"
    assert sandbox.process.exec("pwd").result == "/workspace\n"


def test_refresh_data(daytona: Daytona, make) -> None:
    made = make()
    daytona.get(made.id).set_labels({"seen": "yes"})
    assert "seen" not in made.labels
    made.refresh_data()
    assert made.labels["seen"] == "yes"


def test_set_labels_replaces_all(daytona: Daytona, make) -> None:
    made = make(labels={"old": "1"})
    assert made.set_labels({"new": "2"}) == {"new": "2"}
    labels = daytona.get(made.id).labels
    assert labels == {"new": "2"}


@pytest.mark.parametrize(
    ("setter", "field", "value"),
    [
        ("set_autostop_interval", "auto_stop_interval", 30),
        ("set_autostop_interval", "auto_stop_interval", 0),
        ("set_auto_archive_interval", "auto_archive_interval", 45),
        ("set_auto_delete_interval", "auto_delete_interval", 90),
        ("set_auto_delete_interval", "auto_delete_interval", -1),
    ],
)
def test_intervals(daytona: Daytona, sandbox: Sandbox, setter: str, field: str, value: int) -> None:
    getattr(sandbox, setter)(value)
    assert getattr(daytona.get(sandbox.id), field) == value


def test_auto_archive_of_zero_is_the_longest(daytona: Daytona, sandbox: Sandbox) -> None:
    sandbox.set_auto_archive_interval(0)
    assert daytona.get(sandbox.id).auto_archive_interval in (0, 30 * 24 * 60)


def test_a_negative_interval_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaError):
        sandbox.set_autostop_interval(-5)


def test_set_public(daytona: Daytona, make) -> None:
    made = make()
    made.set_public(True)
    assert daytona.get(made.id).public
    made.set_public(False)
    assert not daytona.get(made.id).public


def test_refresh_activity_moves_the_time(daytona: Daytona, make) -> None:
    made = make()
    before = daytona.get(made.id).last_activity_at
    time.sleep(1.1)
    made.refresh_activity()
    after = daytona.get(made.id).last_activity_at
    parse = lambda text: datetime.fromisoformat(text.replace("Z", "+00:00"))  # noqa: E731
    assert parse(after) > parse(before)
    assert abs((datetime.now(timezone.utc) - parse(after)).total_seconds()) < 30


def test_stop_keeps_files_and_ends_processes(make) -> None:
    made = make()
    made.fs.upload_file(b"kept", "/root/kept")
    made.process.exec("nohup sleep 1000 >/dev/null 2>&1 &")
    assert made.process.exec("pgrep -f 'sleep 100[0]'").exit_code == 0
    made.stop()
    assert made.state == SandboxState.STOPPED
    made.start()
    assert made.state == SandboxState.STARTED
    assert made.fs.download_file("/root/kept") == b"kept"
    assert made.process.exec("pgrep -f 'sleep 100[0]'").exit_code == 1


def test_stop_keeps_env_and_labels(make) -> None:
    made = make(env_vars={"KEEP": "me"}, labels={"a": "b"})
    made.stop()
    made.start()
    assert made.process.exec("echo $KEEP").result == "me\n"
    assert made.labels["a"] == "b"


def test_stop_with_force(make) -> None:
    made = make()
    made.process.exec("nohup sh -c 'trap \"\" TERM; sleep 1000' >/dev/null 2>&1 &")
    started = time.monotonic()
    made.stop(force=True)
    assert made.state == SandboxState.STOPPED
    assert time.monotonic() - started < 10


def test_start_of_a_started_sandbox_changes_nothing(make) -> None:
    made = make()
    made.process.exec("touch /tmp/mark")
    made.start()
    assert made.state == SandboxState.STARTED
    assert made.process.exec("ls /tmp/mark").exit_code == 0


def test_a_stopped_sandbox_runs_nothing(make) -> None:
    made = make()
    made.stop()
    started = time.monotonic()
    with pytest.raises(DaytonaError) as raised:
        made.process.exec("echo no", timeout=5)
    assert time.monotonic() - started < 5
    assert raised.value.status_code and raised.value.status_code >= 400


def test_archive_and_start(daytona: Daytona, make) -> None:
    made = make()
    made.fs.create_folder("/root/deep/er", "750")
    made.fs.upload_file(bytes(range(256)) * 64, "/root/deep/er/data")
    made.process.exec("ln -s data /root/deep/er/link; rm /etc/motd")
    made.stop()
    made.archive()
    until = time.monotonic() + 30
    while daytona.get(made.id).state != SandboxState.ARCHIVED:
        assert time.monotonic() < until
        time.sleep(0.1)
    made.start()
    assert made.state == SandboxState.STARTED
    assert made.fs.download_file("/root/deep/er/link") == bytes(range(256)) * 64
    assert made.fs.get_file_info("/root/deep/er").permissions == "0750"
    assert made.process.exec("ls /etc/motd").exit_code != 0, "what was deleted is deleted"


def test_archive_of_a_started_sandbox_is_refused(make) -> None:
    made = make()
    with pytest.raises(DaytonaError) as raised:
        made.archive()
    assert raised.value.status_code in (400, 409)
    made.refresh_data()
    assert made.state == SandboxState.STARTED


def test_an_ephemeral_sandbox_goes_at_stop(daytona: Daytona, make) -> None:
    made = make(ephemeral=True)
    assert made.auto_delete_interval == 0
    made.stop()
    until = time.monotonic() + 15
    while True:
        try:
            daytona.get(made.id)
        except DaytonaNotFoundError:
            break
        assert time.monotonic() < until, "still there"
        time.sleep(0.2)


def test_wait_for_sandbox_start_and_stop(make) -> None:
    made = make()
    made.wait_for_sandbox_start()
    assert made.state == SandboxState.STARTED
    made.stop()
    made.wait_for_sandbox_stop()
    assert made.state == SandboxState.STOPPED


def test_resize_a_running_sandbox(daytona: Daytona, make) -> None:
    made = make()
    made.resize(Resources(memory=made.memory + 1))
    assert daytona.get(made.id).memory == made.memory
    metrics = made.get_metrics_latest()
    assert metrics.mem_total == made.memory << 30


def test_resize_of_a_running_sandbox_only_grows(make) -> None:
    made = make()
    made.resize(Resources(memory=made.memory + 1))
    with pytest.raises(DaytonaError) as raised:
        made.resize(Resources(memory=1))
    assert raised.value.status_code in (400, 409, 422)


def test_resize_of_nothing_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaBadRequestError):
        sandbox.resize(Resources())


def test_metrics(sandbox: Sandbox) -> None:
    metrics = sandbox.get_metrics_latest()
    assert metrics.cpu_count >= 1
    assert 0 < metrics.mem_used <= metrics.mem_total
    assert 0 < metrics.disk_used <= metrics.disk_total
    assert metrics.mem_total == sandbox.memory << 30
    assert abs((datetime.now(timezone.utc) - metrics.timestamp).total_seconds()) < 60


def test_update_env(make) -> None:
    made = make(env_vars={"GOES": "1", "STAYS": "1"})
    made.update_env({"COMES": "2"}, unset=["GOES"])
    assert made.process.exec('echo "${GOES-no} $STAYS $COMES"').result == "no 1 2\n"


def test_network_block_all(make) -> None:
    made = make(network_block_all=True)
    assert made.network_block_all
    answer = made.process.exec("ip -o link | grep -v ' lo:' | wc -l; ip route | wc -l")
    assert made.process.exec("curl -sS --max-time 3 http://1.1.1.1").exit_code != 0, answer.result


def test_signed_file_urls(sandbox: Sandbox) -> None:
    import httpx

    path = f"/tmp/{uuid.uuid4().hex}"
    put = httpx.post(sandbox.upload_url(path, 60), files={"file": ("x", b"\x00signed\xff")})
    assert put.status_code == 200, put.text
    assert sandbox.fs.download_file(path) == b"\x00signed\xff"
    assert httpx.get(sandbox.download_url(path, 60)).content == b"\x00signed\xff"
    forged = sandbox.download_url(path, 60).replace("tmp", "etc")
    assert httpx.get(forged).status_code in (401, 403)


def test_rotating_the_signing_key_ends_old_urls(make) -> None:
    import httpx

    made = make()
    made.fs.upload_file(b"1", "/tmp/one")
    old = made.download_url("/tmp/one")
    assert httpx.get(old).content == b"1"
    made.rotate_signing_key()
    assert httpx.get(old).status_code in (401, 403)


@pytest.mark.parametrize("call", ["create_ssh_access", "update_secrets"])
def test_what_is_not_served_says_so(sandbox: Sandbox, call: str) -> None:
    """These parts answer 501 with a body that tells what to do instead."""
    arguments = {"create_ssh_access": (10,), "update_secrets": ({"A": "b"},)}[call]
    with pytest.raises(DaytonaError) as raised:
        getattr(sandbox, call)(*arguments)
    assert raised.value.status_code == 501
    assert "not served" in raised.value.message.lower() or "not supported" in raised.value.message.lower()


def test_recover_of_a_healthy_sandbox_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaError) as raised:
        sandbox.recover()
    assert raised.value.status_code in (400, 409)
