"""The adapter over the real server: what the plan's sketch got wrong must be right."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Iterator

import pytest

from sandboxai.suna import AsyncSandboxAIContext, SandboxAIClient, SandboxAIContext, get_cached_sandbox, cache_sandbox, upload_file_to_sandbox

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def client(server) -> Iterator[SandboxAIClient]:
    made = SandboxAIClient(f"kit {uuid.uuid4()}", base_url=server.base_url)
    made.connect()
    yield made
    made.delete()


@pytest.mark.parametrize(
    "content",
    ["no newline", "with newline\n", "", "'single' \"double\" $HOME `id` \\n \\", "ü € 漢字\r\n", "x" * 300_000],
)
def test_text_arrives_exactly(client: SandboxAIClient, content: str) -> None:
    assert client.write_file("text.txt", content)["success"]
    read = client.read_file("text.txt")
    assert (read["success"], read["content"], read["binary"]) == (True, content, False)


def test_binary_content_arrives_exactly(client: SandboxAIClient) -> None:
    content = bytes(range(256)) * 1000
    assert client.write_file("data.bin", content)["success"]
    read = client.read_file("data.bin")
    assert read["binary"] and base64.b64decode(read["content"]) == content
    assert client.read_file_bytes("data.bin") == content


@pytest.mark.parametrize("name", ["it's.txt", 'a "b".txt', "$HOME.txt", "two\nlines.txt", "-rf", "--help", "a;b|c&d", "sub/дир/x"])
def test_odd_names_are_only_names(client: SandboxAIClient, name: str) -> None:
    written = client.write_file(name, name)
    assert written["success"], written
    assert client.read_file(name)["content"] == name
    folder = os.path.dirname(name) or "."
    assert os.path.basename(name) in [entry["name"] for entry in client.list_files(folder)["files"]]


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../../x"])
def test_paths_do_not_climb_out(client: SandboxAIClient, path: str) -> None:
    for result in (client.write_file(path, "x"), client.read_file(path), client.list_files(path)):
        assert not result["success"] and "leaves the workspace" in result["error"]
    assert not client.execute_shell_command("true", cwd="..")["success"]


def test_success_follows_the_exit_code(client: SandboxAIClient) -> None:
    failed = client.execute_shell_command("echo out; echo err >&2; exit 3")
    assert (failed["success"], failed["exit_code"], failed["output"]) == (False, 3, "out\nerr\n")
    assert "3" in failed["error"]
    assert client.execute_shell_command("true") == {"success": True, "output": "", "error": None, "exit_code": 0}


def test_python_keeps_state_and_tells_errors(client: SandboxAIClient) -> None:
    assert client.execute_code("x = 41")["success"]
    assert client.execute_code("print(x + 1)")["output"] == "42\n"
    failed = client.execute_code("undefined_name")
    assert not failed["success"] and "NameError" in failed["error"]


@pytest.mark.parametrize("language", ["bash", "shell", "javascript", "js"])
def test_other_languages(client: SandboxAIClient, language: str) -> None:
    code = "console.log(6 * 7)" if language in ("javascript", "js") else "echo $((6 * 7))"
    assert client.execute_code(code, language)["output"] == "42\n"


def test_a_language_that_is_not_there_says_what_to_install(client: SandboxAIClient) -> None:
    result = client.execute_code("print(1)", "r")
    assert not result["success"] and result["exit_code"] == 127 and "r-base" in result["output"]
    assert "cobol" in client.execute_code("x", "cobol")["error"]


def test_code_runs_in_the_workspace(client: SandboxAIClient) -> None:
    assert client.execute_shell_command("pwd")["output"].strip() == client.workspace_dir
    client.write_file("deep/x", "1")
    assert client.execute_shell_command("ls", cwd="deep")["output"] == "x\n"


def test_files_are_real_entries(client: SandboxAIClient) -> None:
    client.write_file("listing/a", "12345")
    client.execute_shell_command("mkdir -p listing/d; chmod 750 listing/d")
    files = {entry["name"]: entry for entry in client.list_files("listing")["files"]}
    assert (files["a"]["size"], files["a"]["is_dir"]) == (5, False)
    assert (files["d"]["is_dir"], files["d"]["mode"]) == (True, "0750")


def test_uploads_of_files_and_folders_with_progress(client: SandboxAIClient, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    data = os.urandom(3_000_000)
    (tmp_path / "sub" / "data.bin").write_bytes(data)
    seen = []
    assert upload_file_to_sandbox(client, str(tmp_path), "up", on_progress=lambda done, total: seen.append((done, total)))
    assert client.read_file_bytes("up/sub/data.bin") == data
    assert seen[-1] == (len(data), len(data))


def test_a_workspace_finds_its_files_again_also_from_another_process(server) -> None:
    workspace_id = f"durable/{uuid.uuid4()}"
    with SandboxAIContext(workspace_id, base_url=server.base_url) as first:
        first.write_file("kept", "still here")
        uid = first.execute_shell_command("hostname")["output"]
    script = (
        "import sys; from sandboxai.suna import SandboxAIContext\n"
        "with SandboxAIContext(sys.argv[1], base_url=sys.argv[2]) as client:\n"
        "    print(client.read_file('kept')['content'], client.execute_shell_command('hostname')['output'])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    told = subprocess.run(
        [sys.executable, "-c", script, workspace_id, server.base_url], capture_output=True, text=True, env=env, timeout=60
    )
    assert told.stdout.split() == ["still", "here", uid.strip()], told.stderr
    SandboxAIClient(workspace_id, base_url=server.base_url).delete()


def test_two_that_connect_at_once_share_one_sandbox(server) -> None:
    workspace_id = f"race {uuid.uuid4()}"

    async def hostname() -> str:
        async with AsyncSandboxAIContext(workspace_id, base_url=server.base_url) as client:
            return (await client.execute_shell_command("hostname"))["output"]

    async def both() -> list:
        return await asyncio.gather(*(hostname() for _ in range(4)))

    assert len(set(asyncio.run(both()))) == 1
    SandboxAIClient(workspace_id, base_url=server.base_url).delete()


def test_the_cache_hands_out_living_clients_only(server) -> None:
    client = SandboxAIClient(f"cached {uuid.uuid4()}", base_url=server.base_url)
    client.connect()
    cache_sandbox(client.workspace_id, client)
    assert get_cached_sandbox(client.workspace_id) is client
    SandboxAIClient(client.workspace_id, base_url=server.base_url).delete()
    assert get_cached_sandbox(client.workspace_id) is None


def test_calls_before_connect_say_so() -> None:
    with pytest.raises(RuntimeError, match="connect"):
        SandboxAIClient("x", base_url="http://127.0.0.1:9").execute_code("1")


def test_a_stopped_workspace_is_started_and_has_its_files(server) -> None:
    client = SandboxAIClient(f"stopped {uuid.uuid4()}", base_url=server.base_url)
    client.connect()
    client.write_file("kept", "here")
    assert client.sandbox is not None
    client.sandbox.stop()
    assert not client.is_alive()
    client.disconnect()
    client.connect()
    assert client.read_file("kept")["content"] == "here"
    client.delete()
