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
#: Sandboxes that this process holds in a cache.
active_sandboxes: Any = None

if prometheus_client is not None:
    sandbox_operations_total = prometheus_client.Counter(
        "sandbox_operations_total", "Total number of sandbox operations", ["operation_type", "status"]
    )
    sandbox_operation_duration = prometheus_client.Histogram(
        "sandbox_operation_duration_seconds", "Duration of sandbox operations", ["operation_type"]
    )
    active_sandboxes = prometheus_client.Gauge("active_sandboxes", "Number of currently active sandboxes")


def record_operation(operation_type: str, duration: float, success: bool) -> None:
    """Counts one operation that took ``duration`` seconds."""
    if sandbox_operations_total is None:
        return
    sandbox_operations_total.labels(operation_type=operation_type, status="success" if success else "failure").inc()
    sandbox_operation_duration.labels(operation_type=operation_type).observe(duration)


def set_active_sandboxes(count: int) -> None:
    """Says how many sandboxes this process holds."""
    if active_sandboxes is not None:
        active_sandboxes.set(count)
