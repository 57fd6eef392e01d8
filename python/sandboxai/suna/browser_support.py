"""A browser inside a sandbox: Playwright driving the image's Chromium.

Made for the image ``sandboxai/browser``, which has both. Nothing is downloaded
at run time. The browser lives in a kernel of its own in the sandbox, so that
pages stay open from call to call and Python cells are not disturbed.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any, List, Optional

from ..errors import SandboxError
from ..sandbox import Sandbox

#: The kernel that holds the browser.
CONTEXT = "browser"
#: Where screenshots go that name no folder.
SCREENSHOT_FOLDER = "/tmp/screenshots"
#: How long one call may take, seconds; a page that never loads ends by it.
TIMEOUT_S = 120.0

# Runs inside the sandbox. Keeps one browser with one page; reports as one line
# of JSON after a mark, so that what a script prints stays apart.
_DRIVER = r'''
import json as _json, os as _os, traceback as _traceback

def _sandboxai_browser():
    import atexit
    from playwright.sync_api import sync_playwright
    state = globals().setdefault("_sandboxai_state", {})
    if not state or not state["browser"].is_connected():
        playwright = state.get("playwright") or sync_playwright().start()
        program = next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
                        if _os.path.exists(p)), None)
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        context = browser.new_context()
        state.update(playwright=playwright, browser=browser, context=context, page=context.new_page())
        atexit.register(browser.close)
    return state

def _sandboxai_run(source):
    report = {"error": None, "line": None, "source": None, "screenshots": []}
    def screenshot(name="screenshot.png", **options):
        path = name if name.startswith("/") else _os.path.join(%(folder)r, name)
        _os.makedirs(_os.path.dirname(path), exist_ok=True)
        _sandboxai_browser()["page"].screenshot(path=path, **options)
        report["screenshots"].append(path)
        return path
    lines = source.splitlines()
    try:
        state = _sandboxai_browser()
        names = {"page": state["page"], "browser": state["browser"], "context": state["context"],
                 "playwright": state["playwright"], "screenshot": screenshot}
        exec(compile(source, "<browser script>", "exec"), names)
        if state["page"].is_closed():
            state["page"] = state["context"].new_page()
    except BaseException as error:
        if "net::ERR_" in str(error):
            try:
                # Chromium is still opening its error page; a page opened now would be interrupted by it.
                _sandboxai_browser()["page"].wait_for_url("chrome-error://**", timeout=2000)
            except Exception:
                pass
        report["error"] = "%%s: %%s" %% (type(error).__name__, error)
        own = [frame.lineno for frame in _traceback.extract_tb(error.__traceback__) if frame.filename == "<browser script>"]
        line = own[-1] if own else (error.lineno if isinstance(error, SyntaxError) else None)
        if line and line <= len(lines):
            report["line"], report["source"] = line, lines[line - 1].strip()
    print("\n%(mark)s" + _json.dumps(report))
'''
_MARK = "\x02sandboxai-browser:"


@dataclass
class BrowserResult:
    """How a browser script ended."""

    #: What it printed.
    output: str
    #: What went wrong, or ``None``.
    error: Optional[str] = None
    #: The line of the script that failed, counted from 1.
    line: Optional[int] = None
    #: That line's text.
    source: Optional[str] = None
    #: Paths in the sandbox of the screenshots made by ``screenshot()``.
    screenshots: List[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it ran to its end."""
        return self.error is None


class BrowserError(SandboxError):
    """A browser call failed; ``result`` says at which line."""

    def __init__(self, result: BrowserResult) -> None:
        where = f" (line {result.line}: {result.source})" if result.line else ""
        super().__init__(f"{result.error}{where}", kind="invalid_request")
        self.result = result


def setup_browser_in_sandbox(sandbox: Sandbox) -> bool:
    """Sees to a browser in the sandbox: starts the one of its image.

    :raises SandboxError: when the image has none; the message says what to do.
    """
    probe = sandbox.run_shell_command(
        "command -v chromium || command -v chromium-browser || command -v google-chrome; "
        "python3 -c 'import playwright.sync_api' && echo playwright"
    )
    if "/" not in probe.output or "playwright\n" not in probe.output:
        raise SandboxError(
            "this sandbox has no browser: make it with image='sandboxai/browser' "
            "(sandboxai image build images/browser), or add Debian's `chromium` and PyPI's `playwright` to its image",
            kind="invalid_request",
        )
    result = run_browser_script(sandbox, "page.title()")
    if not result.ok:
        raise BrowserError(result)
    return True


def run_browser_script(sandbox: Sandbox, script: str, *, timeout: float = TIMEOUT_S) -> BrowserResult:
    """Runs Python with ``page``, ``browser``, ``context``, ``playwright`` and ``screenshot(name)`` at hand.

    The page is the same from call to call. What the script prints is in
    ``output``; an error names the failing line.
    """
    code = _DRIVER % {"folder": SCREENSHOT_FOLDER, "mark": _MARK.replace("\x02", "\\x02")}
    cell = sandbox.run_ipython_cell(f"{code}\n_sandboxai_run({script!r})", context=CONTEXT, timeout=timeout)
    printed, mark, report = cell.output.rpartition(_MARK)
    if not mark:
        what = f"{cell.error.name}: {cell.error.value}" if cell.error else "the browser's kernel said nothing"
        return BrowserResult(cell.output, error=what)
    told = json.loads(report.splitlines()[0])
    return BrowserResult(printed[:-1] if printed.endswith("\n") else printed, **told)


class Browser:
    """The browser of a sandbox by simple calls, for tools that want no script.

    :raises BrowserError: from every method, when the page does not do it.
    """

    def __init__(self, sandbox: Sandbox, *, timeout: float = TIMEOUT_S) -> None:
        self.sandbox = sandbox
        self.timeout = timeout

    def _run(self, script: str) -> BrowserResult:
        result = run_browser_script(self.sandbox, script, timeout=self.timeout)
        if not result.ok:
            raise BrowserError(result)
        return result

    def _value(self, expression: str) -> Any:
        return json.loads(self._run(f"import json\nprint(json.dumps({expression}))").output)

    def goto(self, url: str) -> str:
        """Opens a page; returns its title."""
        self._run(f"page.goto({url!r})")
        return str(self._value("page.title()"))

    def click(self, selector: str) -> None:
        """Clicks on the first element that matches."""
        self._run(f"page.click({selector!r})")

    def fill(self, selector: str, text: str) -> None:
        """Puts text into a field."""
        self._run(f"page.fill({selector!r}, {text!r})")

    def text(self, selector: str = "body") -> str:
        """The visible text of an element."""
        return str(self._value(f"page.inner_text({selector!r})"))

    def screenshot(self, *, full_page: bool = False) -> bytes:
        """The page as PNG."""
        made = self._run(f"screenshot(full_page={full_page!r})").screenshots
        return self.sandbox.read_file(made[0])

    def pdf(self) -> bytes:
        """The page as PDF."""
        encoded = self._value("__import__('base64').b64encode(page.pdf()).decode()")
        return base64.b64decode(encoded)
