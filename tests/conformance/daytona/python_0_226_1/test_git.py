"""Git, done by the program inside the sandbox."""

from __future__ import annotations

import re
import uuid

import pytest
from daytona import (
    DaytonaConflictError,
    DaytonaError,
    DaytonaGitAuthFailedError,
    DaytonaGitBranchExistsError,
    DaytonaGitBranchNotFoundError,
    DaytonaGitDirtyWorktreeError,
    DaytonaGitMergeConflictError,
    DaytonaGitPushRejectedError,
    DaytonaGitRepoNotFoundError,
    Sandbox,
)


def sh(sandbox: Sandbox, command: str) -> str:
    answer = sandbox.process.exec(command)
    assert answer.exit_code == 0, answer.result
    return answer.result


@pytest.fixture()
def repository(sandbox: Sandbox) -> str:
    """A repository with one commit on `main`."""
    path = f"/tmp/repo-{uuid.uuid4().hex[:8]}"
    sandbox.git.init(path, initial_branch="main")
    sandbox.fs.upload_file(b"first\n", f"{path}/file.txt")
    sandbox.git.add(path, ["file.txt"])
    sandbox.git.commit(path, "First", "A. Author", "author@example.com")
    return path


@pytest.fixture()
def remote(sandbox: Sandbox, repository: str) -> str:
    """A bare repository that `origin` of the other names, with its `main` pushed."""
    path = f"{repository}.git"
    sandbox.git.init(path, bare=True, initial_branch="main")
    sandbox.git.remote_add(repository, "origin", path)
    sandbox.git.push(repository, branch="main", remote="origin", set_upstream=True)
    return path


def test_init(sandbox: Sandbox, folder: str) -> None:
    sandbox.git.init(folder, initial_branch="trunk")
    assert sandbox.git.status(folder).current_branch == "trunk"


def test_init_bare(sandbox: Sandbox, folder: str) -> None:
    sandbox.git.init(folder, bare=True)
    assert sh(sandbox, f"git -C {folder} rev-parse --is-bare-repository") == "true\n"


def test_commit_answers_the_hash(sandbox: Sandbox, repository: str) -> None:
    sandbox.fs.upload_file(b"second\n", f"{repository}/file.txt")
    sandbox.git.add(repository, ["file.txt"])
    answer = sandbox.git.commit(repository, "Second: ünï 'quoted'", "B. Author", "b@example.com")
    assert re.fullmatch(r"[0-9a-f]{40}", answer.sha)
    shown = sh(sandbox, f"git -C {repository} log -1 --format='%H|%an|%ae|%s'")
    assert shown == f"{answer.sha}|B. Author|b@example.com|Second: ünï 'quoted'\n"


def test_an_empty_commit_wants_to_be_allowed(sandbox: Sandbox, repository: str) -> None:
    with pytest.raises(DaytonaError):
        sandbox.git.commit(repository, "Nothing", "A", "a@example.com")
    assert sandbox.git.commit(repository, "Nothing", "A", "a@example.com", allow_empty=True).sha


def test_status(sandbox: Sandbox, repository: str) -> None:
    sandbox.fs.upload_file(b"changed\n", f"{repository}/file.txt")
    sandbox.fs.upload_file(b"new\n", f"{repository}/new file.txt")
    sandbox.fs.upload_file(b"staged\n", f"{repository}/staged.txt")
    sandbox.git.add(repository, ["staged.txt"])
    status = sandbox.git.status(repository)
    assert status.current_branch == "main"
    files = {entry.name: (entry.staging.value, entry.worktree.value) for entry in status.file_status}
    assert files == {
        "file.txt": ("Unmodified", "Modified"),
        "new file.txt": ("Untracked", "Untracked"),
        "staged.txt": ("Added", "Unmodified"),
    }


def test_status_of_a_clean_tree(sandbox: Sandbox, repository: str) -> None:
    status = sandbox.git.status(repository)
    assert status.file_status == [] and not status.detached


def test_status_of_a_deleted_and_a_renamed_file(sandbox: Sandbox, repository: str) -> None:
    sh(sandbox, f"cd {repository} && git mv file.txt moved.txt")
    (entry,) = sandbox.git.status(repository).file_status
    assert entry.staging.value == "Renamed" and entry.name == "moved.txt"
    sh(sandbox, f"cd {repository} && git reset -q --hard && rm file.txt")
    (entry,) = sandbox.git.status(repository).file_status
    assert (entry.name, entry.worktree.value) == ("file.txt", "Deleted")


def test_status_of_a_detached_head(sandbox: Sandbox, repository: str) -> None:
    sh(sandbox, f"git -C {repository} checkout -q --detach")
    assert sandbox.git.status(repository).detached


