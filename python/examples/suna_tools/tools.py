"""Three tools as a SUNA-like backend has them: files, shell, Python.

They know no backend: ``SANDBOX_BACKEND`` (or the rollout) chooses it.
"""

from __future__ import annotations

from typing import Any, Dict

from sandboxai.suna import get_async_sandbox_client, get_sandbox_client


class Tool:
    """Something an agent can call on a workspace."""

    def __init__(self, workspace_id: str) -> None:
        self.client = get_sandbox_client(workspace_id)
        self.client.connect()

    def close(self) -> None:
        self.client.disconnect()


class FilesTool(Tool):
    """Writes, reads and lists files."""

    def execute(self, action: str, **arguments: Any) -> Dict[str, Any]:
        actions = {
            "write": self.client.write_file,
            "read": self.client.read_file,
            "list": self.client.list_files,
            "delete": self.client.delete_file,
        }
        result: Dict[str, Any] = actions[action](**arguments)
        return result


class ShellTool(Tool):
    """Runs commands."""

    def execute(self, command: str, cwd: str = ".") -> Dict[str, Any]:
        result: Dict[str, Any] = self.client.execute_shell_command(command, cwd)
        return result


class PythonTool(Tool):
    """Runs Python with state kept from call to call."""

    def execute(self, code: str) -> Dict[str, Any]:
        result: Dict[str, Any] = self.client.execute_code(code, "python")
        return result


class AsyncShellTool:
    """The same as :class:`ShellTool` for asynchronous backends."""

    def __init__(self, workspace_id: str) -> None:
        self.client = get_async_sandbox_client(workspace_id)

    async def execute(self, command: str) -> Dict[str, Any]:
        await self.client.connect()
        try:
            result: Dict[str, Any] = await self.client.execute_shell_command(command)
            return result
        finally:
            await self.client.disconnect()
