"""What commands, cells and listings return."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, List, Mapping, Optional


@dataclass
class ShellCommandResult:
    """How a shell command ended and what it printed.

    ``output`` holds both outputs in the order they came; with
    ``split_output=True`` it is ``stdout`` followed by ``stderr``.
    """

    output: str
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    signal: Optional[int] = None
    timed_out: bool = False
    out_of_memory: bool = False
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0


@dataclass
class CellError:
    """The exception that ended a cell."""

    name: str
    value: str
    traceback: List[str] = field(default_factory=list)


@dataclass
class RichOutput:
    """One displayed object by MIME type; shows itself in a notebook."""

    data: Dict[str, Any]
    is_result: bool = False

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Dict[str, Any]:
        return self.data

    @property
    def text(self) -> Optional[str]:
        return self.data.get("text/plain")

    @property
    def png(self) -> Optional[bytes]:
        """The PNG image, decoded."""
        encoded = self.data.get("image/png")
        if encoded is None:
            return None
        import base64

        return base64.b64decode(encoded)


@dataclass
class IPythonCellResult:
    """What a cell printed, displayed and how it ended.

    ``status`` is ``ok``, ``error``, ``timed_out``, ``interrupted`` or
    ``kernel_died``; ``error`` is set for all but ``ok``.
    """

    output: str
    stdout: str = ""
    stderr: str = ""
    status: str = "ok"
    error: Optional[CellError] = None
    results: List[RichOutput] = field(default_factory=list)
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the cell ended without an exception."""
        return self.status == "ok"

    @property
    def result(self) -> Optional[RichOutput]:
        """The value of the last expression, if it had one."""
        return next((rich for rich in reversed(self.results) if rich.is_result), None)

    def _ipython_display_(self) -> None:
        """Shows output and rich results when the cell's result is the last value of a notebook cell."""
        from IPython.display import display

        if self.output:
            print(self.output, end="")
        for rich in self.results:
            display(rich.data, raw=True)


@dataclass
class FileInfo:
    """One file, directory or link inside a sandbox."""

    path: str
    kind: str
    size: int
    mode: int
    modified: datetime
    owner: str
    group: str
    target: Optional[str] = None

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def is_dir(self) -> bool:
        return self.kind == "directory"

    @property
    def is_file(self) -> bool:
        return self.kind == "file"

    @classmethod
    def from_wire(cls, entry: Mapping[str, Any]) -> "FileInfo":
        return cls(
            path=entry["path"],
            kind=entry["kind"],
            size=entry["size"],
            mode=entry["mode"] if isinstance(entry["mode"], int) else int(entry["mode"], 8),
            modified=datetime.fromtimestamp(entry["modified_ms"] / 1000, tz=timezone.utc),
            owner=entry["owner"],
            group=entry["group"],
            target=entry.get("target"),
        )


def shell_result(body: Mapping[str, Any]) -> ShellCommandResult:
    """Reads the answer of ``tools:run_shell_command``."""
    stdout, stderr = body.get("stdout") or "", body.get("stderr") or ""
    return ShellCommandResult(
        output=body.get("output") or stdout + stderr,
        stdout=stdout,
        stderr=stderr,
        exit_code=int(body.get("exit_code", 0)),
        signal=body.get("signal"),
        timed_out=bool(body.get("timed_out", False)),
        out_of_memory=bool(body.get("out_of_memory", False)),
        truncated=bool(body.get("truncated", False)),
    )


def cell_result(body: Mapping[str, Any]) -> IPythonCellResult:
    """Reads the answer of ``tools:run_ipython_cell``."""
    stdout, stderr = body.get("stdout") or "", body.get("stderr") or ""
    error = body.get("error")
    return IPythonCellResult(
        output=body.get("output") or stdout + stderr,
        stdout=stdout,
        stderr=stderr,
        status=str(body.get("status", "ok")),
        error=CellError(
            name=error.get("name") or "",
            value=error.get("value") or "",
            traceback=list(error.get("traceback") or []),
        )
        if error
        else None,
        results=[
            RichOutput(data=dict(item["data"]), is_result=bool(item.get("is_result", False)))
            for item in body.get("results") or []
        ],
        truncated=bool(body.get("truncated", False)),
    )
