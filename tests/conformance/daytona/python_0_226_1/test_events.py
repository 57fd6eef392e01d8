"""State events over Socket.IO, by which the SDK learns of changes without polling."""

from __future__ import annotations

import time

from daytona import Daytona, DaytonaConfig, SandboxState

from conformance.daytona.access import API_KEY


def until(sandbox, state: SandboxState, seconds: float = 5) -> float:
    """Waits on the object alone: no request is made from here."""
    started = time.monotonic()
    while sandbox.state != state:
        assert time.monotonic() - started < seconds, f"no event of {state}: still {sandbox.state}"
        time.sleep(0.01)
    return time.monotonic() - started


def watched(daytona: Daytona, make):
    """A sandbox whose object has subscribed: waiting for a state does that."""
    made = make()
    made.stop()
    made.start()
    return made


def test_another_client_stops_and_starts(api_url: str, daytona: Daytona, make) -> None:
    other = Daytona(DaytonaConfig(api_key=API_KEY, api_url=api_url, target="local"))
    made = watched(daytona, make)
    theirs = other.get(made.id)
    theirs.stop()
    until(made, SandboxState.STOPPED)
    theirs.start()
    until(made, SandboxState.STARTED)


def test_deletion(api_url: str, daytona: Daytona, make) -> None:
    other = Daytona(DaytonaConfig(api_key=API_KEY, api_url=api_url, target="local"))
    made = watched(daytona, make)
    other.get(made.id).delete()
    until(made, SandboxState.DESTROYED)


def test_archiving(api_url: str, daytona: Daytona, make) -> None:
    other = Daytona(DaytonaConfig(api_key=API_KEY, api_url=api_url, target="local"))
    made = watched(daytona, make)
    made.stop()
    other.get(made.id).archive()
    until(made, SandboxState.ARCHIVED, 20)


def test_without_events_it_works_by_polling(api_url: str) -> None:
    client = Daytona(
        DaytonaConfig(api_key=API_KEY, api_url=api_url, target="local", use_deprecated_polling=True)
    )
    made = client.create()
    try:
        made.stop()
        assert made.state == SandboxState.STOPPED
        made.start()
        assert made.state == SandboxState.STARTED
    finally:
        made.delete()
