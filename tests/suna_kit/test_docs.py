"""The Python of docs/suna-kit.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/suna-kit.md"


def blocks(kind: str) -> str:
    found = re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return "\n".join(found)


def test_the_examples_run(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOXAI_URL", server.url)
    exec(compile(blocks("python"), str(PAGE), "exec"), {"__name__": "page"})


@pytest.mark.slow
def test_the_example_with_a_browser_runs(capsys: pytest.CaptureFixture) -> None:
    exec(compile(blocks("python browser"), str(PAGE), "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert printed.startswith("Hi\n") and "1 page.click" in printed
