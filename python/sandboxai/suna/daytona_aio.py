"""The asynchronous Daytona side; the synchronous one is generated from it by ``generate_sync.py``.

A thin adapter over the installed SDK, ``daytona`` or the older ``daytona-sdk``, with the
interface of the SandboxAI adapter, so that one environment variable changes the backend.
"""

from __future__ import annotations

import base64
import os
import shlex
from types import TracebackType
from typing import Any, Dict, Optional, Type, Union

from . import daytona_generation as generation
from .monitoring import monitor_sandbox_operation
from .workspace import inside, language_of, sandbox_name, workspace_folder

#: States from which a sandbox does not come back.
_GONE = ("destroyed", "destroying", "error", "build_failed")

#: States that lead to ``started`` by themselves.
_BEGINNING = ("creating", "starting", "restoring", "pulling_snapshot", "pending_build", "building_snapshot", "resuming")


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
        if self._daytona is None:
            sdk = generation.load()
            self._daytona = sdk.AsyncDaytona(
                sdk.DaytonaConfig(api_key=self._api_key, api_url=self._api_url, target=self._target)
            )
        return self._daytona

    async def connect(self) -> bool:
        """Finds the sandbox of the workspace and starts it, or makes it."""
        if self.sandbox is not None:
            return True
        box = await self._find()
        if box is None:
            box = await self._make()
        else:
            await _start(box)
        await box.process.exec(f"mkdir -p -- {shlex.quote(self.workspace_dir)}")
        self.sandbox = box
        return True

    async def _find(self) -> Any:
        """The sandbox of the workspace, or nothing."""
        sdk, daytona = generation.load(), self._open()
        if generation.has_names(sdk):
            try:
                return await daytona.get(self._name)
            except sdk.DaytonaError as error:
                if generation.is_missing(sdk, error):
                    return None
                raise
        found = await daytona.list({generation.LABEL: self._name})
        living = [box for box in found if _state(box) not in _GONE]
        return min(living, key=lambda box: (str(box.created_at), box.id), default=None)

    async def _make(self) -> Any:
        """A new sandbox for the workspace."""
        sdk, daytona = generation.load(), self._open()
        named = {"name": self._name} if generation.has_names(sdk) else {}
        try:
            made = await daytona.create(
                sdk.CreateSandboxFromSnapshotParams(
                    snapshot=self._snapshot, env_vars=self._env, labels={generation.LABEL: self._name}, **named
                )
            )
        except sdk.DaytonaError:
            other = await self._find() if named else None
            if other is None:
                raise
            # Somebody else was faster.
            await _start(other)
            return other
        if named:
            return made
        # Without names two can be made at the same time: the older one counts.
        oldest = await self._find()
        if oldest is None or oldest.id == made.id:
            return made
        await made.delete()
        await _start(oldest)
        return oldest

    async def disconnect(self) -> None:
        """Closes the connections; the sandbox and its files stay."""
        self.sandbox = None
        daytona, self._daytona = self._daytona, None
        if daytona is not None and hasattr(daytona, "close"):
            await daytona.close()

    async def delete(self) -> None:
        """Ends the sandbox of the workspace with all its files."""
        sdk = generation.load()
        box = self.sandbox or await self._find()
        try:
            if box is not None:
                await box.delete()
        except sdk.DaytonaError as error:
            if not generation.is_missing(sdk, error):
                raise
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
        return _ended(await self._box().process.exec(command, cwd=folder, timeout=_seconds(self.timeout)))

    @monitor_sandbox_operation
    async def execute_code(self, code: str, language: str = "python") -> Dict[str, Any]:
        """Runs code; Python keeps its state from call to call where the SDK has a code interpreter."""
        box = self._box()
        try:
            name, spec = language_of(language)
            if name == "python" and not generation.has_interpreter(box):
                return _ended(await box.process.code_run(code, timeout=_seconds(self.timeout)))
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
            if recursive:
                # Older SDKs cannot say it to the toolbox.
                removed = await self._shell(f"rm -r -- {shlex.quote(path)}", self.workspace_dir)
                if not removed["success"]:
                    return _failed(RuntimeError(removed["output"].strip() or removed["error"]))
            else:
                await box.fs.delete_file(path)
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


async def _start(box: Any) -> None:
    """Starts a sandbox that does not run, or waits for one that is about to."""
    state = _state(box)
    if state in _BEGINNING:
        await box.wait_for_sandbox_start()
    elif state != "started":
        await box.start()


def _state(box: Any) -> str:
    return str(getattr(box.state, "value", box.state))


def _ended(answer: Any) -> Dict[str, Any]:
    code = int(answer.exit_code)
    error = None if code == 0 else f"the command ended with exit code {code}"
    return {"success": code == 0, "output": answer.result, "error": error, "exit_code": code}


def _seconds(timeout: Optional[float]) -> Optional[int]:
    """The SDK takes whole seconds; a part of one counts as one."""
    return None if timeout is None else max(1, round(timeout + 0.49))


def _failed(error: Exception, **more: Any) -> Dict[str, Any]:
    return {"success": False, **more, "error": str(error)}
