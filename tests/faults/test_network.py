"""What a sandbox reaches, and what not."""

from __future__ import annotations

import socket
import subprocess

import pytest
from conftest import Server
from sandboxai import Sandbox

CONNECT = "python3 -c \"import socket,sys; s=socket.create_connection(('{host}', {port}), 3); print('reached')\""


def test_pip_installs_a_package(box: Sandbox) -> None:
    result = box.run_shell_command("pip install --quiet six==1.16.0 && python3 -c 'import six; print(six.__version__)'", timeout=120)
    assert result.output.splitlines()[-1] == "1.16.0", result.output


def test_apt_installs_a_package(box: Sandbox) -> None:
    result = box.run_shell_command("apt-get update -qq && apt-get install -y -qq hello >/dev/null && hello", timeout=240)
    assert "Hello, world!" in result.output, result.output


def _host_address() -> str:
    shown = subprocess.run(["ip", "-4", "-o", "address", "show", "scope", "global"], capture_output=True, text=True).stdout
    return next(
        (line.split()[3].split("/")[0] for line in shown.splitlines() if not line.split()[1].startswith("sbx")), "127.0.0.1"
    )


@pytest.fixture()
def host_service():
    """A service on every address of this host, which no sandbox may reach."""
    # Connections are made without anybody accepting them.
    with socket.create_server(("0.0.0.0", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_host_and_the_metadata_service_are_out_of_reach(box: Sandbox, host_service: int) -> None:
    gateway = box.run_shell_command("ip route | awk '/default/ {print $3}'").output.strip()
    assert gateway
    for host, port in [(gateway, host_service), (_host_address(), host_service), ("169.254.169.254", 80)]:
        result = box.run_shell_command(CONNECT.format(host=host, port=port))
        assert result.exit_code != 0 and "reached" not in result.output, f"{host}:{port} was reached"


def test_a_neighbour_is_out_of_reach(server: Server, box: Sandbox) -> None:
    with Sandbox(server.base_url) as neighbour:
        neighbour.run_shell_command("nohup python3 -m http.server 8000 >/dev/null 2>&1 &")
        address = neighbour.run_shell_command("hostname -I").output.split()[0]
        assert box.run_shell_command(CONNECT.format(host=address, port=8000)).exit_code != 0
        assert "reached" in neighbour.run_shell_command("sleep 1; " + CONNECT.format(host=address, port=8000)).output


def test_network_none_has_loopback_only(server: Server) -> None:
    with Sandbox(server.base_url, network="none") as box:
        assert box.run_shell_command("ls /sys/class/net 2>/dev/null; ip -o link | wc -l").output.split()[-1] == "1"
        assert box.run_shell_command("ping -c1 -W1 127.0.0.1 >/dev/null 2>&1 || python3 -c \"import socket; socket.create_server(('127.0.0.1', 0))\"").exit_code == 0
