"""The asynchronous adapter; the synchronous one is generated from it by ``generate_sync.py``."""

from __future__ import annotations

import base64
import functools
import logging
import os
import uuid
from types import TracebackType
from typing import Any, Dict, Optional, Type, Union

from ..aio import DEFAULT_IMAGE, AsyncSandbox
from ..errors import SandboxError, SandboxExistsError, SandboxNotFoundError
from ..results import FileInfo, IPythonCellResult, ShellCommandResult
from .monitoring import monitor_sandbox_operation
from .workspace import inside, language_of, sandbox_name, workspace_folder

logger = logging.getLogger(__name__)

#: Folder for code that is run from a file, outside of the workspace.
SCRIPT_FOLDER = "/tmp"


class AsyncSandboxAIClient:
    """SUNA's view of one workspace: a durable sandbox with a folder in it.

    A workspace id stands for one sandbox, whichever process asks: ``connect``
    finds it or makes it, ``disconnect`` only closes connections, ``delete``
    ends it. All operations return dicts and never raise for what went wrong
    inside the sandbox: ``success`` follows the exit code.

    :param workspace_id: any text.
    :param base_url: the server; ``SANDBOXAI_URL`` when absent.
    :param embedded: without either, start the server that the package carries;
        its sandboxes live as long as this process.
    :param workspace_dir: the folder, ``/workspace/<workspace_id>`` when absent.
    :param image, env, space, api_key, memory_mb, cpu: as for ``Sandbox``.
    :param timeout: seconds that a command or cell may take; no limit when absent.
    """

    def __init__(
        self,
        workspace_id: str,
        *,
        workspace_dir: Optional[str] = None,
        base_url: Optional[str] = None,
        embedded: bool = True,
        space: str = "default",
        image: str = DEFAULT_IMAGE,
        env: Optional[Dict[str, str]] = None,
        api_key: Optional[str] = None,
        memory_mb: Optional[int] = None,
        cpu: Optional[float] = None,
        timeout: Optional[float] = None,
    ) -> None:
        self.workspace_id = workspace_id
        self.workspace_dir = workspace_dir or workspace_folder(workspace_id)
        self.sandbox: Optional[AsyncSandbox] = None
        self.embedded = embedded
        self.timeout = timeout
        self._name = sandbox_name(workspace_id)
        self._base_url = base_url or os.environ.get("SANDBOXAI_URL", "")
        self._space = space
        self._api_key = api_key or os.environ.get("SANDBOXAI_API_KEY")
        self._make: Dict[str, Any] = {"image": image, "env": env, "memory_mb": memory_mb, "cpu": cpu}

    async def connect(self) -> bool:
        """Finds the sandbox of the workspace, or makes it; sees to its folder.

        :raises SandboxError: when neither is possible.
        """
        if self.sandbox is None:
            box = await self._find() or await self._create()
            await box.make_directory(self.workspace_dir)
            self.sandbox = box
            logger.info("connected to sandbox %s of workspace %s", self._name, self.workspace_id)
        return True

    def _where(self) -> Dict[str, Any]:
        embedded = self.embedded and not self._base_url
        if embedded:
            _say_short_lived()
        return {"base_url": self._base_url, "embedded": embedded, "space": self._space, "api_key": self._api_key}

    async def _find(self) -> Optional[AsyncSandbox]:
        try:
            box = await AsyncSandbox.attach(self._name, **self._where())
        except SandboxNotFoundError:
            return None
        # One that was stopped meanwhile has its files still; else nothing changes.
        await box.start()
        return box

    async def _create(self) -> AsyncSandbox:
        box = AsyncSandbox(name=self._name, lazy_create=True, **self._where(), **self._make)
        try:
            await box.create()
        except SandboxExistsError:
            # Another process was faster.
            await box.aclose()
            return await AsyncSandbox.attach(self._name, **self._where())
        except SandboxError:
            await box.aclose()
            raise
        return box

    async def disconnect(self) -> None:
        """Closes the connections; the sandbox and its files stay."""
        box, self.sandbox = self.sandbox, None
        if box is not None:
            await box.aclose()

    async def delete(self) -> None:
        """Ends the sandbox of the workspace with all its files."""
        box = self.sandbox or await self._find()
        self.sandbox = None
        if box is not None:
            await box.delete()
            await box.aclose()

    async def is_alive(self) -> bool:
        """Whether the sandbox is there and answers."""
        if self.sandbox is None:
            return False
        try:
            return (await self.sandbox.run_shell_command("true", timeout=10)).ok
        except SandboxError:
            return False

    def _box(self) -> AsyncSandbox:
        if self.sandbox is None:
            raise RuntimeError("Sandbox not connected. Call connect() first.")
        return self.sandbox

    @monitor_sandbox_operation
    async def execute_code(self, code: str, language: str = "python") -> Dict[str, Any]:
        """Runs code: Python with state kept from call to call, shell, JavaScript, TypeScript, R."""
        box = self._box()
        try:
            name, spec = language_of(language)
            if name == "python":
                return _cell(await box.run_ipython_cell(code, timeout=self.timeout))
            if spec is None:
                return _shell(await box.run_shell_command(code, cwd=self.workspace_dir, timeout=self.timeout))
            script = f"{SCRIPT_FOLDER}/{uuid.uuid4().hex}{spec.suffix}"
            await box.write_file(script, code)
            try:
                command = spec.command(script, name)
                return _shell(await box.run_shell_command(command, cwd=self.workspace_dir, timeout=self.timeout))
            finally:
                await box.remove_file(script)
        except (SandboxError, ValueError) as error:
            return _failed(error, output="")

    @monitor_sandbox_operation
    async def execute_shell_command(self, command: str, cwd: Optional[str] = None) -> Dict[str, Any]:
        """Runs a shell command in the workspace, or in ``cwd`` below it."""
        box = self._box()
        try:
            folder = inside(self.workspace_dir, cwd or ".")
            return _shell(await box.run_shell_command(command, cwd=folder, timeout=self.timeout))
        except (SandboxError, ValueError) as error:
            return _failed(error, output="")

    @monitor_sandbox_operation
    async def write_file(self, file_path: str, content: Union[str, bytes]) -> Dict[str, Any]:
        """Writes a file exactly as it is given; missing folders are made."""
        box = self._box()
        try:
            path = inside(self.workspace_dir, file_path)
            info = await box.write_file(path, content)
        except (SandboxError, ValueError) as error:
            return _failed(error)
        return {"success": True, "path": path, "size": info.size, "message": f"File written: {file_path}"}

    @monitor_sandbox_operation
    async def read_file(self, file_path: str) -> Dict[str, Any]:
        """Reads a file: text if it is UTF-8, else ``content`` is in base64 and ``binary`` true."""
        box = self._box()
        try:
            path = inside(self.workspace_dir, file_path)
            content = await box.read_file(path)
        except (SandboxError, ValueError) as error:
            return _failed(error)
        try:
            return {"success": True, "content": content.decode(), "binary": False, "path": path}
        except UnicodeDecodeError:
            encoded = base64.b64encode(content).decode()
            return {"success": True, "content": encoded, "binary": True, "path": path}

    @monitor_sandbox_operation
    async def read_file_bytes(self, file_path: str) -> bytes:
        """Reads a file as it is.

        :raises SandboxError: when that is not possible.
        """
        return await self._box().read_file(inside(self.workspace_dir, file_path))

    @monitor_sandbox_operation
    async def list_files(self, directory: str = ".") -> Dict[str, Any]:
        """Lists a folder: ``files`` has an entry per file, ``output`` a line per file."""
        box = self._box()
        try:
            entries = await box.list_files(inside(self.workspace_dir, directory))
        except (SandboxError, ValueError) as error:
            return _failed(error)
        files = [_entry(info) for info in entries]
        return {"success": True, "output": "\n".join(_line(info) for info in entries), "files": files}

    @monitor_sandbox_operation
    async def delete_file(self, file_path: str, recursive: bool = False) -> Dict[str, Any]:
        """Removes a file, or with ``recursive`` a folder."""
        box = self._box()
        try:
            path = inside(self.workspace_dir, file_path)
            await box.remove_file(path, recursive=recursive)
        except (SandboxError, ValueError) as error:
            return _failed(error)
        return {"success": True, "path": path, "message": f"File deleted: {file_path}"}

    @monitor_sandbox_operation
    async def upload(self, local_path: str, file_path: str, on_progress: Any = None) -> Dict[str, Any]:
        """Copies a local file or folder into the workspace; ``on_progress(done, total)`` counts bytes per file."""
        box = self._box()
        try:
            path = inside(self.workspace_dir, file_path)
            await box.upload(local_path, path, on_progress=on_progress)
        except (SandboxError, ValueError, OSError) as error:
            return _failed(error)
        return {"success": True, "path": path, "message": f"Uploaded: {file_path}"}


