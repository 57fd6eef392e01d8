"""Everything this package raises on purpose, below one base class.

``SandboxError`` is a ``RuntimeError``, because that is what code written for
``sandboxai-client`` catches.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Type


class SandboxError(RuntimeError):
    """Base class. ``message`` is for people; ``kind`` and ``status`` for programs."""

    def __init__(
        self,
        message: str,
        *,
        kind: str = "internal",
        status: Optional[int] = None,
        request_id: Optional[str] = None,
        details: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.status = status
        self.request_id = request_id
        self.details: Mapping[str, Any] = details or {}


class SandboxNotFoundError(SandboxError):
    """No such sandbox, file or process. ``tombstone`` says how a sandbox ended, if it is known."""

    @property
    def tombstone(self) -> Optional[Mapping[str, Any]]:
        return self.details.get("tombstone")


class SandboxExistsError(SandboxError):
    """The name is taken."""


class InvalidRequestError(SandboxError, ValueError):
    """The request is wrong; the message names the field and the fix."""


class AuthenticationError(SandboxError):
    """No, wrong or insufficient credentials."""


class SandboxConflictError(SandboxError):
    """The sandbox is in a state that does not allow this."""


class LimitReachedError(SandboxError):
    """A limit is reached; the message names it."""


class SandboxTimeoutError(SandboxError, TimeoutError):
    """A deadline passed."""


class SandboxLostError(SandboxError):
    """The sandbox ended underneath the request; the message says why."""


class ServerUnavailableError(SandboxError):
    """The server cannot be reached or is overloaded; trying again may help."""


class ServerError(SandboxError):
    """The server failed, or answered something this client does not understand."""


_BY_KIND: Mapping[str, Type[SandboxError]] = {
    "not_found": SandboxNotFoundError,
    "already_exists": SandboxExistsError,
    "invalid_request": InvalidRequestError,
    "unauthenticated": AuthenticationError,
    "forbidden": AuthenticationError,
    "conflict": SandboxConflictError,
    "limit_reached": LimitReachedError,
    "timeout": SandboxTimeoutError,
    "cancelled": SandboxTimeoutError,
    "unavailable": ServerUnavailableError,
    "sandbox_lost": SandboxLostError,
    "internal": ServerError,
}


def from_body(status: int, body: Any, text: str = "") -> SandboxError:
    """The error that an answer of the server stands for."""
    if not isinstance(body, dict) or "message" not in body:
        shown = text.strip()[:500] or "no text"
        return ServerError(f"unexpected answer with status {status}: {shown}", status=status)
    kind = str(body.get("kind", "internal"))
    return _BY_KIND.get(kind, ServerError)(
        str(body["message"]),
        kind=kind,
        status=status,
        request_id=body.get("request_id"),
        details=body,
    )
