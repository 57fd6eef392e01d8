"""Prometheus metrics of the client's side, by the plan's names.

They count in ``prometheus_client`` when it is installed, else nowhere.
"""

from __future__ import annotations

from typing import Any

try:
    import prometheus_client
except ImportError:
    prometheus_client = None

#: Operations by kind and outcome (``success`` or ``failure``).
sandbox_operations_total: Any = None
#: How long operations took, seconds.
sandbox_operation_duration: Any = None
#: Sandboxes that the caches of this process hold.
active_sandboxes: Any = None
#: What caches did: ``hit``, ``miss``, ``dead`` (a kept sandbox did not answer), ``evicted``.
sandbox_cache_events_total: Any = None

if prometheus_client is not None:
    sandbox_operations_total = prometheus_client.Counter(
        "sandbox_operations_total", "Total number of sandbox operations", ["operation_type", "status"]
    )
    sandbox_operation_duration = prometheus_client.Histogram(
        "sandbox_operation_duration_seconds", "Duration of sandbox operations", ["operation_type"]
    )
    active_sandboxes = prometheus_client.Gauge("active_sandboxes", "Number of currently active sandboxes")
    sandbox_cache_events_total = prometheus_client.Counter(
        "sandbox_cache_events_total", "What caches of sandboxes did", ["event"]
    )


def record_operation(operation_type: str, duration: float, success: bool) -> None:
    """Counts one operation that took ``duration`` seconds."""
    if sandbox_operations_total is None:
        return
    sandbox_operations_total.labels(operation_type=operation_type, status="success" if success else "failure").inc()
    sandbox_operation_duration.labels(operation_type=operation_type).observe(duration)


def add_active_sandboxes(count: int) -> None:
    """Says how many sandboxes more, or fewer, the caches of this process hold."""
    if active_sandboxes is not None:
        active_sandboxes.inc(count)


def count_cache(event: str, times: int = 1) -> None:
    """Counts what a cache did."""
    if sandbox_cache_events_total is not None:
        sandbox_cache_events_total.labels(event=event).inc(times)