def test_branches(sandbox: Sandbox, repository: str) -> None:
    sandbox.git.create_branch(repository, "feature/one")
    branches = sandbox.git.branches(repository)
    assert set(branches.branches) == {"main", "feature/one"}
    sandbox.git.checkout_branch(repository, "main")
    assert sandbox.git.branches(repository).current == "main"
    sandbox.git.checkout_branch(repository, "feature/one")
    assert sandbox.git.status(repository).current_branch == "feature/one"
    sandbox.git.checkout_branch(repository, "main")
    sandbox.git.delete_branch(repository, "feature/one")
    assert sandbox.git.branches(repository).branches == ["main"]


def test_a_branch_that_exists(sandbox: Sandbox, repository: str) -> None:
    with pytest.raises(DaytonaGitBranchExistsError) as raised:
        sandbox.git.create_branch(repository, "main")
    assert raised.value.status_code == 409


def test_a_branch_that_does_not(sandbox: Sandbox, repository: str) -> None:
    with pytest.raises(DaytonaGitBranchNotFoundError):
        sandbox.git.checkout_branch(repository, "none")
    with pytest.raises(DaytonaGitBranchNotFoundError):
        sandbox.git.delete_branch(repository, "none")


def test_a_checkout_over_changes(sandbox: Sandbox, repository: str) -> None:
    sh(sandbox, f"cd {repository} && git checkout -q -b other && echo other > file.txt && git -c user.name=a -c user.email=a@a commit -qam o && git checkout -q main && echo mine > file.txt")
    with pytest.raises(DaytonaGitDirtyWorktreeError):
        sandbox.git.checkout_branch(repository, "other")


def test_no_repository(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaGitRepoNotFoundError):
        sandbox.git.status(folder)
    with pytest.raises(DaytonaGitRepoNotFoundError):
        sandbox.git.branches(folder)


def test_clone(sandbox: Sandbox, repository: str, remote: str) -> None:
    clone = f"{repository}-clone"
    sandbox.git.clone(remote, clone)
    assert sandbox.fs.download_file(f"{clone}/file.txt") == b"first\n"
    status = sandbox.git.status(clone)
    assert status.current_branch == "main" and status.branch_published
    assert (status.ahead, status.behind) == (0, 0)


def test_clone_of_a_branch_and_a_commit(sandbox: Sandbox, repository: str, remote: str) -> None:
    first = sh(sandbox, f"git -C {repository} rev-parse HEAD").strip()
    sh(sandbox, f"cd {repository} && git checkout -q -b side && echo side > file.txt && git -c user.name=a -c user.email=a@a commit -qam s && git push -q origin side")
    sandbox.git.clone(remote, f"{repository}-side", branch="side")
    assert sandbox.fs.download_file(f"{repository}-side/file.txt") == b"side\n"
    sandbox.git.clone(remote, f"{repository}-at", branch="side", commit_id=first)
    assert sh(sandbox, f"git -C {repository}-at rev-parse HEAD").strip() == first


def test_clone_of_some_depth(sandbox: Sandbox, repository: str, remote: str) -> None:
    sh(sandbox, f"cd {repository} && for i in 1 2 3; do git -c user.name=a -c user.email=a@a commit -q --allow-empty -m $i; done && git push -q origin main")
    sandbox.git.clone(f"file://{remote}", f"{repository}-shallow", depth=1)
    assert sh(sandbox, f"git -C {repository}-shallow rev-list --count HEAD") == "1\n"


def test_clone_of_nothing(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaError) as raised:
        sandbox.git.clone(f"{folder}/none.git", f"{folder}/clone")
    assert raised.value.status_code in (404, 422, 502)


def test_a_remote_that_wants_credentials(sandbox: Sandbox, folder: str) -> None:
    """A server inside that refuses everybody; git must not ask at a terminal."""
    sandbox.fs.upload_file(
        b"import http.server\n"
        b"class H(http.server.BaseHTTPRequestHandler):\n"
        b"    def do_GET(self):\n"
        b"        self.send_response(401)\n"
        b"        self.send_header('WWW-Authenticate', 'Basic realm=x')\n"
        b"        self.send_header('Content-Length', '0')\n"
        b"        self.end_headers()\n"
        b"http.server.HTTPServer(('127.0.0.1', 8401), H).serve_forever()\n",
        f"{folder}/refuse.py",
    )
    sandbox.process.exec(f"nohup python3 {folder}/refuse.py >/dev/null 2>&1 & sleep 0.7")
    with pytest.raises(DaytonaGitAuthFailedError):
        sandbox.git.clone("http://127.0.0.1:8401/repo.git", f"{folder}/clone", username="u", password="wrong")
    with pytest.raises(DaytonaGitAuthFailedError):
        sandbox.git.clone("http://127.0.0.1:8401/repo.git", f"{folder}/clone2")


def test_push_and_pull(sandbox: Sandbox, repository: str, remote: str) -> None:
    clone = f"{repository}-clone"
    sandbox.git.clone(remote, clone)
    sandbox.fs.upload_file(b"from clone\n", f"{clone}/file.txt")
    sandbox.git.add(clone, ["."])
    sandbox.git.commit(clone, "From clone", "C", "c@example.com")
    assert sandbox.git.status(clone).ahead == 1
    sandbox.git.push(clone)
    assert sandbox.git.status(clone).ahead == 0
    sandbox.git.pull(repository)
    assert sandbox.fs.download_file(f"{repository}/file.txt") == b"from clone\n"


