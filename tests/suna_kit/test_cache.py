"""The cache of connected clients, without a server."""

from __future__ import annotations

import threading

from sandboxai.suna import SandboxCache


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
