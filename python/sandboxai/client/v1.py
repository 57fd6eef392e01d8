"""The low-level client of ``sandboxai-client``, same names and signatures."""

from __future__ import annotations

import time
from typing import Any

import httpx

from .. import errors
from ..api.v1 import (
    CreateSandboxRequest,
    RunIPythonCellRequest,
    RunIPythonCellResult,
    RunShellCommandRequest,
    RunShellCommandResult,
    Sandbox,
)
from ..errors import SandboxNotFoundError as SandboxNotFoundError
from ..transport import HTTP_TIMEOUT, decode


class HttpClient:
    """Typed calls on the v1 protocol; ``base_url`` ends with ``/v1``."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self.session = httpx.Client(timeout=HTTP_TIMEOUT)

    def _call(self, method: str, path: str, expected: int, body: Any = None) -> Any:
        try:
            response = self.session.request(method, self.base_url + path, json=body)
        except httpx.HTTPError as error:
            raise errors.ServerUnavailableError(f"{self.base_url}: {error}", kind="unavailable") from error
        if response.status_code != expected:
            raise errors.from_body(response.status_code, decode(response), response.text)
        return decode(response)

    def check_health(self) -> bool:
        try:
            return self.session.get(f"{self.base_url}/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_healthy(self, timeout: int = 10) -> None:
        deadline = time.monotonic() + timeout
        while not self.check_health():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.base_url} did not become healthy within {timeout} s")
            time.sleep(0.05)

    def create_sandbox(self, space: str, req: CreateSandboxRequest) -> Sandbox:
        body = self._call("POST", f"/spaces/{space}/sandboxes", 201, req.model_dump())
        return Sandbox.model_validate(body)

    def get_sandbox(self, space: str, name: str) -> Sandbox:
        return Sandbox.model_validate(self._call("GET", f"/spaces/{space}/sandboxes/{name}", 200))

    def delete_sandbox(self, space: str, name: str) -> None:
        self._call("DELETE", f"/spaces/{space}/sandboxes/{name}", 204)

    def run_ipython_cell(
        self, space: str, name: str, request: RunIPythonCellRequest
    ) -> RunIPythonCellResult:
        path = f"/spaces/{space}/sandboxes/{name}/tools:run_ipython_cell"
        return RunIPythonCellResult.model_validate(self._call("POST", path, 200, request.model_dump()))

    def run_shell_command(
        self, space: str, name: str, request: RunShellCommandRequest
    ) -> RunShellCommandResult:
        path = f"/spaces/{space}/sandboxes/{name}/tools:run_shell_command"
        return RunShellCommandResult.model_validate(self._call("POST", path, 200, request.model_dump()))
