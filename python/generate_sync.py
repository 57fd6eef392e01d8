"""Writes ``sandboxai/sandbox.py`` from ``sandboxai/aio.py``, so that the two cannot drift apart.

Run it after every change of ``aio.py``; with ``--check`` it only compares.
Lines that end in ``# async only`` are left out; ``# sync: code`` becomes code.
"""

import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).parent / "sandboxai"

REPLACEMENTS = [
    (r"The asynchronous client; the synchronous one is generated from it by ``generate_sync.py``\.",
     "The synchronous client; generated from ``aio.py`` by ``generate_sync.py``, do not edit."),
    (r"\[chunk async for chunk in (self\._read\([^)]*\))\]", r"\1"),
    (r"AsyncSandbox", "Sandbox"),
    (r"httpx\.AsyncClient", "httpx.Client"),
    (r"AsyncIterator", "Iterator"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\baclose\b", "close"),
    (r"\baiter_", "iter_"),
    (r"\baread\b", "read"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\(await (self\.\w+\([^()]*\))\)\.", r"\1."),
    (r"\bawait ", ""),
    (r"Any, Iterator, Callable, Dict, List", "Any, Callable, Dict, Iterator, List"),
]


def generate() -> str:
    lines = []
    for line in (FOLDER / "aio.py").read_text().splitlines():
        if line.endswith("# async only"):
            continue
        lines.append(re.sub(r"# sync: ", "", line))
    text = "\n".join(lines) + "\n"
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return text


def main() -> int:
    target, text = FOLDER / "sandbox.py", generate()
    if "--check" in sys.argv[1:]:
        if target.read_text() != text:
            print(f"{target} is out of date: run python3 {__file__}")
            return 1
        return 0
    target.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
