"""The rollout drill: 10, 50, 100, a real fault, the rollback; nobody who works notices.

A server of ours stands in for the real Daytona. What works is an unmodified SDK.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from typing import Callable, Dict, Iterator, List

import httpx
import pytest
from daytona import CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig, PtySize, Sandbox
from daytona import SessionExecuteRequest

from rollout.conftest import KEY, Pair, spawner_of
from sandboxai.suna.rollout import place_of

#: Projects that get a sandbox at every stage.
PROJECTS = [f"user-{number}" for number in range(20)]
#: A port with an application inside.
PORT = 3000
#: How long a step of somebody who works may take, seconds.
PATIENCE_S = 20


class Worker(threading.Thread):
    """Works in one sandbox without a pause, and keeps what failed."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(name=sandbox.id, daemon=True)
        self.sandbox = sandbox
        self.rounds = 0
        self.failures: List[str] = []
        self.shown = b""
        self.stopped = threading.Event()
        sandbox.process.create_session("work")
        sandbox.process.execute_session_command(
            "work", SessionExecuteRequest(command=f"nohup python3 -m http.server {PORT} >/tmp/http.log 2>&1 &"))
        self.terminal = sandbox.process.create_pty_session("drill", pty_size=PtySize(rows=30, cols=100))
        threading.Thread(target=self._watch, daemon=True).start()
        self.preview = sandbox.get_preview_link(PORT)
        self._until(lambda: self._preview().status_code == 200, "the application starts")

    def _watch(self) -> None:
        def keep(data: bytes) -> None:
            self.shown = self.shown[-10_000:] + data

        self.terminal.wait(on_data=keep)

    def run(self) -> None:
        steps = [self._command, self._file, self._terminal, self._session, self._view, self._state]
        while not self.stopped.is_set():
            for step in steps:
                try:
                    step()
                except Exception as error:  # noqa: BLE001 whatever it is, it is a failure of the drill
                    self.failures.append(f"{step.__name__} in round {self.rounds}: {error!r}")
            self.rounds += 1

    def _command(self) -> None:
        result = self.sandbox.process.exec(f"echo $(({self.rounds} * 2))")
        assert (result.exit_code, result.result.strip()) == (0, str(self.rounds * 2)), result

    def _file(self) -> None:
        content = uuid.uuid4().bytes
        self.sandbox.fs.upload_file(content, "/tmp/content")
        assert self.sandbox.fs.download_file("/tmp/content") == content

    def _terminal(self) -> None:
        self.terminal.send_input(f"echo round-$(({self.rounds} + 0))-shown\n")
        self._until(lambda: f"round-{self.rounds}-shown".encode() in self.shown, "the terminal answers")

    def _session(self) -> None:
        done = self.sandbox.process.execute_session_command("work", SessionExecuteRequest(command="echo done"))
        assert done.exit_code == 0 and "done" in (done.output or done.stdout or ""), done

    def _preview(self) -> httpx.Response:
        url = f"{self.preview.url.rstrip('/')}/"
        return httpx.get(url, headers={"X-Daytona-Preview-Token": self.preview.token}, timeout=PATIENCE_S)

    def _view(self) -> None:
        answer = self._preview()
        assert answer.status_code == 200 and "Directory listing" in answer.text, answer

    def _state(self) -> None:
        self.sandbox.refresh_data()
        assert self.sandbox.state == "started", self.sandbox.state

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < until, f"{what}: {self.shown[-300:]!r}"
            time.sleep(0.02)

    def another_round(self) -> None:
        """Waits until a round has begun and ended."""
        wanted = self.rounds + 2
        until = time.monotonic() + 3 * PATIENCE_S
        while self.rounds < wanted:
            assert time.monotonic() < until, f"{self.name} works no more: {self.failures}"
            time.sleep(0.05)


