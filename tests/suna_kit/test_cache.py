"""The cache of connected clients, without a server."""

from __future__ import annotations

import asyncio
import threading

import pytest
from prometheus_client import REGISTRY

from sandboxai.suna import AsyncSandboxCache, SandboxCache


class Client:
    def __init__(self) -> None:
        self.alive, self.disconnected = True, 0

    def is_alive(self) -> bool:
        return self.alive

    def disconnect(self) -> None:
        self.disconnected += 1


def test_the_least_recently_used_goes_and_is_closed() -> None:
    cache, clients = SandboxCache(2), [Client() for _ in range(3)]
    cache.set("a", clients[0])
    cache.set("b", clients[1])
    assert cache.get("a") is clients[0]
    cache.set("c", clients[2])
    assert (cache.get("b"), cache.get("a"), cache.get("c")) == (None, clients[0], clients[2])
    assert [client.disconnected for client in clients] == [0, 1, 0]


def test_a_dead_sandbox_is_never_handed_out() -> None:
    cache, client = SandboxCache(), Client()
    cache.set("a", client)
    client.alive = False
    assert cache.get("a") is None and client.disconnected == 1 and len(cache) == 0


def test_replacing_closes_the_former_one_and_setting_again_does_not() -> None:
    cache, first, second = SandboxCache(), Client(), Client()
    cache.set("a", first)
    cache.set("a", first)
    assert first.disconnected == 0
    cache.set("a", second)
    assert (first.disconnected, second.disconnected) == (1, 0)
    cache.clear()
    assert second.disconnected == 1 and len(cache) == 0


def test_many_threads_never_exceed_the_size_and_close_everything_once() -> None:
    cache, made = SandboxCache(4), []

    def work(number: int) -> None:
        for turn in range(200):
            client = Client()
            made.append(client)
            cache.set(f"{(number + turn) % 9}", client)
            cache.get(f"{turn % 9}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) <= 4
    cache.clear()
    assert all(client.disconnected == 1 for client in made)


class AsyncClient(Client):
    async def is_alive(self) -> bool:  # type: ignore[override]
        return self.alive

    async def disconnect(self) -> None:  # type: ignore[override]
        self.disconnected += 1


def test_the_asynchronous_cache_does_the_same() -> None:
    async def use() -> None:
        cache, clients = AsyncSandboxCache(2), [AsyncClient() for _ in range(3)]
        for name, client in zip("abc", clients):
            await cache.set(name, client)
        assert (await cache.get("a"), await cache.get("b")) == (None, clients[1])
        clients[1].alive = False
        assert await cache.get("b") is None
        await cache.clear()
        assert [client.disconnected for client in clients] == [1, 1, 1] and len(cache) == 0

    asyncio.run(use())


def test_a_client_of_the_other_kind_is_refused() -> None:
    # The asynchronous answer of is_alive() would count as true, whatever it is.
    with pytest.raises(TypeError, match="AsyncSandboxCache"):
        SandboxCache().set("a", AsyncClient())
    with pytest.raises(TypeError, match="SandboxCache"):
        asyncio.run(AsyncSandboxCache().set("a", Client()))


def test_what_caches_do_is_counted() -> None:
    def counted() -> dict:
        events = {event: REGISTRY.get_sample_value("sandbox_cache_events_total", {"event": event}) or 0
                  for event in ("hit", "miss", "dead", "evicted")}
        return {**events, "active": REGISTRY.get_sample_value("active_sandboxes") or 0}

    before = counted()
    cache, other, dead = SandboxCache(2), SandboxCache(2), Client()
    cache.set("a", dead)
    cache.set("b", Client())
    cache.set("b", Client())
    other.set("a", Client())
    cache.get("a"), cache.get("b"), cache.get("z")
    dead.alive = False
    cache.get("a")
    other.set("b", Client())
    other.set("c", Client())
    after = counted()
    assert {name: after[name] - before[name] for name in after} == {"hit": 2, "miss": 2, "dead": 1, "evicted": 1, "active": 3}
    cache.clear()
    other.clear()
    assert counted()["active"] == before["active"]
