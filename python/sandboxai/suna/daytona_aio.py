"""The asynchronous Daytona side; the synchronous one is generated from it by ``generate_sync.py``.

A thin adapter over the installed ``daytona`` SDK with the interface of the
SandboxAI adapter, so that one environment variable changes the backend.
"""

from __future__ import annotations

import base64
import logging
import os
import shlex
from types import TracebackType
from typing import Any, Dict, Optional, Type, Union

from .monitoring import monitor_sandbox_operation
from .workspace import inside, language_of, sandbox_name, workspace_folder

logger = logging.getLogger(__name__)


class AsyncDaytonaClient:
    """One workspace on Daytona, as :class:`AsyncSandboxAIClient` is one on SandboxAI.

    :param api_key, api_url, target: as for the SDK; its environment variables when absent.
    :param snapshot: what the sandbox starts from; Daytona's default when absent.
    """

    def __init__(
        self,
        workspace_id: str,
        *,
        workspace_dir: Optional[str] = None,
        api_key: Optional[str] = None,
        api_url: Optional[str] = None,
        target: Optional[str] = None,
        snapshot: Optional[str] = None,
        env: Optional[Dict[str, str]] = None,
        timeout: Optional[float] = None,
    ) -> None:
        self.workspace_id = workspace_id
        self.workspace_dir = workspace_dir or workspace_folder(workspace_id)
        self.sandbox: Any = None
        self.timeout = timeout
        self._name = sandbox_name(workspace_id)
        self._snapshot, self._env = snapshot, env
        self._api_key = api_key or os.environ.get("DAYTONA_API_KEY")
        self._api_url = api_url or os.environ.get("DAYTONA_SERVER_URL") or os.environ.get("DAYTONA_API_URL")
        self._target = target or os.environ.get("DAYTONA_TARGET")
        self._daytona: Any = None

    def _open(self) -> Any:
        try:
            from daytona import AsyncDaytona, DaytonaConfig
        except ImportError as error:
            raise RuntimeError("the Daytona backend needs its SDK: pip install daytona") from error
        if self._daytona is None:
            self._daytona = AsyncDaytona(
                DaytonaConfig(api_key=self._api_key, api_url=self._api_url, target=self._target)
            )
        return self._daytona

    async def connect(self) -> bool:
        """Finds the sandbox of the workspace and starts it, or makes it."""
        if self.sandbox is not None:
            return True
        from daytona import CreateSandboxFromSnapshotParams, DaytonaNotFoundError

        daytona = self._open()
        try:
            box = await daytona.get(self._name)
            if str(getattr(box.state, "value", box.state)) != "started":
                await box.start()
        except DaytonaNotFoundError:
            box = await daytona.create(
                CreateSandboxFromSnapshotParams(name=self._name, snapshot=self._snapshot, env_vars=self._env)
            )
        await box.process.exec(f"mkdir -p -- {shlex.quote(self.workspace_dir)}")
        self.sandbox = box
        return True

    async def disconnect(self) -> None:
        """Closes the connections; the sandbox and its files stay."""
        self.sandbox = None
        daytona, self._daytona = self._daytona, None
        if daytona is not None and hasattr(daytona, "close"):
            await daytona.close()

    async def delete(self) -> None:
        """Ends the sandbox of the workspace with all its files."""
        from daytona import DaytonaNotFoundError

        try:
            box = self.sandbox or await self._open().get(self._name)
            await box.delete()
        except DaytonaNotFoundError:
            pass
        self.sandbox = None

    async def is_alive(self) -> bool:
        """Whether the sandbox is there and answers."""
        if self.sandbox is None:
            return False
        try:
            return int((await self.sandbox.process.exec("true", timeout=10)).exit_code) == 0
        except Exception:  # the SDK raises many kinds of errors
            return False

    def _box(self) -> Any:
        if self.sandbox is None:
            raise RuntimeError("Sandbox not connected. Call connect() first.")
        return self.sandbox

    async def _shell(self, command: str, folder: str) -> Dict[str, Any]:
        answer = await self._box().process.exec(command, cwd=folder, timeout=_seconds(self.timeout))
        code = int(answer.exit_code)
        error = None if code == 0 else f"the command ended with exit code {code}"
        return {"success": code == 0, "output": answer.result, "error": error, "exit_code": code}

    @monitor_sandbox_operation
    async def execute_code(self, code: str, language: str = "python") -> Dict[str, Any]:
        """Runs code; Python keeps its state from call to call in Daytona's code interpreter."""
        box = self._box()
        try:
            name, spec = language_of(language)
            if name == "python":
                ran = await box.code_interpreter.run_code(code, timeout=_seconds(self.timeout))
                error = f"{ran.error.name}: {ran.error.value}" if ran.error else None
                ok = error is None
                return {"success": ok, "output": ran.stdout + ran.stderr, "error": error, "exit_code": 0 if ok else 1}
            if spec is None:
                return await self._shell(code, self.workspace_dir)
            script = f"/tmp/{sandbox_name(code)}{spec.suffix}"
            await box.fs.upload_file(code.encode(), script)
            return await self._shell(spec.command(script, name), self.workspace_dir)
        except Exception as error:  # the SDK raises many kinds of errors
            return _failed(error, output="")

    @monitor_sandbox_operation
    async def execute_shell_command(self, command: str, cwd: Optional[str] = None) -> Dict[str, Any]:
        """Runs a shell command in the workspace, or in ``cwd`` below it."""
        self._box()
        try:
            return await self._shell(command, inside(self.workspace_dir, cwd or "."))
        except Exception as error:  # the SDK raises many kinds of errors
            return _failed(error, output="")

    @monitor_sandbox_operation
    async def write_file(self, file_path: str, content: Union[str, bytes]) -> Dict[str, Any]:
        """Writes a file exactly as it is given; missing folders are made."""
        box = self._box()
        try:
            path = inside(self.workspace_dir, file_path)
            raw = content.encode() if isinstance(content, str) else bytes(content)
            await box.fs.upload_file(raw, path)
        except Exception as error:  # the SDK raises many kinds of errors
            return _failed(error)
        return {"success": True, "path": path, "size": len(raw), "message": f"File written: {file_path}"}

    @monitor_sandbox_operation
    async def read_file(self, file_path: str) -> Dict[str, Any]:
        """Reads a file: text if it is UTF-8, else ``content`` is in base64 and ``binary`` true."""
        box = self._box()
        try:
            path = inside(self.workspace_dir, file_path)
            content = await box.fs.download_file(path)
        except Exception as error:  # the SDK raises many kinds of errors
            return _failed(error)
        try:
            return {"success": True, "content": content.decode(), "binary": False, "path": path}
        except UnicodeDecodeError:
            encoded = base64.b64encode(content).decode()
            return {"success": True, "content": encoded, "binary": True, "path": path}

    @monitor_sandbox_operation
    async def list_files(self, directory: str = ".") -> Dict[str, Any]:
        """Lists a folder: ``files`` has an entry per file, ``output`` a line per file."""
        box = self._box()
        try:
            folder = inside(self.workspace_dir, directory)
            entries = await box.fs.list_files(folder)
        except Exception as error:  # the SDK raises many kinds of errors
            return _failed(error)
        files = [
            {
                "name": info.name,
                "path": f"{folder.rstrip('/')}/{info.name}",
                "is_dir": info.is_dir,
                "size": info.size,
                "mode": info.permissions,
                "modified": info.mod_time,
                "owner": info.owner,
                "group": info.group,
            }
            for info in sorted(entries, key=lambda info: str(info.name))
        ]
        return {"success": True, "output": "\n".join(str(file["name"]) for file in files), "files": files}

    @monitor_sandbox_operation
    async def delete_file(self, file_path: str, recursive: bool = False) -> Dict[str, Any]:
        """Removes a file, or with ``recursive`` a folder."""
        box = self._box()
        try:
            path = inside(self.workspace_dir, file_path)
            await box.fs.delete_file(path, recursive)
        except Exception as error:  # the SDK raises many kinds of errors
            return _failed(error)
        return {"success": True, "path": path, "message": f"File deleted: {file_path}"}


class AsyncDaytonaContext:
    """``async with AsyncDaytonaContext(workspace_id) as client``: connected inside, disconnected after it."""

    def __init__(self, workspace_id: str, **kwargs: Any) -> None:
        self.client = AsyncDaytonaClient(workspace_id, **kwargs)

    async def __aenter__(self) -> AsyncDaytonaClient:
        await self.client.connect()
        return self.client

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.client.disconnect()


def _seconds(timeout: Optional[float]) -> Optional[int]:
    """The SDK takes whole seconds; a part of one counts as one."""
    return None if timeout is None else max(1, round(timeout + 0.49))


def _failed(error: Exception, **more: Any) -> Dict[str, Any]:
    logger.warning("a sandbox operation failed: %s", error)
    return {"success": False, **more, "error": str(error)}
