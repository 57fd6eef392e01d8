"""The browser tools in the image ``sandboxai/browser``; ``scripts/test.sh --all`` builds it."""

from __future__ import annotations

from typing import Iterator

import pytest

from sandboxai import Sandbox, SandboxError
from sandboxai.suna import Browser, BrowserError, run_browser_script, setup_browser_in_sandbox

pytestmark = pytest.mark.slow

PAGE = """<title>Shop</title><input id=name>
<button onclick="document.getElementById('out').innerText='Hi '+document.getElementById('name').value">go</button>
<p id=out></p>"""


@pytest.fixture(scope="module")
def box(server) -> Iterator[Sandbox]:
    with Sandbox(server.base_url, image="sandboxai/browser") as sandbox:
        sandbox.write_file("/workspace/site/index.html", PAGE)
        sandbox.run_shell_command("cd /workspace/site && (python3 -m http.server 8000 >/dev/null 2>&1 &)")
        sandbox.run_shell_command("for i in $(seq 100); do curl -sf localhost:8000 >/dev/null && break; sleep 0.1; done")
        assert setup_browser_in_sandbox(sandbox)
        yield sandbox


def test_simple_calls(box: Sandbox) -> None:
    browser = Browser(box)
    assert browser.goto("http://localhost:8000/") == "Shop"
    browser.fill("#name", "Bob's \"x\"")
    browser.click("button")
    assert browser.text("#out") == "Hi Bob's \"x\""
    assert browser.screenshot().startswith(b"\x89PNG")
    assert browser.pdf().startswith(b"%PDF-")
    with pytest.raises(BrowserError, match="ERR_CONNECTION_REFUSED"):
        browser.goto("http://localhost:8999/")


def test_a_script_prints_and_makes_screenshots(box: Sandbox) -> None:
    result = run_browser_script(box, "page.goto('http://localhost:8000/')\nprint(page.title())\nscreenshot('a.png')")
    assert result.ok and result.output == "Shop\n"
    assert box.read_file(result.screenshots[0]).startswith(b"\x89PNG")


def test_the_failing_line_is_told(box: Sandbox) -> None:
    script = "page.goto('http://localhost:8000/')\nx = 1\npage.click('#missing', timeout=300)\nprint('never')"
    result = run_browser_script(box, script)
    assert (result.ok, result.line, result.source) == (False, 3, "page.click('#missing', timeout=300)")
    assert "Timeout" in str(result.error) and "never" not in result.output
    assert run_browser_script(box, "x = = 1").line == 1


def test_an_image_without_a_browser_says_what_to_do(server) -> None:
    with Sandbox(server.base_url) as plain:
        with pytest.raises(SandboxError, match="sandboxai/browser"):
            setup_browser_in_sandbox(plain)
