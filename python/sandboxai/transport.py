"""What the sync and the async client share: calls as data, no I/O.

A ``Call`` says what to send and how to read the answer; ``Sandbox`` and
``AsyncSandbox`` only differ in how they send it.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Generic, Iterator, List, Mapping, Optional, Tuple, TypeVar, Union
from urllib.parse import quote

import httpx

from . import errors, results
from .results import FileInfo, IPythonCellResult, RichOutput, ShellCommandResult

T = TypeVar("T")

#: Connecting must be quick; how long an answer takes is up to the command.
HTTP_TIMEOUT = httpx.Timeout(None, connect=10.0)

#: How much of a file is read or sent at once, bytes.
CHUNK_BYTES = 256 * 1024

#: Longest listing of one folder that the server gives.
FOLDER_ENTRIES_MAX = 100_000

#: Content of a file: bytes, or text that is sent as UTF-8.
Content = Union[bytes, bytearray, memoryview, str]

#: Called with the bytes done and, when known, the bytes in all.
Progress = Callable[[int, Optional[int]], None]


def decode(response: httpx.Response) -> Any:
    """The JSON body, or None when there is none."""
    try:
        return response.json()
    except ValueError:
        return None


@dataclass
class Call(Generic[T]):
    """One request and how to read its answer."""

    method: str
    path: str
    parse: Callable[[Any], T]
    json: Any = None
    params: Optional[Mapping[str, Any]] = None
    headers: Dict[str, str] = field(default_factory=dict)
    content: Any = None

    def read(self, response: httpx.Response) -> T:
        """The parsed answer, or the error it stands for."""
        if response.is_success:
            return self.parse(decode(response))
        raise errors.from_body(response.status_code, decode(response), response.text)


def _drop_none(body: Mapping[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in body.items() if value is not None}


def _entries(body: Mapping[str, Any], path: str, limit: Optional[int]) -> List[FileInfo]:
    """A listing; one that is cut although nobody asked for a limit, or at the server's own, is an error."""
    if body.get("truncated") and (limit is None or limit >= FOLDER_ENTRIES_MAX):
        raise errors.LimitReachedError(
            f"{path!r} has more than {len(body['entries'])} entries; list its folders one by one, or give a limit",
            kind="limit_reached",
        )
    return [FileInfo.from_wire(entry) for entry in body["entries"]]


def _nothing(_: Any) -> None:
    return None


def connection_error(base_url: str, error: httpx.HTTPError) -> errors.SandboxError:
    """A transport failure in our own words."""
    if isinstance(error, httpx.TimeoutException):
        return errors.SandboxTimeoutError(f"{base_url}: no answer in time ({error})", kind="timeout")
    return errors.ServerUnavailableError(
        f"the server at {base_url} cannot be reached: {error}; is `sandboxai serve` running?",
        kind="unavailable",
    )


class Calls:
    """All calls on the sandboxes of one space."""

    def __init__(self, space: str) -> None:
        self.space = space

    def _at(self, name: str, rest: str = "") -> str:
        return f"/spaces/{quote(self.space, safe='')}/sandboxes/{quote(name, safe='')}{rest}"

    def create(
        self, name: Optional[str], image: Optional[str], env: Optional[Mapping[str, str]], options: Mapping[str, Any]
    ) -> Call[Dict[str, Any]]:
        return Call(
            "POST",
            f"/spaces/{quote(self.space, safe='')}/sandboxes",
            lambda body: body,
            json={"name": name, "spec": {"image": image, "env": env, **_drop_none(options)}},
            # A retry by the transport must not make a second sandbox.
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )

    def get(self, name: str) -> Call[Dict[str, Any]]:
        return Call("GET", self._at(name), lambda body: body)

    def delete(self, name: str) -> Call[None]:
        return Call("DELETE", self._at(name), _nothing)

    def life(self, name: str, action: str) -> Call[Dict[str, Any]]:
        return Call("POST", self._at(name, f"/{action}"), lambda body: body)

    def cell(self, name: str, body: Mapping[str, Any]) -> Call[IPythonCellResult]:
        return Call("POST", self._at(name, "/tools:run_ipython_cell"), results.cell_result, json=_drop_none(body))

    def stream_cell(self, name: str, body: Mapping[str, Any]) -> Call[IPythonCellResult]:
        return Call("POST", self._at(name, "/tools:stream_ipython_cell"), results.cell_result, json=_drop_none(body))

    def shell(self, name: str, body: Mapping[str, Any]) -> Call[ShellCommandResult]:
        return Call("POST", self._at(name, "/tools:run_shell_command"), results.shell_result, json=_drop_none(body))

    def stream_shell(self, name: str, body: Mapping[str, Any]) -> Call[ShellCommandResult]:
        return Call("POST", self._at(name, "/tools:stream_shell_command"), results.shell_result, json=_drop_none(body))

    def kernel(self, name: str, action: str, context: str) -> Call[None]:
        return Call("POST", self._at(name, f"/tools:{action}_kernel"), _nothing, json={"context": context})

    def write_file(self, name: str, path: str, content: Any, mode: Optional[int], append: bool) -> Call[FileInfo]:
        return Call(
            "PUT",
            self._at(name, "/files"),
            FileInfo.from_wire,
            params=_drop_none(
                {"path": path, "mode": None if mode is None else f"{mode:o}", "append": "true" if append else None}
            ),
            headers={"Content-Type": "application/octet-stream"},
            content=content,
        )

    def read_file(self, name: str, path: str, offset: int = 0, length: Optional[int] = None) -> Call[bytes]:
        return Call(
            "GET",
            self._at(name, "/files"),
            _nothing,  # type: ignore[arg-type]
            params=_drop_none({"path": path, "offset": offset or None, "length": length}),
        )

    def remove_file(self, name: str, path: str, recursive: bool) -> Call[None]:
        return Call(
            "DELETE",
            self._at(name, "/files"),
            _nothing,
            params=_drop_none({"path": path, "recursive": "true" if recursive else None}),
        )

    def list_files(self, name: str, path: str, depth: int, limit: Optional[int]) -> Call[List[FileInfo]]:
        return Call(
            "POST",
            self._at(name, "/tools:list_files"),
            lambda body: _entries(body, path, limit),
            json={"path": path, "depth": depth, "limit": limit or FOLDER_ENTRIES_MAX},
        )

    def entry(self, name: str, tool: str, body: Mapping[str, Any]) -> Call[FileInfo]:
        return Call("POST", self._at(name, f"/tools:{tool}"), FileInfo.from_wire, json=_drop_none(body))


