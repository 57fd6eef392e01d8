"""The asynchronous cache; the synchronous one is generated from it by ``generate_sync.py``."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from typing import Any, List, Optional

from .metrics import add_active_sandboxes, count_cache


class AsyncSandboxCache:
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

    async def get(self, workspace_id: str) -> Optional[Any]:
        """The connected client of a workspace, if there is one and its sandbox is alive."""
        client = await self._living(workspace_id)
        count_cache("miss" if client is None else "hit")
        return client

    async def _living(self, workspace_id: str) -> Optional[Any]:
        with self._lock:
            client = self._clients.get(workspace_id)
        if client is None:
            return None
        if await client.is_alive():
            with self._lock:
                if self._clients.get(workspace_id) is client:
                    self._clients.move_to_end(workspace_id)
                    return client
            # Evicted meanwhile, and so disconnected.
            return None
        count_cache("dead")
        await self.remove(workspace_id, client)
        return None

    async def set(self, workspace_id: str, client: Any) -> None:
        """Keeps a client; the one that it replaces and those beyond the size are disconnected.

        :raises TypeError: when the client is of the other kind, plain or asynchronous.
        """
        if not inspect.iscoroutinefunction(client.is_alive):  # async only
            raise TypeError("client: plain clients go into SandboxCache")  # async only
        # sync: if inspect.iscoroutinefunction(client.is_alive):
        # sync:     raise TypeError("client: asynchronous clients go into AsyncSandboxCache")
        evicted: List[Any] = []
        with self._lock:
            before = len(self._clients)
            former = self._clients.pop(workspace_id, None)
            self._clients[workspace_id] = client
            while len(self._clients) > self._max_size:
                evicted.append(self._clients.popitem(last=False)[1])
            more = len(self._clients) - before
        add_active_sandboxes(more)
        count_cache("evicted", len(evicted))
        replaced = [former] if former is not None and former is not client else []
        for other in replaced + evicted:
            await other.disconnect()

    async def remove(self, workspace_id: str, client: Optional[Any] = None) -> None:
        """Forgets and disconnects the client of a workspace, if it is still that one."""
        with self._lock:
            kept = self._clients.get(workspace_id)
            if kept is None or (client is not None and kept is not client):
                return
            del self._clients[workspace_id]
        add_active_sandboxes(-1)
        await kept.disconnect()

    async def clear(self) -> None:
        """Disconnects all."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), OrderedDict()
        add_active_sandboxes(-len(clients))
        for client in clients:
            await client.disconnect()
