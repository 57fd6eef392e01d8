"""One cache of connected clients for the process, by the plan's names."""

from __future__ import annotations

from typing import Any, Optional

from .cache_sync import SandboxCache as SandboxCache

_sandbox_cache = SandboxCache()


def get_cached_sandbox(workspace_id: str) -> Optional[Any]:
    """The living client of a workspace from this process's cache."""
    return _sandbox_cache.get(workspace_id)


def cache_sandbox(workspace_id: str, sandbox: Any) -> None:
    """Keeps a connected client in this process's cache."""
    _sandbox_cache.set(workspace_id, sandbox)
