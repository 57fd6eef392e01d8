"""What our package adds to the original one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import List

import pytest
import sandboxai
from conftest import Server
from sandboxai import AsyncSandbox, Sandbox


def test_output_comes_as_it_is_made(shared_box: Sandbox) -> None:
    seen: List[tuple] = []
    started = time.monotonic()
    result = shared_box.run_shell_command(
        "echo one; sleep 0.5; echo two", on_stdout=lambda text: seen.append((time.monotonic() - started, text))
    )
    assert result.exit_code == 0 and "".join(text for _, text in seen) == "one\ntwo\n"
    assert seen[-1][0] - seen[0][0] > 0.3


def test_a_streamed_cell_calls_back_for_everything(shared_box: Sandbox) -> None:
    out: List[str] = []
    shown: List[sandboxai.RichOutput] = []
    result = shared_box.run_ipython_cell(
        "print('é' * 100000); 6 * 7", on_stdout=out.append, on_display=shown.append
    )
    assert "".join(out) == "é" * 100000 + "\nOut[1]: 42\n"
    assert result.status == "ok" and shown[-1].is_result and shown[-1].text == "42"


def test_errors_have_one_base_and_say_what_to_do(server: Server, shared_box: Sandbox) -> None:
    with pytest.raises(sandboxai.SandboxNotFoundError) as missing:
        Sandbox.attach("no-such-box", server.base_url)
    assert isinstance(missing.value, sandboxai.SandboxError) and "no-such-box" in missing.value.message
    with pytest.raises(sandboxai.SandboxExistsError):
        Sandbox(server.base_url, name=shared_box.name)
    with pytest.raises(sandboxai.InvalidRequestError) as bad:
        Sandbox(server.base_url, name="not a name")
    assert "name" in bad.value.message
    with pytest.raises(sandboxai.SandboxError) as image:
        Sandbox(server.base_url, image="no/such-image:1")
    assert image.value.message.startswith("field `spec.image`: there is no image no/such-image:1")
    with pytest.raises(sandboxai.ServerUnavailableError):
        Sandbox("http://127.0.0.1:9/v1")
    with pytest.raises(ValueError):
        Sandbox()


def test_the_embedded_runtime_has_no_runtime_classes(server: Server) -> None:
    with pytest.raises(ValueError, match="`spec.runtime_class`: the embedded runtime has one kind of walls"):
        Sandbox(server.base_url, runtime_class="runsc")


def test_a_deleted_sandbox_tells_why_it_is_gone(server: Server) -> None:
    box = Sandbox(server.base_url)
    name = box.name or ""
    box.delete()
    assert (box.name, box.image) == ("", "")
    with pytest.raises(sandboxai.SandboxNotFoundError) as gone:
        Sandbox.attach(name, server.base_url)
    assert gone.value.tombstone and gone.value.tombstone["reason"] == "deleted"


def test_an_idle_sandbox_ends_and_says_so(server: Server) -> None:
    box = Sandbox(server.base_url, idle_timeout=1)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        time.sleep(1.5)
        try:
            found = Sandbox.attach(box.name or "", server.base_url)
            found.close()
        except sandboxai.SandboxNotFoundError as error:
            assert error.tombstone and error.tombstone["reason"] == "idle"
            return
    raise AssertionError("the sandbox outlived its lease")


def test_files_of_any_content(shared_box: Sandbox) -> None:
    data = bytes(range(256)) * 3
    shared_box.write_file("/tmp/f/a b'$(x)\n.bin", data)
    assert shared_box.read_file("/tmp/f/a b'$(x)\n.bin") == data
    assert shared_box.read_file("/tmp/f/a b'$(x)\n.bin", offset=255, length=2) == b"\xff\x00"
    shared_box.write_file("/tmp/f/no-newline", "text")
    assert shared_box.read_file("/tmp/f/no-newline") == b"text"
    assert [entry.name for entry in shared_box.list_files("/tmp/f")] == ["a b'$(x)\n.bin", "no-newline"]
    shared_box.move_file("/tmp/f/no-newline", "/tmp/f/moved")
    assert not shared_box.exists("/tmp/f/no-newline") and shared_box.stat_file("/tmp/f/moved").size == 4
    shared_box.remove_file("/tmp/f", recursive=True)
    with pytest.raises(sandboxai.SandboxNotFoundError):
        shared_box.read_file("/tmp/f/moved")


def test_folders_go_both_ways(shared_box: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/file.bin").write_bytes(os.urandom(10_000))
    (source / "empty").mkdir()
    script = source / "run.sh"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    shared_box.upload(source, "/tmp/folder")
    assert shared_box.run_shell_command("/tmp/folder/run.sh").output == "ran\n"
    target = tmp_path / "out"
    shared_box.download("/tmp/folder", target)
    for path in source.rglob("*"):
        copy = target / path.relative_to(source)
        assert copy.is_dir() if path.is_dir() else copy.read_bytes() == path.read_bytes()
    shared_box.remove_file("/tmp/folder", recursive=True)


def test_100_mib_go_both_ways_without_being_held(server: Server, shared_box: Sandbox, tmp_path: Path) -> None:
    big = tmp_path / "big"
    digest = hashlib.sha256()
    with big.open("wb") as file:
        for _ in range(100):
            block = os.urandom(1 << 20)
            digest.update(block)
            file.write(block)
    highest = [server.rss_bytes()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            highest.append(server.rss_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        steps: List[int] = []
        shared_box.upload(big, "/tmp/big", on_progress=lambda at, of: steps.append(at))
        assert steps[-1] == 100 << 20
        assert shared_box.run_shell_command("sha256sum < /tmp/big").output.split()[0] == digest.hexdigest()
        shared_box.download("/tmp/big", tmp_path / "back")
    finally:
        done.set()
        watcher.join()
    assert hashlib.sha256((tmp_path / "back").read_bytes()).hexdigest() == digest.hexdigest()
    assert max(highest) - highest[0] < 40 << 20, f"the server grew from {highest[0]} to {max(highest)} bytes"
    shared_box.remove_file("/tmp/big")


def test_the_async_client_does_many_things_at_once(server: Server) -> None:
    async def one(number: int) -> str:
        async with AsyncSandbox(server.base_url) as box:
            await box.write_file("n", str(number))
            return (await box.run_shell_command("cat n")).output

    async def many() -> List[str]:
        return list(await asyncio.gather(*(one(number) for number in range(10))))

    assert asyncio.run(many()) == [str(number) for number in range(10)]


def test_one_slow_command_holds_nobody_up(shared_box: Sandbox, server: Server) -> None:
    slow = threading.Thread(target=lambda: Sandbox.attach(shared_box.name or "", server.base_url).run_shell_command("sleep 2"))
    slow.start()
    started = time.monotonic()
    assert shared_box.run_shell_command("echo quick").output == "quick\n"
    assert time.monotonic() - started < 1.5
    slow.join()


def test_a_timeout_ends_the_command_with_its_output(shared_box: Sandbox) -> None:
    result = shared_box.run_shell_command("echo before; sleep 60", timeout=0.5)
    assert result.timed_out and result.output == "before\n" and result.exit_code != 0


def test_lazy_create_and_given_names(server: Server) -> None:
    box = Sandbox(server.base_url, lazy_create=True)
    assert box.name is None
    assert box.run_shell_command("echo made").output == "made\n" and box.name
    box.delete()
    with Sandbox(server.base_url, name="test-name", lazy_create=True) as named:
        named.create()
        assert named.name == "test-name"


def test_spaces_keep_names_apart(server: Server) -> None:
    with Sandbox(server.base_url, name="same", space="one"), Sandbox(server.base_url, name="same", space="two"):
        pass
