"""What the monitoring decorator logs and counts, for plain and asynchronous functions."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Dict

import pytest
from prometheus_client import REGISTRY

from sandboxai.suna import monitor_sandbox_operation


def counted(operation: str) -> Dict[str, float]:
    def sample(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, {"operation_type": operation, **labels}) or 0

    total = "sandbox_operations_total"
    return {
        "success": sample(total, status="success"),
        "failure": sample(total, status="failure"),
        "measured": sample("sandbox_operation_duration_seconds_count"),
    }


@monitor_sandbox_operation
def plain(result: Any) -> Any:
    """What it is for."""
    if isinstance(result, Exception):
        raise result
    return result


@monitor_sandbox_operation
async def waits(result: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(result, BaseException):
        raise result
    return result


def call(kind: str, result: Any) -> Any:
    return plain(result) if kind == "plain" else asyncio.run(waits(result))


@pytest.mark.parametrize("kind", ["plain", "waits"])
def test_outcomes_are_counted(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    before = counted(kind)
    with caplog.at_level(logging.INFO):
        assert call(kind, 7) == 7
        assert call(kind, {"success": True})["success"]
        assert call(kind, {"success": False, "error": "no such file"})["error"] == "no such file"
        with pytest.raises(ValueError, match="broken"):
            call(kind, ValueError("broken"))
    after = counted(kind)
    assert {name: after[name] - before[name] for name in after} == {"success": 2, "failure": 2, "measured": 4}
    failed = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failed) == 2 and "no such file" in failed[0] and "broken" in failed[1]


def test_a_monitored_function_stays_what_it_is() -> None:
    assert (plain.__name__, plain.__doc__) == ("plain", "What it is for.")
    assert asyncio.iscoroutinefunction(waits) and not asyncio.iscoroutinefunction(plain)


def test_a_cancelled_call_is_a_failed_one() -> None:
    before = counted("waits")["failure"]
    with pytest.raises(asyncio.CancelledError):
        call("waits", asyncio.CancelledError())
    assert counted("waits")["failure"] == before + 1
