"""Which backend a workspace uses: sticky, and movable between Daytona and SandboxAI step by step.

A workspace has a fixed place between 0 and 100, from a digest of its id. Those
below the percentage use SandboxAI. So 10 → 50 → 100 only ever moves workspaces
towards SandboxAI, and lowering the number moves exactly the last ones back.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Deque, Dict, List, Optional

logger = logging.getLogger(__name__)

SANDBOXAI, DAYTONA = "sandboxai", "daytona"
BACKENDS = (SANDBOXAI, DAYTONA)
#: Decisions that are remembered.
DECISIONS_MAX = 1000


@dataclass(frozen=True)
class Decision:
    """Why a workspace got its backend."""

    workspace_id: str
    backend: str
    reason: str
    at: float


_overrides: Dict[str, str] = {}
_decisions: Deque[Decision] = collections.deque(maxlen=DECISIONS_MAX)
_lock = threading.Lock()


def place_of(workspace_id: str) -> float:
    """The place of a workspace, 0 (moves first) up to but not including 100."""
    digest = hashlib.sha256(f"rollout:{workspace_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 * 100


def set_override(workspace_id: str, backend: Optional[str]) -> None:
    """Fixes the backend of a workspace, whatever the percentage; ``None`` lifts that."""
    if backend is None:
        _overrides.pop(workspace_id, None)
    else:
        _overrides[workspace_id] = _known("backend", backend)


def choose_backend(workspace_id: str) -> str:
    """The backend of a workspace by the environment as it is now.

    ``SANDBOX_AB_TEST=true`` with ``SANDBOX_AB_PERCENTAGE`` (10 when absent) splits
    workspaces; else ``SANDBOX_BACKEND`` (``sandboxai`` when absent) decides.
    """
    override = _overrides.get(workspace_id)
    if override is not None:
        return _decide(workspace_id, override, "override")
    if os.environ.get("SANDBOX_AB_TEST", "false").strip().lower() in ("true", "1", "yes"):
        share, place = _percentage(), place_of(workspace_id)
        backend = SANDBOXAI if place < share else DAYTONA
        return _decide(workspace_id, backend, f"place {place:.2f} of 100, {share:g} to sandboxai")
    backend = _known("SANDBOX_BACKEND", os.environ.get("SANDBOX_BACKEND", SANDBOXAI))
    return _decide(workspace_id, backend, "SANDBOX_BACKEND")


def decisions() -> List[Decision]:
    """The latest decisions of this process, the oldest first."""
    with _lock:
        return list(_decisions)


def _decide(workspace_id: str, backend: str, reason: str) -> str:
    with _lock:
        _decisions.append(Decision(workspace_id, backend, reason, time.time()))
    logger.info("workspace %s uses %s (%s)", workspace_id, backend, reason)
    return backend


def _percentage() -> float:
    text = os.environ.get("SANDBOX_AB_PERCENTAGE", "10")
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 100:
        raise ValueError(f"SANDBOX_AB_PERCENTAGE: {text!r} is not a number from 0 to 100")
    return share


def _known(field: str, backend: str) -> str:
    backend = backend.strip().lower()
    if backend not in BACKENDS:
        raise ValueError(f"{field}: unknown sandbox backend {backend!r}; use one of {', '.join(BACKENDS)}")
    return backend
