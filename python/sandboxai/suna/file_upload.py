"""Uploads, by the plan's name."""

from __future__ import annotations

from typing import Any, Optional

from ..sandbox import Sandbox
from ..transport import Progress


def upload_file_to_sandbox(
    sandbox: Any, local_path: str, remote_path: str, on_progress: Optional[Progress] = None
) -> bool:
    """Copies a file or a folder, of any content and size, from this machine into a sandbox.

    :param sandbox: a ``Sandbox``, or a client of this package (the remote path is then in its workspace).
    :param on_progress: called with the bytes done and the bytes in all, per file.
    :raises SandboxError: when it does not arrive.
    """
    if isinstance(sandbox, Sandbox):
        sandbox.upload(local_path, remote_path, on_progress=on_progress)
        return True
    result = sandbox.upload(local_path, remote_path, on_progress=on_progress)
    return bool(result["success"])