class Drill:
    """The two servers, who works there, and how many sandboxes were made where."""

    def __init__(self, both: Pair) -> None:
        self.both = both
        self.daytona = Daytona(DaytonaConfig(api_key=KEY, api_url=f"{both.front.url}/api", target="us"))
        self.made = {"sandboxai": 0, "daytona": 0}
        self.workers: List[Worker] = []

    def side_of(self, sandbox: Sandbox) -> str:
        is_here, is_there = sandbox.id in self.both.here(), sandbox.id in self.both.there()
        assert is_here != is_there, f"{sandbox.id} is on both sides or on none"
        return "sandboxai" if is_here else "daytona"

    def create(self, project: str) -> Sandbox:
        sandbox = self.daytona.create(CreateSandboxFromSnapshotParams(labels={"id": project}))
        self.made[self.side_of(sandbox)] += 1
        return sandbox

    def employ(self, project: str) -> None:
        worker = Worker(self.create(project))
        self.workers.append(worker)
        worker.start()

    def stage(self, share: float) -> Dict[str, str]:
        """Sets the share, makes a sandbox for every project, and tells the sides."""
        status = self.both.rollout("set", f"{share:g}")
        assert (status["share"], status["reason"]) == (share, "set by a client")
        sides = {}
        for project in PROJECTS:
            sandbox = self.create(project)
            sides[project] = self.side_of(sandbox)
            sandbox.delete()
        self.everybody_works()
        self.counts_are_exact()
        return sides

    def everybody_works(self) -> None:
        for worker in self.workers:
            worker.another_round()
        assert [failure for worker in self.workers for failure in worker.failures] == []

    def counts_are_exact(self) -> None:
        sides = self.both.rollout("status")["sides"]
        for side, made in self.made.items():
            assert sides[side]["sandboxes_created_total"] == made
            assert self.both.requests(side, "create", "success") == made


@pytest.fixture()
def drill(pair: Pair) -> Iterator[Drill]:
    running = Drill(pair)
    yield running
    for worker in running.workers:
        worker.stopped.set()


def test_from_10_to_100_and_back(drill: Drill) -> None:
    both = drill.both
    # Somebody works on each side the whole time.
    both.rollout("set", "10")
    first, last = min(PROJECTS, key=place_of), max(PROJECTS, key=place_of)
    assert place_of(first) < 10 < 90 < place_of(last)
    for project in (first, first, last, last):
        drill.employ(project)
    assert [drill.side_of(worker.sandbox) for worker in drill.workers] == ["sandboxai"] * 2 + ["daytona"] * 2

    before = {project: "daytona" for project in PROJECTS}
    for share in (10, 50, 100):
        sides = drill.stage(share)
        assert sides == {p: "sandboxai" if place_of(p) < share else "daytona" for p in PROJECTS}
        assert all(sides[p] == "sandboxai" for p in PROJECTS if before[p] == "sandboxai"), "one moved back"
        before = sides
    assert set(before.values()) == {"sandboxai"}

    # What makes our sandboxes dies. After 20 good creations, the second bad one is too many.
    both.front.expected += ["new sandboxes go to the upstream", "a creation failed here"]
    os.kill(spawner_of(both.front), 9)
    # They are made at the upstream instead.
    for _ in range(2):
        assert both.rollout("status")["share"] == 100
        sandbox = drill.create(first)
        assert drill.side_of(sandbox) == "daytona"
        sandbox.delete()
    status = both.rollout("status")
    assert (status["share"], status["reason"]) == (0, "rolled back: 2 of 22 creations failed, more than 5.0 %")
    assert status["sides"]["sandboxai"]["creation_failures"] == both.requests("sandboxai", "create", "failure") == 2
    samples = both.metrics()
    assert (samples["sandboxai_rollout_share"], samples["sandboxai_rollout_rollbacks_total"]) == (0, 1)
    for project in PROJECTS[:5]:
        sandbox = drill.create(project)
        assert drill.side_of(sandbox) == "daytona"
        sandbox.delete()
    drill.everybody_works()
    drill.counts_are_exact()
    assert both.requests("sandboxai", "toolbox", "failure") == both.requests("daytona", "toolbox", "failure") == 0
    for worker in drill.workers:
        worker.stopped.set()
        worker.join(3 * PATIENCE_S)
    assert [failure for worker in drill.workers for failure in worker.failures] == []

    # The server is killed and started again: it goes on as it was.
    both.front.kill()
    both.front.restart()
    drill.daytona = Daytona(DaytonaConfig(api_key=KEY, api_url=f"{both.front.url}/api", target="us"))
    drill.made = {"sandboxai": 0, "daytona": 0}
    status = both.rollout("status")
    assert (status["share"], [change["share"] for change in status["history"]]) == (0, [0, 100, 50, 10, 10, 0])
    for worker in drill.workers:
        sandbox = drill.daytona.get(worker.sandbox.id)
        assert sandbox.process.exec("cat /tmp/content | wc -c").result.strip() == "16"
    # The fault is mended, the operator goes on, and thinks better of it.
    assert both.rollout("set", "50")["share"] == 50
    assert drill.side_of(drill.create(first)) == "sandboxai"
    assert both.rollout("rollback", "--reason", "the end of the drill")["reason"] == "rolled back: the end of the drill"
    assert drill.side_of(drill.create(first)) == "daytona"
    drill.counts_are_exact()
    left = {sandbox.id: sandbox for sandbox in drill.daytona.list()}
    assert set(left) == set(both.here() + both.there()) and len(left) == 6
    for sandbox in left.values():
        sandbox.delete()
    assert both.here() == both.there() == []
