"""Logs and counts operations on sandboxes; for plain and for asynchronous functions."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from typing import Any, Callable, TypeVar

from .metrics import record_operation

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def monitor_sandbox_operation(function: F) -> F:
    """Logs start, end and duration of a call and counts it.

    A call fails when it raises, or returns a dict whose ``success`` is false.
    """
    name = function.__name__

    def begin() -> float:
        logger.debug("Starting sandbox operation: %s", name)
        return time.perf_counter()

    def end(started: float, result: Any) -> None:
        elapsed = time.perf_counter() - started
        success = not (isinstance(result, dict) and result.get("success") is False)
        record_operation(name, elapsed, success)
        if success:
            logger.info("Sandbox operation completed: %s (%.3fs)", name, elapsed)
        else:
            logger.error("Sandbox operation failed: %s (%.3fs) - %s", name, elapsed, result.get("error"))

    def broke(started: float, error: BaseException) -> None:
        elapsed = time.perf_counter() - started
        record_operation(name, elapsed, False)
        logger.error("Sandbox operation failed: %s (%.3fs) - %s", name, elapsed, error)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            started = begin()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                broke(started, error)
                raise
            end(started, result)
            return result

        return asynchronous  # type: ignore[return-value]

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        started = begin()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            broke(started, error)
            raise
        end(started, result)
        return result

    return plain  # type: ignore[return-value]