def as_bytes(content: Content) -> bytes:
    """Text as UTF-8, anything else as it is."""
    return content.encode() if isinstance(content, str) else bytes(content)


class SseReader:
    """Turns lines of a ``text/event-stream`` into (event, data) pairs."""

    def __init__(self) -> None:
        self._event = ""
        self._data: List[str] = []

    def line(self, line: str) -> Optional[Tuple[str, Any]]:
        """Takes one line without its end; returns an event when the line completes one."""
        if line == "":
            event, data = self._event, self._data
            self._event, self._data = "", []
            return (event, json.loads("\n".join(data))) if data else None
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        return None


@dataclass
class Callbacks:
    """What a streamed command or cell calls as it goes on."""

    on_stdout: Optional[Callable[[str], Any]] = None
    on_stderr: Optional[Callable[[str], Any]] = None
    on_display: Optional[Callable[[RichOutput], Any]] = None

    def __bool__(self) -> bool:
        return any((self.on_stdout, self.on_stderr, self.on_display))

    def dispatch(self, event: str, data: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
        """Hands an event to its callback; returns the result when the event is the last."""
        if event == "end":
            return data
        if event == "error":
            raise errors.from_body(500, dict(data))
        if event == "display" and self.on_display:
            self.on_display(RichOutput(dict(data["data"]), bool(data.get("is_result", False))))
        callback = {"stdout": self.on_stdout, "stderr": self.on_stderr}.get(event)
        if callback:
            text = data.get("text")
            callback(text if text is not None else base64.b64decode(data["base64"]).decode("utf-8", "replace"))
        return None


def no_end() -> errors.SandboxError:
    """A stream that stopped before its last event."""
    return errors.ServerUnavailableError("the server closed the stream before its end", kind="unavailable")


def local_tree(local: str, remote: str) -> Iterator[Tuple[str, str, bool]]:
    """(local path, remote path, is a directory) for a folder, parents first.

    Links to files count as the files; links to folders are left out, so that
    a cycle cannot be followed.
    """
    for folder, names, files in os.walk(local):
        below = os.path.relpath(folder, local)
        base = remote if below == "." else f"{remote.rstrip('/')}/{below}"
        yield folder, base, True
        names[:] = [name for name in names if not os.path.islink(os.path.join(folder, name))]
        for file in files:
            path = os.path.join(folder, file)
            if os.path.isfile(path):
                yield path, f"{base.rstrip('/')}/{file}", False


def local_target(root: str, remote: str, entry: FileInfo) -> str:
    """Where an entry below ``remote`` goes below ``root``.

    The listing comes from inside a sandbox: a name that would leave ``root``
    is refused.
    """
    prefix = remote.rstrip("/") + "/"
    below = entry.path[len(prefix) :] if entry.path.startswith(prefix) else None
    parts = (below or "").split("/")
    if below is None or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise errors.InvalidRequestError(
            f"the sandbox listed {entry.path!r}, which is not below {remote!r}", kind="invalid_request"
        )
    return os.path.join(root, *parts)
