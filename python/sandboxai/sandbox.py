"""The synchronous client; generated from ``aio.py`` by ``generate_sync.py``, do not edit."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Type, TypeVar

import httpx

from . import embedded as embedded_server
from .errors import SandboxNotFoundError
from .results import FileInfo, IPythonCellResult, RichOutput, ShellCommandResult
from .transport import (
    CHUNK_BYTES,
    FOLDER_ENTRIES_MAX,
    HTTP_TIMEOUT,
    Call,
    Callbacks,
    Calls,
    Content,
    Progress,
    SseReader,
    as_bytes,
    connection_error,
    local_target,
    local_tree,
    no_end,
)

T = TypeVar("T")

#: The image of ``sandboxai-client``; the server resolves it to its default image.
DEFAULT_IMAGE = "substratusai/sandboxai-box:v0.2.0"


def endpoint(base_url: str, embedded: bool) -> str:
    """Where to send calls; starts the embedded server if that is wanted."""
    if embedded:
        return embedded_server.start_server().base_url
    if not base_url:
        raise ValueError("base_url or embedded must be specified")
    return base_url.rstrip("/") if base_url.rstrip("/").endswith("/v1") else base_url.rstrip("/") + "/v1"


def spec_options(
    memory_mb: Optional[int],
    cpu: Optional[float],
    pids: Optional[int],
    network: Optional[str],
    idle_timeout: Optional[float],
    lifetime: Optional[float],
    runtime_class: Optional[str],
) -> Dict[str, Any]:
    """The optional fields of a spec as the server names them."""
    return {
        "memory_mb": memory_mb,
        "cpu": cpu,
        "pids": pids,
        "network": network,
        "idle_timeout_s": idle_timeout,
        "lifetime_s": lifetime,
        "runtime_class": runtime_class,
    }


class Sandbox:
    """An isolated computer.

    Every parameter and attribute of ``sandboxai-client`` 0.0.2 works as there.

    :param base_url: where the server listens, with or without ``/v1``.
    :param embedded: start the server that this package carries, one per process.
    :param lazy_create: make the sandbox on first use instead of now.
    :param space: owner scope of the name.
    :param name: made up by the server when absent.
    :param image: what the file system starts from.
    :param env: environment of everything that runs inside.
    :param api_key: sent as a bearer token.
    :param memory_mb: memory limit in MiB; the server's default when absent, as all that follow.
    :param cpu: CPUs, e.g. 1.5.
    :param pids: processes and threads.
    :param network: ``"open"`` (public internet) or ``"none"``.
    :param idle_timeout: end after so many seconds without a call.
    :param lifetime: end so many seconds after creation.
    :param runtime_class: kind of walls, e.g. ``"runsc"``; one that the server's configuration allows.
    """

    def __init__(
        self,
        base_url: str = "",
        embedded: bool = False,
        lazy_create: bool = False,
        space: str = "default",
        name: Optional[str] = None,
        image: str = DEFAULT_IMAGE,
        env: Optional[Mapping[str, str]] = None,
        *,
        api_key: Optional[str] = None,
        memory_mb: Optional[int] = None,
        cpu: Optional[float] = None,
        pids: Optional[int] = None,
        network: Optional[str] = None,
        idle_timeout: Optional[float] = None,
        lifetime: Optional[float] = None,
        runtime_class: Optional[str] = None,
    ) -> None:
        self.space = space
        self.name = name
        self.image = image
        self.env = env
        self.base_url = endpoint(base_url, embedded)
        self._options = spec_options(memory_mb, cpu, pids, network, idle_timeout, lifetime, runtime_class)
        self._calls = Calls(space)
        self._created = False
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=self.base_url, timeout=HTTP_TIMEOUT, headers=headers)
        if not lazy_create:
            self.create()

    @classmethod
    def attach(
        cls, name: str, base_url: str = "", *, embedded: bool = False, space: str = "default", api_key: Optional[str] = None
    ) -> "Sandbox":
        """The existing sandbox of that name, e.g. from another process."""
        box = cls(base_url, embedded, True, space, name, api_key=api_key)
        found = box._send(box._calls.get(name))
        box.image, box.env, box._created = found["spec"]["image"], found["spec"].get("env"), True
        return box

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        try:
            self.delete()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"Sandbox(name={self.name!r}, space={self.space!r}, image={self.image!r})"

    def close(self) -> None:
        """Closes the connections to the server; the sandbox lives on."""
        self._http.close()

    # Life.

    def create(self) -> None:
        """Makes the sandbox; done by the constructor unless ``lazy_create``."""
        created = self._send(self._calls.create(self.name, self.image, self.env, self._options))
        self.name, self.image, self._created = created["name"], created["spec"]["image"], True

    def delete(self) -> None:
        """Ends the sandbox and all that is in it; once more does nothing."""
        if self.name and self._created:
            self._send(self._calls.delete(self.name))
        self.name, self.image, self._created = "", "", False

    def stop(self) -> None:
        """Ends the processes and keeps the files, for :meth:`start`."""
        self._send(self._calls.life(self._ready(), "stop"))

    def start(self) -> None:
        """Starts a stopped, archived or paused sandbox; one that runs goes on so."""
        self._send(self._calls.life(self._ready(), "start"))

    def info(self) -> Dict[str, Any]:
        """The sandbox as the server knows it."""
        return self._send(self._calls.get(self._ready()))

    def _ready(self) -> str:
        if not self._created:
            self.create()
        assert self.name
        return self.name

    # Code and commands.

    def run_ipython_cell(
        self,
        code: str,
        *,
        timeout: Optional[float] = None,
        split_output: bool = False,
        context: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        on_stdout: Optional[Callable[[str], Any]] = None,
        on_stderr: Optional[Callable[[str], Any]] = None,
        on_display: Optional[Callable[[RichOutput], Any]] = None,
    ) -> IPythonCellResult:
        """Runs a cell in a kernel whose state is kept from cell to cell.

        :param timeout: interrupt the cell after so many seconds; the kernel stays usable.
        :param split_output: fill ``stdout`` and ``stderr`` apart.
        :param context: name of another kernel with a state of its own.
        :param on_stdout: called with text as it comes (both outputs unless split); likewise the others.
        """
        body = {"code": code, "split_output": split_output, "timeout_s": timeout, "context": context, "env": env}
        callbacks = Callbacks(on_stdout, on_stderr, on_display)
        name = self._ready()
        if callbacks:
            return self._stream(self._calls.stream_cell(name, body), callbacks)
        return self._send(self._calls.cell(name, body))

    def run_shell_command(
        self,
        command: str,
        *,
        timeout: Optional[float] = None,
        split_output: bool = False,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        stdin: Optional[str] = None,
        on_stdout: Optional[Callable[[str], Any]] = None,
        on_stderr: Optional[Callable[[str], Any]] = None,
    ) -> ShellCommandResult:
        """Runs a command by ``/bin/sh -c`` and waits for it.

        :param timeout: kill it after so many seconds; the result then says ``timed_out``.
        :param on_stdout: called with text as it comes (both outputs unless split); likewise ``on_stderr``.
        """
        body = {
            "command": command,
            "split_output": split_output,
            "timeout_s": timeout,
            "cwd": cwd,
            "env": env,
            "stdin": stdin,
        }
        callbacks = Callbacks(on_stdout, on_stderr)
        name = self._ready()
        if callbacks:
            return self._stream(self._calls.stream_shell(name, body), callbacks)
        return self._send(self._calls.shell(name, body))

    def interrupt(self, context: str = "default") -> None:
        """Interrupts the running cell, as Ctrl-C does."""
        self._send(self._calls.kernel(self._ready(), "interrupt", context))

    def restart_kernel(self, context: str = "default") -> None:
        """Forgets the state of a kernel."""
        self._send(self._calls.kernel(self._ready(), "restart", context))

    # Files.

    def write_file(self, path: str, content: Content, *, mode: Optional[int] = None, append: bool = False) -> FileInfo:
        """Writes a file, text as UTF-8; missing folders are made."""
        return self._send(self._calls.write_file(self._ready(), path, as_bytes(content), mode, append))

    def read_file(self, path: str, *, offset: int = 0, length: Optional[int] = None) -> bytes:
        """The content of a file."""
        return b"".join(self._read(path, offset, length))

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """The content of a file as text."""
        return self.read_file(path).decode(encoding)

    def list_files(self, path: str = ".", *, depth: int = 1, limit: Optional[int] = None) -> List[FileInfo]:
        """What is in a folder, down to ``depth`` levels, sorted by path."""
        return self._send(self._calls.list_files(self._ready(), path, depth, limit))

    def stat_file(self, path: str) -> FileInfo:
        """One file, folder or link."""
        return self._send(self._calls.entry(self._ready(), "stat_file", {"path": path}))

    def exists(self, path: str) -> bool:
        """Whether there is something at that path."""
        try:
            self.stat_file(path)
        except SandboxNotFoundError:
            return False
        return True

    def make_directory(self, path: str) -> FileInfo:
        """Makes a folder and its parents; one that exists is fine."""
        return self._send(self._calls.entry(self._ready(), "make_directory", {"path": path}))

    def move_file(self, source: str, destination: str, *, overwrite: bool = False) -> FileInfo:
        """Renames a file or folder."""
        body = {"source": source, "destination": destination, "overwrite": overwrite}
        return self._send(self._calls.entry(self._ready(), "move_file", body))

    def remove_file(self, path: str, *, recursive: bool = False) -> None:
        """Removes a file, or with ``recursive`` a whole folder."""
        self._send(self._calls.remove_file(self._ready(), path, recursive))

    def upload(self, local: "os.PathLike[str] | str", remote: str, *, on_progress: Optional[Progress] = None) -> None:
        """Copies a file or a whole folder into the sandbox, never holding more than a chunk."""
        local, name = os.fspath(local), self._ready()
        if not os.path.isdir(local):
            self._upload_file(name, local, remote, on_progress)
            return
        for path, target, is_dir in local_tree(local, remote):
            if is_dir:
                self.make_directory(target)
            else:
                self._upload_file(name, path, target, on_progress)

    def _upload_file(self, name: str, local: str, remote: str, on_progress: Optional[Progress]) -> None:
        with open(local, "rb") as file:
            stat = os.fstat(file.fileno())

            def chunks() -> Iterator[bytes]:
                done = 0
                while chunk := file.read(CHUNK_BYTES):
                    done += len(chunk)
                    yield chunk
                    if on_progress:
                        on_progress(done, stat.st_size)

            self._send(self._calls.write_file(name, remote, chunks(), stat.st_mode & 0o777, False))

    def download(self, remote: str, local: "os.PathLike[str] | str", *, on_progress: Optional[Progress] = None) -> None:
        """Copies a file or a whole folder out of the sandbox, never holding more than a chunk.

        Links and special files inside a folder are left out.
        """
        local = os.fspath(local)
        info = self.stat_file(remote)
        if not info.is_dir:
            self._download_file(remote, local, info.size, on_progress)
            return
        os.makedirs(local, exist_ok=True)
        folders = [remote]
        while folders:
            folder = folders.pop()
            for entry in self.list_files(folder, limit=FOLDER_ENTRIES_MAX):
                target = local_target(local, remote, entry)
                if entry.is_dir:
                    os.makedirs(target, exist_ok=True)
                    folders.append(entry.path)
                elif entry.is_file:
                    self._download_file(entry.path, target, entry.size, on_progress)

    def _download_file(self, remote: str, local: str, size: int, on_progress: Optional[Progress]) -> None:
        partial = local + ".part"
        done = 0
        with open(partial, "wb") as file:
            for chunk in self._read(remote, 0, None):
                file.write(chunk)
                done += len(chunk)
                if on_progress:
                    on_progress(done, size)
        os.replace(partial, local)

    def _read(self, path: str, offset: int, length: Optional[int]) -> Iterator[bytes]:
        call = self._calls.read_file(self._ready(), path, offset, length)
        try:
            with self._http.stream(call.method, call.path, params=call.params) as response:
                if not response.is_success:
                    response.read()
                    call.read(response)
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    yield chunk
        except httpx.HTTPError as error:
            raise connection_error(self.base_url, error) from error

    # Sending.

    def _send(self, call: Call[T]) -> T:
        try:
            response = self._http.request(
                call.method, call.path, json=call.json, params=call.params, headers=call.headers, content=call.content
            )
        except httpx.HTTPError as error:
            raise connection_error(self.base_url, error) from error
        return call.read(response)

    def _stream(self, call: Call[T], callbacks: Callbacks) -> T:
        reader = SseReader()
        try:
            with self._http.stream(call.method, call.path, json=call.json, headers=call.headers) as response:
                if not response.is_success:
                    response.read()
                    return call.read(response)
                for line in response.iter_lines():
                    event = reader.line(line)
                    end = callbacks.dispatch(*event) if event else None
                    if end is not None:
                        return call.parse(end)
        except httpx.HTTPError as error:
            raise connection_error(self.base_url, error) from error
        raise no_end()

