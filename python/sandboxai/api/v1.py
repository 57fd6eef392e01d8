"""The models of the v1 protocol, as in ``sandboxai-client``, with our extensions optional."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")


class Error(_Model):
    message: str = Field(..., description="What was wrong, with what, and what to do.")
    kind: Optional[str] = Field(None, description="The class of the error.")


class SandboxSpec(_Model):
    image: Optional[str] = Field(None, description="The image the sandbox starts from.")
    env: Optional[Dict[str, str]] = Field(None, description="Environment variables of the sandbox.")


class SandboxStatus(_Model):
    pass


class CreateSandboxRequest(_Model):
    name: Optional[str] = Field(None, description="Made up when absent.")
    spec: SandboxSpec


class Sandbox(_Model):
    name: Optional[str] = None
    uid: Optional[str] = None
    spec: SandboxSpec
    status: Optional[SandboxStatus] = None


class RunIPythonCellRequest(_Model):
    code: str
    split_output: Optional[bool] = False


class RunIPythonCellResult(_Model):
    output: Optional[str] = None
    stdout: Optional[str] = None
    stderr: Optional[str] = None
    status: Optional[str] = None
    results: Optional[List[Dict[str, Any]]] = None


class RunShellCommandRequest(_Model):
    command: str
    split_output: Optional[bool] = False


class RunShellCommandResult(_Model):
    output: Optional[str] = None
    stdout: Optional[str] = None
    stderr: Optional[str] = None
    exit_code: Optional[int] = None
