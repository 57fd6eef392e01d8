"""daytona-sdk 0.21.0: toolbox calls go below the control plane, output is plain text."""

from __future__ import annotations

import asyncio
from typing import Any

from conformance.daytona.older_cases import *  # noqa: F403
from conformance.daytona.older_cases import run, sdk


def test_the_output_of_a_session_is_plain(sandbox: Any, session: str) -> None:
    answer = run(sandbox, session, "echo out; echo err >&2")
    assert sorted(answer.output.split()) == ["err", "out"] and "\x01" not in answer.output
    logs = sandbox.process.get_session_command_logs(session, answer.cmd_id)
    assert isinstance(logs, str) and sorted(logs.split()) == ["err", "out"]
    assert "\x01" not in logs and "\x02" not in logs


def test_logs_are_followed_over_http(sandbox: Any, session: str) -> None:
    begun = run(sandbox, session, "for i in 1 2 3; do echo line$i; sleep 0.3; done", run_async=True)
    texts: list = []
    asyncio.run(
        asyncio.wait_for(
            sandbox.process.get_session_command_logs_async(session, begun.cmd_id, texts.append), 20
        )
    )
    assert "".join(texts) == "line1\nline2\nline3\n"


def test_states_that_this_generation_knows(sandbox: Any, daytona: Any) -> None:
    """An unknown word would be a validation error for every listed sandbox."""
    assert all(isinstance(item.state, sdk.SandboxState) for item in daytona.list())


def test_str_of_a_sandbox_names_its_state(sandbox: Any) -> None:
    """SUNA's scripts read it there."""
    assert "SandboxState.STARTED" in str(sandbox)