def test_a_push_that_is_rejected(sandbox: Sandbox, repository: str, remote: str) -> None:
    clone = f"{repository}-clone"
    sandbox.git.clone(remote, clone)
    for path in (clone, repository):
        sandbox.git.commit(path, f"In {path}", "C", "c@example.com", allow_empty=True)
    sandbox.git.push(repository)
    with pytest.raises(DaytonaGitPushRejectedError):
        sandbox.git.push(clone)


def test_a_pull_that_conflicts(sandbox: Sandbox, repository: str, remote: str) -> None:
    clone = f"{repository}-clone"
    sandbox.git.clone(remote, clone)
    for path, text in ((clone, b"theirs\n"), (repository, b"ours\n")):
        sandbox.fs.upload_file(text, f"{path}/file.txt")
        sandbox.git.add(path, ["file.txt"])
        sandbox.git.commit(path, "Change", "C", "c@example.com")
    sandbox.git.push(clone)
    sandbox.git.configure_user("P", "p@example.com")
    with pytest.raises((DaytonaGitMergeConflictError, DaytonaConflictError)):
        sandbox.git.pull(repository)


def test_reset(sandbox: Sandbox, repository: str) -> None:
    first = sh(sandbox, f"git -C {repository} rev-parse HEAD").strip()
    sandbox.fs.upload_file(b"second\n", f"{repository}/file.txt")
    sandbox.git.add(repository, ["file.txt"])
    sandbox.git.commit(repository, "Second", "A", "a@example.com")
    sandbox.git.reset(repository, mode="hard", target=first)
    assert sandbox.fs.download_file(f"{repository}/file.txt") == b"first\n"
    assert sh(sandbox, f"git -C {repository} rev-parse HEAD").strip() == first


def test_reset_of_files_unstages_them(sandbox: Sandbox, repository: str) -> None:
    sandbox.fs.upload_file(b"second\n", f"{repository}/file.txt")
    sandbox.git.add(repository, ["file.txt"])
    sandbox.git.reset(repository, files=["file.txt"])
    (entry,) = sandbox.git.status(repository).file_status
    assert (entry.staging.value, entry.worktree.value) == ("Unmodified", "Modified")


def test_restore(sandbox: Sandbox, repository: str) -> None:
    sandbox.fs.upload_file(b"spoiled\n", f"{repository}/file.txt")
    sandbox.git.restore(repository, ["file.txt"])
    assert sandbox.fs.download_file(f"{repository}/file.txt") == b"first\n"


def test_restore_staged(sandbox: Sandbox, repository: str) -> None:
    sandbox.fs.upload_file(b"staged\n", f"{repository}/file.txt")
    sandbox.git.add(repository, ["file.txt"])
    sandbox.git.restore(repository, ["file.txt"], staged=True)
    (entry,) = sandbox.git.status(repository).file_status
    assert entry.staging.value == "Unmodified"


def test_remotes(sandbox: Sandbox, repository: str) -> None:
    sandbox.git.remote_add(repository, "up", "https://example.com/a.git")
    assert [(one.name, one.url) for one in sandbox.git.remotes(repository).remotes] == [
        ("up", "https://example.com/a.git")
    ]
    assert sandbox.git.remote_get(repository, "up") == "https://example.com/a.git"
    assert sandbox.git.remote_get(repository, "none") is None
    with pytest.raises(DaytonaConflictError):
        sandbox.git.remote_add(repository, "up", "https://example.com/b.git")
    sandbox.git.remote_add(repository, "up", "https://example.com/b.git", overwrite=True)
    assert sandbox.git.remote_get(repository, "up") == "https://example.com/b.git"


def test_config(sandbox: Sandbox, repository: str) -> None:
    sandbox.git.set_config("suite.key", "a value", scope="local", path=repository)
    assert sandbox.git.get_config("suite.key", scope="local", path=repository) == "a value"
    assert sandbox.git.get_config("suite.missing", scope="local", path=repository) is None
    assert sh(sandbox, f"git -C {repository} config --local suite.key") == "a value\n"


def test_configure_user(sandbox: Sandbox) -> None:
    sandbox.git.configure_user("Some One", "one@example.com")
    assert sandbox.git.get_config("user.name") == "Some One"
    assert sh(sandbox, "git config --global user.email") == "one@example.com\n"


def test_options_are_not_injected(sandbox: Sandbox, repository: str) -> None:
    """A name that looks like an option is a name."""
    with pytest.raises(DaytonaError):
        sandbox.git.clone("--upload-pack=touch /tmp/injected", f"{repository}-x")
    with pytest.raises(DaytonaError):
        sandbox.git.checkout_branch(repository, "--orphan")
    assert sandbox.process.exec("ls /tmp/injected").exit_code != 0
