"""What a workspace id stands for: a sandbox name, a folder, programs for languages. Pure functions."""

from __future__ import annotations

import hashlib
import posixpath
import re
import shlex
from typing import Dict, List, Optional, Tuple

#: Longest readable part of a sandbox name; with the digest it stays below the 63 characters of a host name.
SLUG_CHARS_MAX = 30
#: Hexadecimal digits of the digest in a sandbox name: 80 bits.
DIGEST_CHARS = 20


def sandbox_name(workspace_id: str) -> str:
    """The name of the one sandbox of a workspace: the same in every process and for ever.

    The digest tells ids apart that look alike once they are cut to letters and digits.
    """
    if not workspace_id:
        raise ValueError("workspace_id must not be empty")
    slug = re.sub(r"[^a-z0-9]+", "-", workspace_id.lower()).strip("-")[:SLUG_CHARS_MAX].strip("-")
    digest = hashlib.sha256(workspace_id.encode()).hexdigest()[:DIGEST_CHARS]
    return f"ws-{slug}-{digest}" if slug else f"ws-{digest}"


def workspace_folder(workspace_id: str) -> str:
    """The folder of a workspace inside its sandbox: the plan's ``/workspace/<id>``, safe for any id."""
    is_plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", workspace_id)
    return f"/workspace/{workspace_id}" if is_plain else f"/workspace/{sandbox_name(workspace_id)}"


def inside(workspace_dir: str, path: str) -> str:
    """The absolute path of something in the workspace.

    :raises ValueError: when the path would leave the workspace, or is none.
    """
    if "\0" in path:
        raise ValueError("file_path: a path cannot contain a NUL character")
    root = posixpath.normpath(workspace_dir)
    full = posixpath.normpath(posixpath.join(root, path))
    if full != root and not full.startswith(root.rstrip("/") + "/"):
        raise ValueError(f"file_path: {path!r} leaves the workspace {root}; use a path below it")
    return full


class Language:
    """How code in one language is run from a file."""

    def __init__(self, suffix: str, programs: List[Tuple[str, str]], install: str) -> None:
        #: Ending of the file.
        self.suffix = suffix
        #: (program that must exist, command line with ``{file}``), the first that exists is taken.
        self.programs = programs
        #: What to do when there is none.
        self.install = install

    def command(self, file: str, name: str) -> str:
        """A shell command that runs the file, or exits with 127 and says what is missing."""
        quoted = shlex.quote(file)
        branches = "; ".join(
            f"if command -v {program} >/dev/null 2>&1; then exec {line.format(file=quoted)}; fi"
            for program, line in self.programs
        )
        missing = shlex.quote(f"{name} is not in this image: {self.install}")
        return f"{branches}; echo {missing} >&2; exit 127"


LANGUAGES: Dict[str, Language] = {
    "javascript": Language(".js", [("node", "node {file}")], "install nodejs"),
    "typescript": Language(
        ".ts",
        [("tsx", "tsx {file}"), ("ts-node", "ts-node {file}"), ("node", "node --experimental-strip-types --no-warnings {file}")],
        "install nodejs 22 or later, or tsx",
    ),
    "r": Language(".R", [("Rscript", "Rscript {file}")], "install r-base"),
}
ALIASES = {"js": "javascript", "node": "javascript", "ts": "typescript", "py": "python", "sh": "shell", "bash": "shell"}


def language_of(name: str) -> Tuple[str, Optional[Language]]:
    """The language by any of its names; ``None`` with ``python`` and ``shell``, which need no file.

    :raises ValueError: for one that is not supported.
    """
    name = ALIASES.get(name.lower(), name.lower())
    if name in ("python", "shell"):
        return name, None
    if name not in LANGUAGES:
        known = ", ".join(["python", "shell", *LANGUAGES])
        raise ValueError(f"language: {name!r} is not supported; use one of {known}")
    return name, LANGUAGES[name]
