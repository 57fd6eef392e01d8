"""The asynchronous client; the synchronous one is generated from it by ``generate_sync.py``."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, AsyncIterator, Callable, Dict, List, Mapping, Optional, Type, TypeVar

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


class AsyncSandbox:
    """An isolated computer.

    Every parameter and attribute of ``sandboxai-client`` 0.0.2 works as there.
    The sandbox is made by ``async with`` or by the first call.  # async only

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
        self._http = httpx.AsyncClient(base_url=self.base_url, timeout=HTTP_TIMEOUT, headers=headers)
        self._lazy_create = lazy_create  # async only
        # sync: if not lazy_create:
        # sync:     self.create()

    @classmethod
    async def attach(
        cls, name: str, base_url: str = "", *, embedded: bool = False, space: str = "default", api_key: Optional[str] = None
    ) -> "AsyncSandbox":
        """The existing sandbox of that name, e.g. from another process."""
        box = cls(base_url, embedded, True, space, name, api_key=api_key)
        found = await box._send(box._calls.get(name))
        box.image, box.env, box._created = found["spec"]["image"], found["spec"].get("env"), True
        return box

    async def __aenter__(self) -> "AsyncSandbox":
        if not self._lazy_create:  # async only
            await self._ready()  # async only
        return self

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        try:
            await self.delete()
        finally:
            await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncSandbox(name={self.name!r}, space={self.space!r}, image={self.image!r})"

    async def aclose(self) -> None:
        """Closes the connections to the server; the sandbox lives on."""
        await self._http.aclose()

    # Life.

    async def create(self) -> None:
        """Makes the sandbox; done by the constructor unless ``lazy_create``."""
        created = await self._send(self._calls.create(self.name, self.image, self.env, self._options))
        self.name, self.image, self._created = created["name"], created["spec"]["image"], True

    async def delete(self) -> None:
        """Ends the sandbox and all that is in it; once more does nothing."""
        if self.name and self._created:
            await self._send(self._calls.delete(self.name))
        self.name, self.image, self._created = "", "", False

    async def stop(self) -> None:
        """Ends the processes and keeps the files, for :meth:`start`."""
        await self._send(self._calls.life(await self._ready(), "stop"))

    async def start(self) -> None:
        """Starts a stopped, archived or paused sandbox; one that runs goes on so."""
        await self._send(self._calls.life(await self._ready(), "start"))

    async def info(self) -> Dict[str, Any]:
        """The sandbox as the server knows it."""
        return await self._send(self._calls.get(await self._ready()))

    async def _ready(self) -> str:
        if not self._created:
            await self.create()
        assert self.name
        return self.name

    # Code and commands.

    async def run_ipython_cell(
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
        name = await self._ready()
        if callbacks:
            return await self._stream(self._calls.stream_cell(name, body), callbacks)
        return await self._send(self._calls.cell(name, body))

    async def run_shell_command(
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
        name = await self._ready()
        if callbacks:
            return await self._stream(self._calls.stream_shell(name, body), callbacks)
        return await self._send(self._calls.shell(name, body))

    async def interrupt(self, context: str = "default") -> None:
        """Interrupts the running cell, as Ctrl-C does."""
        await self._send(self._calls.kernel(await self._ready(), "interrupt", context))

    async def restart_kernel(self, context: str = "default") -> None:
        """Forgets the state of a kernel."""
        await self._send(self._calls.kernel(await self._ready(), "restart", context))

    # Files.

    async def write_file(self, path: str, content: Content, *, mode: Optional[int] = None, append: bool = False) -> FileInfo:
        """Writes a file, text as UTF-8; missing folders are made."""
        return await self._send(self._calls.write_file(await self._ready(), path, as_bytes(content), mode, append))

    async def read_file(self, path: str, *, offset: int = 0, length: Optional[int] = None) -> bytes:
        """The content of a file."""
        return b"".join([chunk async for chunk in self._read(path, offset, length)])

    async def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """The content of a file as text."""
        return (await self.read_file(path)).decode(encoding)

    async def list_files(self, path: str = ".", *, depth: int = 1, limit: Optional[int] = None) -> List[FileInfo]:
        """What is in a folder, down to ``depth`` levels, sorted by path."""
        return await self._send(self._calls.list_files(await self._ready(), path, depth, limit))

    async def stat_file(self, path: str) -> FileInfo:
        """One file, folder or link."""
        return await self._send(self._calls.entry(await self._ready(), "stat_file", {"path": path}))

    async def exists(self, path: str) -> bool:
        """Whether there is something at that path."""
        try:
            await self.stat_file(path)
        except SandboxNotFoundError:
            return False
        return True

    async def make_directory(self, path: str) -> FileInfo:
        """Makes a folder and its parents; one that exists is fine."""
        return await self._send(self._calls.entry(await self._ready(), "make_directory", {"path": path}))

    async def move_file(self, source: str, destination: str, *, overwrite: bool = False) -> FileInfo:
        """Renames a file or folder."""
        body = {"source": source, "destination": destination, "overwrite": overwrite}
        return await self._send(self._calls.entry(await self._ready(), "move_file", body))

    async def remove_file(self, path: str, *, recursive: bool = False) -> None:
        """Removes a file, or with ``recursive`` a whole folder."""
        await self._send(self._calls.remove_file(await self._ready(), path, recursive))

    async def upload(self, local: "os.PathLike[str] | str", remote: str, *, on_progress: Optional[Progress] = None) -> None:
        """Copies a file or a whole folder into the sandbox, never holding more than a chunk."""
        local, name = os.fspath(local), await self._ready()
        if not os.path.isdir(local):
            await self._upload_file(name, local, remote, on_progress)
            return
        for path, target, is_dir in local_tree(local, remote):
            if is_dir:
                await self.make_directory(target)
            else:
                await self._upload_file(name, path, target, on_progress)

    async def _upload_file(self, name: str, local: str, remote: str, on_progress: Optional[Progress]) -> None:
        with open(local, "rb") as file:
            stat = os.fstat(file.fileno())

            async def chunks() -> AsyncIterator[bytes]:
                done = 0
                while chunk := file.read(CHUNK_BYTES):
                    done += len(chunk)
                    yield chunk
                    if on_progress:
                        on_progress(done, stat.st_size)

            await self._send(self._calls.write_file(name, remote, chunks(), stat.st_mode & 0o777, False))

    async def download(self, remote: str, local: "os.PathLike[str] | str", *, on_progress: Optional[Progress] = None) -> None:
        """Copies a file or a whole folder out of the sandbox, never holding more than a chunk.

        Links and special files inside a folder are left out.
        """
        local = os.fspath(local)
        info = await self.stat_file(remote)
        if not info.is_dir:
            await self._download_file(remote, local, info.size, on_progress)
            return
        os.makedirs(local, exist_ok=True)
        folders = [remote]
        while folders:
            folder = folders.pop()
            for entry in await self.list_files(folder, limit=FOLDER_ENTRIES_MAX):
                target = local_target(local, remote, entry)
                if entry.is_dir:
                    os.makedirs(target, exist_ok=True)
                    folders.append(entry.path)
                elif entry.is_file:
                    await self._download_file(entry.path, target, entry.size, on_progress)

    async def _download_file(self, remote: str, local: str, size: int, on_progress: Optional[Progress]) -> None:
        partial = local + ".part"
        done = 0
        with open(partial, "wb") as file:
            async for chunk in self._read(remote, 0, None):
                file.write(chunk)
                done += len(chunk)
                if on_progress:
                    on_progress(done, size)
        os.replace(partial, local)

    async def _read(self, path: str, offset: int, length: Optional[int]) -> AsyncIterator[bytes]:
        call = self._calls.read_file(await self._ready(), path, offset, length)
        try:
            async with self._http.stream(call.method, call.path, params=call.params) as response:
                if not response.is_success:
                    await response.aread()
                    call.read(response)
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    yield chunk
        except httpx.HTTPError as error:
            raise connection_error(self.base_url, error) from error

    # Sending.

    async def _send(self, call: Call[T]) -> T:
        try:
            response = await self._http.request(
                call.method, call.path, json=call.json, params=call.params, headers=call.headers, content=call.content
            )
        except httpx.HTTPError as error:
            raise connection_error(self.base_url, error) from error
        return call.read(response)

    async def _stream(self, call: Call[T], callbacks: Callbacks) -> T:
        reader = SseReader()
        try:
            async with self._http.stream(call.method, call.path, json=call.json, headers=call.headers) as response:
                if not response.is_success:
                    await response.aread()
                    return call.read(response)
                async for line in response.aiter_lines():
                    event = reader.line(line)
                    end = callbacks.dispatch(*event) if event else None
                    if end is not None:
                        return call.parse(end)
        except httpx.HTTPError as error:
            raise connection_error(self.base_url, error) from error
        raise no_end()

