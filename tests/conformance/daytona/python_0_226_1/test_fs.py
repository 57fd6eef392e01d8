"""Files: every method of ``sandbox.fs``."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest
from daytona import (
    DaytonaError,
    DaytonaFileAccessDeniedError,
    DaytonaFileNotFoundError,
    DaytonaNotFoundError,
    FileDownloadRequest,
    FileUpload,
    Sandbox,
)

MIB = 1 << 20


@pytest.mark.parametrize(
    "content",
    [b"", b"plain\n", bytes(range(256)), b"\r\n--boundary--\r\n" * 100, os.urandom(3 * MIB + 1)],
    ids=["empty", "text", "every-byte", "like-multipart", "3MiB"],
)
def test_upload_and_download(sandbox: Sandbox, folder: str, content: bytes) -> None:
    sandbox.fs.upload_file(content, f"{folder}/file")
    assert sandbox.fs.download_file(f"{folder}/file") == content
    assert sandbox.fs.get_file_info(f"{folder}/file").size == len(content)


@pytest.mark.parametrize("name", ["with space", "ünï-文件.txt", "quo\"te's", "per%20cent", "semi;colon=1", "new\nline"])
def test_names_are_kept(sandbox: Sandbox, folder: str, name: str) -> None:
    sandbox.fs.upload_file(b"named", f"{folder}/{name}")
    assert [entry.name for entry in sandbox.fs.list_files(folder)] == [name]
    assert sandbox.fs.download_file(f"{folder}/{name}") == b"named"


def test_upload_from_a_local_path(sandbox: Sandbox, folder: str, tmp_path: Path) -> None:
    local = tmp_path / "local.bin"
    local.write_bytes(b"from disk" * 1000)
    sandbox.fs.upload_file(str(local), f"{folder}/there")
    assert sandbox.fs.download_file(f"{folder}/there") == b"from disk" * 1000


def test_download_to_a_local_path(sandbox: Sandbox, folder: str, tmp_path: Path) -> None:
    content = os.urandom(MIB)
    sandbox.fs.upload_file(content, f"{folder}/file")
    sandbox.fs.download_file(f"{folder}/file", str(tmp_path / "here"))
    assert (tmp_path / "here").read_bytes() == content


def test_upload_makes_missing_folders(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"deep", f"{folder}/a/b/c/file")
    assert sandbox.fs.download_file(f"{folder}/a/b/c/file") == b"deep"


def test_upload_replaces(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"long content", f"{folder}/file")
    sandbox.fs.upload_file(b"short", f"{folder}/file")
    assert sandbox.fs.download_file(f"{folder}/file") == b"short"


def test_upload_over_a_folder_is_refused(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaError) as raised:
        sandbox.fs.upload_file(b"x", folder)
    assert raised.value.status_code == 400


def test_relative_paths_start_at_the_working_folder(sandbox: Sandbox) -> None:
    sandbox.fs.upload_file(b"relative", "relative.txt")
    assert sandbox.process.exec("cat /workspace/relative.txt").result == "relative"
    assert sandbox.fs.download_file("relative.txt") == b"relative"
    sandbox.fs.delete_file("relative.txt")


def test_upload_many(sandbox: Sandbox, folder: str, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"disk")
    files = [FileUpload(source=f"number {n}".encode(), destination=f"{folder}/{n}/file") for n in range(20)]
    sandbox.fs.upload_files([*files, FileUpload(source=str(tmp_path / "disk"), destination=f"{folder}/disk")])
    assert sandbox.fs.download_file(f"{folder}/19/file") == b"number 19"
    assert sandbox.fs.download_file(f"{folder}/disk") == b"disk"


def test_download_many_tells_of_each(sandbox: Sandbox, folder: str, tmp_path: Path) -> None:
    sandbox.fs.upload_files([FileUpload(b"one", f"{folder}/1"), FileUpload(b"two", f"{folder}/2")])
    answers = sandbox.fs.download_files(
        [
            FileDownloadRequest(source=f"{folder}/1"),
            FileDownloadRequest(source=f"{folder}/missing"),
            FileDownloadRequest(source=f"{folder}/2", destination=str(tmp_path / "two")),
            FileDownloadRequest(source=folder),
        ]
    )
    by_source = {answer.source: answer for answer in answers}
    assert by_source[f"{folder}/1"].result == b"one"
    assert (tmp_path / "two").read_bytes() == b"two"
    missing = by_source[f"{folder}/missing"]
    assert missing.result is None and missing.error and missing.error_details
    assert missing.error_details.code == "FILE_NOT_FOUND" and missing.error_details.status_code == 404
    assert by_source[folder].error, "a folder is no file"


def test_upload_stream(sandbox: Sandbox, folder: str) -> None:
    content = os.urandom(5 * MIB)
    told: list[int] = []
    sandbox.fs.upload_file_stream(
        io.BytesIO(content), f"{folder}/streamed", on_progress=lambda progress: told.append(progress.bytes_sent)
    )
    assert told and told[-1] >= len(content) and told == sorted(told)
    digest = sandbox.process.exec(f"sha256sum {folder}/streamed").result.split()[0]
    assert digest == hashlib.sha256(content).hexdigest()


def test_download_stream(sandbox: Sandbox, folder: str) -> None:
    sandbox.process.exec(f"head -c {5 * MIB} /dev/urandom > {folder}/big")
    expected = sandbox.process.exec(f"sha256sum {folder}/big").result.split()[0]
    totals = []
    digest = hashlib.sha256()
    for chunk in sandbox.fs.download_file_stream(f"{folder}/big", on_progress=lambda p: totals.append(p.total_bytes)):
        digest.update(chunk)
    assert digest.hexdigest() == expected
    assert set(totals) == {5 * MIB}


def test_download_stream_can_be_cancelled(sandbox: Sandbox, folder: str) -> None:
    sandbox.process.exec(f"head -c {20 * MIB} /dev/zero > {folder}/big")
    cancel = threading.Event()
    with pytest.raises(DaytonaError):
        for _ in sandbox.fs.download_file_stream(f"{folder}/big", cancel_event=cancel):
            cancel.set()
    assert sandbox.process.exec("echo alive").result == "alive\n"


def test_download_of_nothing(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaFileNotFoundError) as raised:
        sandbox.fs.download_file(f"{folder}/missing")
    assert raised.value.status_code == 404
    assert "no such file" in str(raised.value).lower() or "not found" in str(raised.value).lower()


def test_create_folder(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.create_folder(f"{folder}/new/er", "750")
    info = sandbox.fs.get_file_info(f"{folder}/new/er")
    assert info.is_dir and info.permissions == "0750" and info.mode == "drwxr-x---"


def test_create_folder_twice(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.create_folder(f"{folder}/same", "755")
    sandbox.fs.create_folder(f"{folder}/same", "755")
    assert sandbox.fs.get_file_info(f"{folder}/same").is_dir


def test_file_info(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"12345", f"{folder}/file")
    info = sandbox.fs.get_file_info(f"{folder}/file")
    assert (info.name, info.size, info.is_dir) == ("file", 5, False)
    assert (info.owner, info.group) == ("root", "root")
    assert info.permissions == "0644" and info.mode == "-rw-r--r--"
    modified = datetime.fromisoformat(info.modified_at.replace("Z", "+00:00"))
    assert abs((datetime.now(timezone.utc) - modified).total_seconds()) < 60
    assert info.mod_time[:10] == modified.date().isoformat()


def test_file_info_of_nothing(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.get_file_info(f"{folder}/missing")


def test_list_files(sandbox: Sandbox, folder: str) -> None:
    sandbox.process.exec(f"cd {folder} && mkdir sub && echo a > a && echo hidden > .h && ln -s a link")
    entries = {entry.name: entry for entry in sandbox.fs.list_files(folder)}
    assert set(entries) == {"sub", "a", ".h", "link"}
    assert entries["sub"].is_dir and not entries["a"].is_dir
    assert entries["a"].size == 2


def test_list_files_with_depth(sandbox: Sandbox, folder: str) -> None:
    sandbox.process.exec(f"cd {folder} && mkdir -p one/two/three && touch one/x one/two/y one/two/three/z")
    shallow = {entry.name for entry in sandbox.fs.list_files(folder)}
    assert shallow == {"one"}
    deep = {entry.path for entry in sandbox.fs.list_files(folder, depth=2)}
    assert deep == {f"{folder}/one", f"{folder}/one/x", f"{folder}/one/two"}


def test_list_of_nothing(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaNotFoundError):
        sandbox.fs.list_files(f"{folder}/missing")


def test_list_of_a_large_folder(sandbox: Sandbox, folder: str) -> None:
    sandbox.process.exec(f"cd {folder} && seq -f 'file-%05g' 3000 | xargs touch")
    assert len(sandbox.fs.list_files(folder)) == 3000


def test_delete_file(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"x", f"{folder}/file")
    sandbox.fs.delete_file(f"{folder}/file")
    with pytest.raises(DaytonaFileNotFoundError):
        sandbox.fs.get_file_info(f"{folder}/file")


def test_delete_of_nothing(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaNotFoundError):
        sandbox.fs.delete_file(f"{folder}/missing")


def test_delete_of_a_folder_wants_recursive(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"x", f"{folder}/sub/file")
    with pytest.raises(DaytonaError) as raised:
        sandbox.fs.delete_file(f"{folder}/sub")
    assert raised.value.status_code == 400
    sandbox.fs.delete_file(f"{folder}/sub", recursive=True)
    assert sandbox.fs.list_files(folder) == []


def test_delete_leaves_what_a_link_points_at(sandbox: Sandbox, folder: str) -> None:
    sandbox.process.exec(f"cd {folder} && mkdir keep && touch keep/file && mkdir sub && ln -s ../keep sub/link")
    sandbox.fs.delete_file(f"{folder}/sub", recursive=True)
    assert sandbox.fs.get_file_info(f"{folder}/keep/file").size == 0


def test_move_files(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"moves", f"{folder}/old")
    sandbox.fs.move_files(f"{folder}/old", f"{folder}/new")
    assert [entry.name for entry in sandbox.fs.list_files(folder)] == ["new"]
    assert sandbox.fs.download_file(f"{folder}/new") == b"moves"


def test_move_of_a_folder(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"inside", f"{folder}/old/file")
    sandbox.fs.move_files(f"{folder}/old", f"{folder}/new")
    assert sandbox.fs.download_file(f"{folder}/new/file") == b"inside"


def test_move_of_nothing(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaNotFoundError):
        sandbox.fs.move_files(f"{folder}/missing", f"{folder}/new")


def test_find_files(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_files(
        [
            FileUpload(b"first\nneedle one\nlast", f"{folder}/a.txt"),
            FileUpload(b"no such thing", f"{folder}/b.txt"),
            FileUpload(b"1\n2\nthe needle.\n", f"{folder}/sub/c.py"),
            FileUpload(b"needle\x00binary", f"{folder}/d.bin"),
        ]
    )
    found = {(match.file, match.line, match.content) for match in sandbox.fs.find_files(folder, "needle")}
    assert found == {(f"{folder}/a.txt", 2, "needle one"), (f"{folder}/sub/c.py", 3, "the needle.")}
    assert sandbox.fs.find_files(folder, "nowhere") == []


def test_find_files_of_one_file(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"x\ny\nx\n", f"{folder}/file")
    assert [match.line for match in sandbox.fs.find_files(f"{folder}/file", "x")] == [1, 3]


def test_search_files(sandbox: Sandbox, folder: str) -> None:
    sandbox.process.exec(f"cd {folder} && mkdir -p sub/deep && touch a.py b.txt sub/c.py sub/deep/d.py")
    found = sandbox.fs.search_files(folder, "*.py").files
    assert sorted(found) == [f"{folder}/a.py", f"{folder}/sub/c.py", f"{folder}/sub/deep/d.py"]
    assert sandbox.fs.search_files(folder, "*.none").files == []


def test_replace_in_files(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_files(
        [FileUpload(b"old and old", f"{folder}/1"), FileUpload(b"none", f"{folder}/2")]
    )
    results = sandbox.fs.replace_in_files([f"{folder}/1", f"{folder}/2", f"{folder}/3"], "old", "new")
    by_file = {result.file: result for result in results}
    assert by_file[f"{folder}/1"].success and by_file[f"{folder}/2"].success
    assert not by_file[f"{folder}/3"].success and by_file[f"{folder}/3"].error
    assert sandbox.fs.download_file(f"{folder}/1") == b"new and new"
    assert sandbox.fs.download_file(f"{folder}/2") == b"none"


def test_replace_keeps_the_mode(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"old", f"{folder}/script")
    sandbox.fs.set_file_permissions(f"{folder}/script", mode="755")
    sandbox.fs.replace_in_files([f"{folder}/script"], "old", "new")
    assert sandbox.fs.get_file_info(f"{folder}/script").permissions == "0755"


def test_set_file_permissions(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"#!/bin/sh\necho ran\n", f"{folder}/script")
    sandbox.fs.set_file_permissions(f"{folder}/script", mode="700")
    assert sandbox.fs.get_file_info(f"{folder}/script").permissions == "0700"
    assert sandbox.process.exec(f"{folder}/script").result == "ran\n"


def test_set_owner(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"", f"{folder}/file")
    sandbox.fs.set_file_permissions(f"{folder}/file", owner="nobody", group="nogroup")
    info = sandbox.fs.get_file_info(f"{folder}/file")
    assert (info.owner, info.group) == ("nobody", "nogroup")


def test_set_a_bad_mode(sandbox: Sandbox, folder: str) -> None:
    sandbox.fs.upload_file(b"", f"{folder}/file")
    with pytest.raises(DaytonaError) as raised:
        sandbox.fs.set_file_permissions(f"{folder}/file", mode="999")
    assert raised.value.status_code == 400


def test_a_read_only_place(sandbox: Sandbox) -> None:
    with pytest.raises((DaytonaFileAccessDeniedError, DaytonaError)) as raised:
        sandbox.fs.upload_file(b"x", "/proc/version")
    assert raised.value.status_code in (400, 403)


def test_a_fifo_does_not_hang_a_download(sandbox: Sandbox, folder: str) -> None:
    sandbox.process.exec(f"mkfifo {folder}/fifo")
    with pytest.raises(DaytonaError):
        sandbox.fs.download_file(f"{folder}/fifo")


def test_100_files_at_once(sandbox: Sandbox, folder: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def there_and_back(number: int) -> bool:
        content = f"{number}".encode() * 1000
        sandbox.fs.upload_file(content, f"{folder}/{number}")
        return sandbox.fs.download_file(f"{folder}/{number}") == content

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(there_and_back, range(100)))
