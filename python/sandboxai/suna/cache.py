"""Keeps clients of workspaces connected, the most recently used ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, List, Optional

from .metrics import set_active_sandboxes


class SandboxCache:
    """At most ``max_size`` connected clients; the least recently used one goes first.

    What is evicted is disconnected. A client whose sandbox does not answer is
    never handed out. Safe to use from several threads; nothing is called under
    the lock, so that one slow sandbox does not hold up the others.
    """

    def __init__(self, max_size: int = 10) -> None:
        if max_size < 1:
            raise ValueError("max_size: a cache holds at least one client")
        self._clients: "OrderedDict[str, Any]" = OrderedDict()
        self._max_size = max_size
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._clients)

    def get(self, workspace_id: str) -> Optional[Any]:
        """The connected client of a workspace, if there is one and its sandbox is alive."""
        with self._lock:
            client = self._clients.get(workspace_id)
        if client is None:
            return None
        if client.is_alive():
            with self._lock:
                if self._clients.get(workspace_id) is client:
                    self._clients.move_to_end(workspace_id)
                    return client
            # Evicted meanwhile, and so disconnected.
            return None
        self.remove(workspace_id, client)
        return None

    def set(self, workspace_id: str, client: Any) -> None:
        """Keeps a client; the one that it replaces and those beyond the size are disconnected."""
        gone: List[Any] = []
        with self._lock:
            former = self._clients.pop(workspace_id, None)
            if former is not None and former is not client:
                gone.append(former)
            self._clients[workspace_id] = client
            while len(self._clients) > self._max_size:
                gone.append(self._clients.popitem(last=False)[1])
            count = len(self._clients)
        set_active_sandboxes(count)
        for other in gone:
            other.disconnect()

    def remove(self, workspace_id: str, client: Optional[Any] = None) -> None:
        """Forgets and disconnects the client of a workspace, if it is still that one."""
        with self._lock:
            kept = self._clients.get(workspace_id)
            if kept is None or (client is not None and kept is not client):
                return
            del self._clients[workspace_id]
            count = len(self._clients)
        set_active_sandboxes(count)
        kept.disconnect()

    def clear(self) -> None:
        """Disconnects all."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), OrderedDict()
        set_active_sandboxes(0)
        for client in clients:
            client.disconnect()


_sandbox_cache = SandboxCache()


def get_cached_sandbox(workspace_id: str) -> Optional[Any]:
    """The living client of a workspace from this process's cache."""
    return _sandbox_cache.get(workspace_id)


def cache_sandbox(workspace_id: str, sandbox: Any) -> None:
    """Keeps a connected client in this process's cache."""
    _sandbox_cache.set(workspace_id, sandbox)
