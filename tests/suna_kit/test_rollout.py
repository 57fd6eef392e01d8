"""Where workspaces go, without a server."""

from __future__ import annotations

import pytest

from sandboxai.suna import rollout, workspace

IDS = [f"project-{number}" for number in range(2000)]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch):
    for name in ("SANDBOX_BACKEND", "SANDBOX_AB_TEST", "SANDBOX_AB_PERCENTAGE"):
        monkeypatch.delenv(name, raising=False)
    yield
    for workspace_id in IDS:
        rollout.set_override(workspace_id, None)


def chosen(monkeypatch: pytest.MonkeyPatch, share: str) -> set:
    monkeypatch.setenv("SANDBOX_AB_TEST", "true")
    monkeypatch.setenv("SANDBOX_AB_PERCENTAGE", share)
    return {one for one in IDS if rollout.choose_backend(one) == rollout.SANDBOXAI}


def test_raising_the_share_only_moves_towards_sandboxai(monkeypatch: pytest.MonkeyPatch) -> None:
    ten, fifty, hundred = (chosen(monkeypatch, share) for share in ("10", "50", "100"))
    assert ten < fifty < hundred == set(IDS)
    assert 0.07 < len(ten) / len(IDS) < 0.13 and 0.46 < len(fifty) / len(IDS) < 0.54
    assert chosen(monkeypatch, "10") == ten, "lowering it moves exactly the others back"
    assert chosen(monkeypatch, "0") == set()


def test_a_workspace_keeps_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, "37") == chosen(monkeypatch, "37")


def test_an_override_beats_the_share_and_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_AB_TEST", "true")
    monkeypatch.setenv("SANDBOX_AB_PERCENTAGE", "100")
    rollout.set_override("project-1", rollout.DAYTONA)
    assert rollout.choose_backend("project-1") == rollout.DAYTONA
    last = rollout.decisions()[-1]
    assert (last.workspace_id, last.backend, last.reason) == ("project-1", "daytona", "override")


@pytest.mark.parametrize("name, value", [("SANDBOX_AB_PERCENTAGE", "101"), ("SANDBOX_AB_PERCENTAGE", "many")])
def test_a_wrong_share_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("SANDBOX_AB_TEST", "true")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        rollout.choose_backend("x")


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_BACKEND", "docker")
    with pytest.raises(ValueError, match="SANDBOX_BACKEND.*docker.*sandboxai, daytona"):
        rollout.choose_backend("x")


def test_names_of_sandboxes_are_stable_safe_and_apart() -> None:
    names = {workspace.sandbox_name(one) for one in ["a b", "a-b", "A b", "ä", "x" * 500, "../..", "-"]}
    assert len(names) == 7
    assert all(len(name) <= 63 and name.replace("-", "").isalnum() for name in names)
    assert workspace.sandbox_name("project-1") == workspace.sandbox_name("project-1")


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "/etc/passwd", "/workspace/other", "/workspace/w/../x", "a\0b"])
def test_paths_that_leave_the_workspace_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="file_path"):
        workspace.inside("/workspace/w", path)


@pytest.mark.parametrize(
    "path, full",
    [("a", "/workspace/w/a"), (".", "/workspace/w"), ("a/../b", "/workspace/w/b"), ("/workspace/w/c", "/workspace/w/c"), ("-rf", "/workspace/w/-rf")],
)
def test_paths_inside_are_made_absolute(path: str, full: str) -> None:
    assert workspace.inside("/workspace/w", path) == full
