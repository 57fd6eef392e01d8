"""Language servers. The default image has none, and says so; with one: marked slow,
since they need the image of ``images/suna``."""

from __future__ import annotations

import pytest
from daytona import (
    CreateSandboxFromSnapshotParams,
    Daytona,
    DaytonaError,
    DaytonaLspServerNotInitializedError,
    LspCompletionPosition,
    Sandbox,
)

PYTHON = b"import os\n\ndef greeting(name):\n    return 'hello ' + name\n\nclass Person:\n    pass\n\nos.pat\n"
TYPESCRIPT = b"export function greeting(name: string) {\n  return 'hello ' + name;\n}\nconst text = 'x';\ntext.toUp\n"


def test_a_server_that_the_image_has_not(sandbox: Sandbox, folder: str) -> None:
    server = sandbox.create_lsp_server("python", folder)
    with pytest.raises(DaytonaError) as raised:
        server.start()
    assert "pylsp" in str(raised.value) or "python-lsp-server" in str(raised.value), "it says what to install"


def test_a_server_that_is_not_started(sandbox: Sandbox, folder: str) -> None:
    server = sandbox.create_lsp_server("python", folder)
    with pytest.raises(DaytonaLspServerNotInitializedError):
        server.document_symbols(f"{folder}/x.py")


def test_an_unknown_language(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises((DaytonaError, ValueError)):
        sandbox.create_lsp_server("cobol", folder).start()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def with_servers(daytona: Daytona):
    made = daytona.create(CreateSandboxFromSnapshotParams(snapshot="sandboxai/suna"))
    yield made
    made.delete()


@pytest.mark.slow
def test_python(with_servers: Sandbox) -> None:
    with_servers.fs.upload_file(PYTHON, "/tmp/py/main.py")
    server = with_servers.create_lsp_server("python", "/tmp/py")
    server.start()
    server.did_open("/tmp/py/main.py")
    assert {"greeting", "Person"} <= {symbol.name for symbol in server.document_symbols("/tmp/py/main.py")}
    labels = {item.label for item in server.completions("/tmp/py/main.py", LspCompletionPosition(8, 6)).items}
    assert any(label.startswith("path") for label in labels), labels
    server.did_close("/tmp/py/main.py")
    server.stop()


@pytest.mark.slow
def test_typescript(with_servers: Sandbox) -> None:
    with_servers.fs.upload_file(TYPESCRIPT, "/tmp/ts/main.ts")
    with_servers.fs.upload_file(b"{}", "/tmp/ts/tsconfig.json")
    server = with_servers.create_lsp_server("typescript", "/tmp/ts")
    server.start()
    server.did_open("/tmp/ts/main.ts")
    assert "greeting" in {symbol.name for symbol in server.document_symbols("/tmp/ts/main.ts")}
    assert "greeting" in {symbol.name for symbol in server.sandbox_symbols("greet")}
    labels = {item.label for item in server.completions("/tmp/ts/main.ts", LspCompletionPosition(4, 9)).items}
    assert "toUpperCase" in labels
    server.stop()
