"""Workloads that try to take the sandbox, or more, down with them."""

from __future__ import annotations

import pytest
from conftest import Server
from sandboxai import Sandbox


def test_a_fork_bomb_is_stopped_and_the_agent_answers(server: Server) -> None:
    with Sandbox(server.base_url, pids=64) as box:
        bomb = "python3 -c \"import os,time\nn=0\ntry:\n while n<500:\n  n+=1\n  if os.fork()==0: time.sleep(20)\nexcept OSError as e: print('stopped', e.errno)\""
        assert "stopped 11" in box.run_shell_command(bomb, timeout=20).output
        # Still full of sleepers: files go through the agent, which has a reserve of its own.
        box.write_file("/tmp/answer", "yes")
        assert box.read_file("/tmp/answer") == b"yes"


def test_a_memory_bomb_ends_itself_only(server: Server) -> None:
    with Sandbox(server.base_url, memory_mb=200) as box:
        result = box.run_shell_command("python3 -c \"b = b'x' * (1 << 30)\"")
        assert result.exit_code == 137 and result.out_of_memory
        assert box.run_shell_command("echo alive").output == "alive\n"


def test_killing_everything_inside_leaves_the_agent(shared_box: Sandbox) -> None:
    shared_box.run_shell_command("kill -9 -1; kill -9 1; kill -STOP 1")
    assert shared_box.run_shell_command("echo alive").output == "alive\n"


def test_endless_output_is_cut_and_said(server: Server, shared_box: Sandbox) -> None:
    before = server.rss_bytes()
    result = shared_box.run_shell_command("yes | head -c 300000000")
    assert result.truncated and len(result.output) < 80 << 20
    assert result.output.startswith("y\ny\n") and result.output.endswith("y\n")
    assert server.rss_bytes() - before < 300 << 20


def test_a_background_child_does_not_hold_the_command(shared_box: Sandbox) -> None:
    result = shared_box.run_shell_command("(sleep 3; echo late > /tmp/late) & echo now", timeout=2)
    assert result.output == "now\n" and not result.timed_out


@pytest.mark.parametrize(
    "path", ["/proc/self/fd/3", "/proc/1/root/etc/passwd", "/proc/self/mem", "/dev/zero", "/proc/kcore"]
)
def test_the_file_api_follows_nobody_out(shared_box: Sandbox, path: str) -> None:
    import sandboxai

    with pytest.raises(sandboxai.SandboxError):
        shared_box.read_file(path)


def test_what_a_process_sees_of_the_host(shared_box: Sandbox) -> None:
    status = shared_box.run_shell_command("cat /proc/self/status").output
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2"
    # chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot
    assert int(facts["CapBnd"], 16) == 0b100_0000_0101_1111_1011
    maps = shared_box.run_shell_command("cat /proc/self/uid_map").output.split()
    assert maps[0] == "0" and int(maps[1]) >= 1_000_000 and maps[2] == "65536"
    assert shared_box.run_shell_command("cat /proc/self/cgroup | cut -d: -f3 | sort -u").output == "/\n"
    assert shared_box.run_shell_command("ls /sys").exit_code == 0
    mounts = shared_box.run_shell_command("cat /proc/self/mountinfo").output
    assert "sysfs" not in mounts and "/var/lib" not in mounts and "target/state" not in mounts


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none /mnt",
        "unshare -U true",
        "hostname other",
        "ip link set lo down",
        "mknod /tmp/null c 1 3",
        "cat /proc/1/environ",
        "echo 1 > /proc/sys/kernel/panic",
        "dmesg",
    ],
)
def test_what_a_process_may_not_do(shared_box: Sandbox, command: str) -> None:
    assert shared_box.run_shell_command(command).exit_code != 0