class AsyncSandboxAIContext:
    """``async with AsyncSandboxAIContext(workspace_id) as client``: connected inside, disconnected after it."""

    def __init__(self, workspace_id: str, **kwargs: Any) -> None:
        self.client = AsyncSandboxAIClient(workspace_id, **kwargs)

    async def __aenter__(self) -> AsyncSandboxAIClient:
        await self.client.connect()
        return self.client

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.client.disconnect()


def create_async_sandbox_client(workspace_id: str, **kwargs: Any) -> AsyncSandboxAIClient:
    """A client for the workspace, not yet connected."""
    return AsyncSandboxAIClient(workspace_id, **kwargs)


def _shell(result: ShellCommandResult) -> Dict[str, Any]:
    error = None
    if result.timed_out:
        error = "the command took too long and was killed"
    elif not result.ok:
        error = f"the command ended with exit code {result.exit_code}"
    return {"success": result.ok, "output": result.output, "error": error, "exit_code": result.exit_code}


def _cell(result: IPythonCellResult) -> Dict[str, Any]:
    error = f"{result.error.name}: {result.error.value}" if result.error else None
    return {"success": result.ok, "output": result.output, "error": error, "exit_code": 0 if result.ok else 1}


@functools.lru_cache(maxsize=None)
def _say_short_lived() -> None:
    logger.warning(
        "no server is named, so workspaces end with this process; "
        "run `sandboxai serve` and set SANDBOXAI_URL=http://127.0.0.1:5266 to keep them"
    )


def _failed(error: Exception, **more: Any) -> Dict[str, Any]:
    return {"success": False, **more, "error": str(error)}


def _entry(info: FileInfo) -> Dict[str, Any]:
    return {
        "name": info.name,
        "path": info.path,
        "is_dir": info.is_dir,
        "size": info.size,
        "mode": f"{info.mode:04o}",
        "modified": info.modified.isoformat(),
        "owner": info.owner,
        "group": info.group,
    }


def _line(info: FileInfo) -> str:
    kind = "d" if info.is_dir else "l" if info.kind == "symlink" else "-"
    return f"{kind} {info.mode:04o} {info.owner}:{info.group} {info.size:>10} {info.modified:%Y-%m-%d %H:%M} {info.name}"
