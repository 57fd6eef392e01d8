"""Tools for CrewAI that run code and commands in a sandbox of the embedded server."""

from __future__ import annotations

from typing import Any, Type

from crewai.tools import BaseTool
from pydantic import BaseModel, Field

from sandboxai import Sandbox


class SandboxIPythonToolArgs(BaseModel):
    code: str = Field(..., description="The code to execute in the ipython cell.")


class SandboxIPythonTool(BaseTool):  # type: ignore[misc]
    name: str = "Run Python code"
    description: str = (
        "Runs Python code in an IPython cell whose state is kept. "
        "A line that starts with '!' is a shell command."
    )
    args_schema: Type[BaseModel] = SandboxIPythonToolArgs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Ends with this Python program.
        self._sandbox = Sandbox(embedded=True)

    def _run(self, code: str) -> str:
        return self._sandbox.run_ipython_cell(code=code).output


class SandboxShellToolArgs(BaseModel):
    command: str = Field(..., description="The shell command to execute.")


class SandboxShellTool(BaseTool):  # type: ignore[misc]
    name: str = "Run shell command"
    description: str = "Runs a shell command in a sandbox."
    args_schema: Type[BaseModel] = SandboxShellToolArgs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Ends with this Python program.
        self._sandbox = Sandbox(embedded=True)

    def _run(self, command: str) -> str:
        return self._sandbox.run_shell_command(command=command).output
