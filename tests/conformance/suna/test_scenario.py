"""From a new project to its end, step by step. The steps share one sandbox and come
in the order of the file; a failed step may fail those after it."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid

import pytest

from conformance.daytona.access import fetch
from conformance.suna import driver
from conformance.suna.driver import OLD, logs, pty_command, raw_command, sdk, session_command, tmux_command, until

PASSWORD = str(uuid.uuid4())
ORIGIN = {"Origin": "https://suna.example"}


@pytest.fixture(scope="module")
def daytona(loop, suna_server):
    made = driver.client(suna_server.url)
    yield made
    loop.run_until_complete(made.close())


@pytest.fixture()
def sandbox(shared):
    assert shared.sandbox is not None, "the step that makes the sandbox has failed"
    return shared.sandbox


@pytest.fixture()
def screen(shared) -> None:
    if not shared.has_screen:
        pytest.skip("needs the image of images/suna: scripts/test.sh --all")


# 1. A project gets its sandbox.


def test_01_create(daytona, run, shared) -> None:
    shared.sandbox = run(driver.create(daytona, "project-1", PASSWORD))
    shared.sandbox_id = shared.sandbox.id
    assert shared.sandbox.state == sdk.SandboxState.STARTED
    assert shared.sandbox.public
    answer = run(shared.sandbox.process.exec("echo $RESOLUTION $VNC_PASSWORD"))
    assert answer.result.strip() == f"1048x768x24 {PASSWORD}"


# 2. The services of the image are started in a session, which supervisord replaces.


def test_02_session_that_execs(run, sandbox, shared) -> None:
    run(sandbox.process.create_session("supervisord-session"))
    command = driver.SUPERVISORD if shared.has_screen else "exec sleep 10000"
    started = time.monotonic()
    answer = run(session_command(sandbox, "supervisord-session", command, var_async=True))
    assert time.monotonic() - started < 2 and answer.cmd_id
    with pytest.raises(Exception):
        run(sandbox.process.create_session("supervisord-session"))
    name = "supervisord" if shared.has_screen else "sleep"
    assert run(sandbox.process.exec(f"pgrep -c {name}")).exit_code == 0


def services_run(run, sandbox) -> None:
    async def healthy() -> bool:
        return (await sandbox.process.exec("curl -fsS --max-time 5 localhost:8080/health", timeout=10)).exit_code == 0

    async def settled() -> str:
        # A program that works already counts as starting for its first second.
        command = "supervisorctl -c /etc/supervisor/conf.d/supervisord.conf status"
        status = (await sandbox.process.exec(command, timeout=10)).result
        return "" if "STARTING" in status else status

    run(until(healthy, 30, "the services do not come up"))
    status = run(until(settled, 30, "the services do not settle"))
    states = dict(line.split()[:2] for line in status.splitlines())
    assert states.pop("vnc_setup") == "EXITED"
    assert set(states.values()) == {"RUNNING"} and len(states) == 6, status
    listening = run(sandbox.process.exec("netstat -tln", timeout=5)).result
    for port in (5901, 6080, 8004, 8080):
        assert f":{port} " in listening


@pytest.mark.slow
def test_02_services_run(run, sandbox, screen) -> None:
    services_run(run, sandbox)


# 3. The addresses that SUNA keeps in its database.


def test_03_preview_links(run, sandbox, shared) -> None:
    vnc, files = run(sandbox.get_preview_link(6080)), run(sandbox.get_preview_link(8080))
    shared.vnc_url, shared.files_url = vnc.url, files.url
    for link in (vnc, files):
        assert link.url.startswith("http") and not link.url.endswith("/") and link.token
    if not shared.has_screen:
        run(sandbox.process.create_session("files"))
        run(session_command(sandbox, "files", "cd /workspace && exec python3 -m http.server 8080 --bind 127.0.0.1", var_async=True))

    async def answers() -> bool:
        return fetch(f"{files.url}/").status_code < 500

    run(until(answers, 20, "no file server behind the preview"))


def test_03_files_of_the_frontend(run, sandbox, shared) -> None:
    """Fetched by a browser of another origin, with a header that makes it ask first."""
    run(sandbox.fs.upload_file(b'{"slides": {}}', "/workspace/presentations/p/metadata.json"))
    url = f"{shared.files_url}/presentations/p/metadata.json"
    asked = {**ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "cache-control"}
    preflight = fetch(url, "OPTIONS", asked)
    assert preflight.status_code in (200, 204)
    assert preflight.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])
    assert "cache-control" in preflight.headers["access-control-allow-headers"].lower()
    answer = fetch(url, headers={**ORIGIN, "Cache-Control": "no-cache", "User-Agent": "Mozilla/5.0"})
    assert answer.json() == {"slides": {}}
    assert answer.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])
    assert "x-frame-options" not in answer.headers


@pytest.mark.slow
def test_03_screen_in_the_browser(run, sandbox, shared, screen) -> None:
    page = fetch(f"{shared.vnc_url}/vnc_lite.html?password={PASSWORD}&autoconnect=true&scale=local")
    assert page.status_code == 200 and "noVNC" in page.text
    assert b"RFB 003" in driver.websocket_banner(shared.vnc_url)


@pytest.mark.slow
def test_03_slides_as_pdf(run, sandbox, shared, screen) -> None:
    pages = 6
    for number in range(1, pages + 1):
        run(sandbox.fs.upload_file(f"<h1>Slide {number}</h1>".encode(), f"/workspace/presentations/deck/{number}.html"))
    slides = {str(n): {"file_path": f"presentations/deck/{n}.html"} for n in range(1, pages + 1)}
    run(sandbox.fs.upload_file(json.dumps({"slides": slides}).encode(), "/workspace/presentations/deck/metadata.json"))
    answer = fetch(
        f"{shared.files_url}/presentation/convert-to-pdf",
        "POST",
        {"Content-Type": "application/json"},
        timeout=120,
        content=b'{"presentation_path": "/workspace/presentations/deck"}',
    )
    assert answer.status_code == 200 and answer.json()["total_slides"] == pages, answer.text
    assert fetch(f"{shared.files_url}{answer.json()['pdf_url']}").content.startswith(b"%PDF")


# 4. The details that its dashboard shows.


def test_04_get(daytona, run, shared) -> None:
    seen = run(daytona.get(shared.sandbox_id))
    assert seen.state == sdk.SandboxState.STARTED and seen.state.value.lower() == "started"
    assert (seen.memory, seen.labels["id"], seen.target) == (4, "project-1", "us")
    assert seen.cpu >= 1 and seen.disk >= 1 and seen.created_at
    assert "state=<SandboxState.STARTED: 'started'>" in str(seen) or "started" in str(seen)


# 5. Files.


def test_05_a_file_that_is_absent(run, sandbox) -> None:
    with pytest.raises(Exception):
        run(sandbox.fs.get_file_info("/workspace/src/none"))
    with pytest.raises(Exception) as raised:
        run(sandbox.fs.download_file("/workspace/none.txt"))
    assert "not found" in str(raised.value).lower() or "404" in str(raised.value)
    with pytest.raises(Exception) as raised:
        run(sandbox.fs.list_files("/workspace/none"))
    text = str(raised.value).lower()
    assert any(words in text for words in ("not found", "no such file", "does not exist", "404"))


def test_05_create_folder_twice(run, sandbox) -> None:
    for _ in range(2):
        run(sandbox.fs.create_folder("/workspace/src", "755"))
        run(sandbox.fs.create_folder("/workspace", "755"))
    assert run(sandbox.fs.get_file_info("/workspace/src")).is_dir


@pytest.mark.parametrize(
    ("path", "size"),
    [("/workspace/src/empty", 0), ("/workspace/uploads/a/new/dir/bin.dat", 70_000), ("/workspace/ünï 文件.txt", 10), ("/workspace/large", 50 << 20)],
    ids=["empty", "missing-folder", "unicode", "50MiB"],
)
def test_05_upload_and_download(run, sandbox, path: str, size: int) -> None:
    content = os.urandom(size)
    run(sandbox.fs.upload_file(content, path))
    run(sandbox.fs.set_file_permissions(path, "644"))
    folder, _, name = path.rpartition("/")
    (listed,) = [entry for entry in run(sandbox.fs.list_files(folder)) if entry.name == name]
    assert listed.size == size and not listed.is_dir and "644" in listed.permissions and listed.mod_time
    assert run(sandbox.fs.download_file(path)) == content
    run(sandbox.fs.delete_file(path))
    with pytest.raises(Exception):
        run(sandbox.fs.get_file_info(path))


def test_05_a_relative_path_is_below_home(run, sandbox) -> None:
    if not OLD:
        pytest.skip("later releases give absolute paths")
    run(sandbox.fs.upload_file(b"kb", "knowledge-base-global/x.txt"))
    assert run(sandbox.process.exec("cat /root/knowledge-base-global/x.txt")).result.strip() == "kb"


# 6. Commands.


def test_06_is_a_port_open(run, sandbox) -> None:
    assert run(sandbox.process.exec("netstat -tlnp | grep :8080", timeout=5)).exit_code == 0
    assert run(sandbox.process.exec("netstat -tlnp | grep :8999", timeout=5)).exit_code == 1


def test_06_curl_says_7_where_nothing_listens(run, sandbox) -> None:
    assert run(sandbox.process.exec("curl -s -X GET 'http://localhost:8999/api'", timeout=10)).exit_code == 7


def test_06_secrets_by_env(run, sandbox) -> None:
    answer = run(sandbox.process.exec("echo key=$GEMINI_API_KEY", env={"GEMINI_API_KEY": "AIza_s3-cr=t/+"}, timeout=30))
    assert answer.result.strip() == "key=AIza_s3-cr=t/+"


def test_06_a_command_that_takes_too_long(run, sandbox) -> None:
    started = time.monotonic()
    with pytest.raises(Exception):
        run(sandbox.process.exec("sleep 25", timeout=1))
    assert time.monotonic() - started < 20
    assert run(sandbox.process.exec("pgrep -f 'sleep 2[5]'")).exit_code == 1


def test_06_both_outputs(run, sandbox) -> None:
    answer = run(sandbox.process.exec("echo out; echo err >&2; exit 4"))
    assert answer.exit_code == 4 and answer.result.split() == ["out", "err"]


def test_06_where_commands_start(run, sandbox, shared) -> None:
    expected = "/root" if OLD else shared.workdir
    assert run(sandbox.process.exec("pwd")).result.strip() == expected


# 7. Sessions, and the shell tool that types into tmux.


def test_07_state_is_kept(run, sandbox) -> None:
    run(sandbox.process.create_session("state"))
    run(session_command(sandbox, "state", "cd /usr && export KEPT=yes"))
    answer = run(session_command(sandbox, "state", "pwd; echo $KEPT"))
    text = run(logs(sandbox, "state", answer.cmd_id))
    assert answer.exit_code == 0 and "/usr\n" in text and "yes\n" in text
    if OLD:
        assert text == "/usr\nyes\n", "this generation takes the text as it is"
    run(sandbox.process.delete_session("state"))
    with pytest.raises(Exception) as raised:
        run(session_command(sandbox, "state", "true"))
    assert "session" in str(raised.value).lower() and "not found" in str(raised.value).lower()


def test_07_tmux_blocking(run, sandbox) -> None:
    shown = run(tmux_command(sandbox, "session_default", "cd /workspace && echo made-$((40 + 2)) && ls -d src"))
    assert "made-42" in shown and "src" in shown


def test_07_a_server_left_in_tmux_lives_on(run, sandbox) -> None:
    run(raw_command(sandbox, "tmux new-session -d -s session_dev -c /workspace"))
    run(raw_command(sandbox, 'tmux send-keys -t session_dev "python3 -m http.server 3000" Enter'))

    async def listens() -> bool:
        return (await sandbox.process.exec("netstat -tlnp | grep :3000", timeout=5)).exit_code == 0

    run(until(listens, 10, "the server in tmux does not run"))
    _, listed = run(raw_command(sandbox, "tmux list-sessions"))
    assert "session_dev" in listed and "session_default" in listed


def test_07_tmux_kill(run, sandbox) -> None:
    run(raw_command(sandbox, "tmux kill-session -t session_default"))
    _, there = run(raw_command(sandbox, "tmux has-session -t session_default 2>/dev/null || echo 'not_exists'"))
    assert "not_exists" in there


def test_07_10_sessions_in_parallel(run, sandbox) -> None:
    async def all_at_once():
        return await asyncio.gather(*(raw_command(sandbox, f"sleep 0.3; echo number {n}") for n in range(10)))

    answers = run(all_at_once())
    assert [code for code, _ in answers] == [0] * 10
    assert all(f"number {n}\n" in text for n, (_, text) in enumerate(answers))


# 8. The shell tool that types into a terminal.

only_with_terminals = pytest.mark.skipif(OLD, reason="this generation has no terminals")


@only_with_terminals
def test_08_a_command_that_takes_a_while(run, sandbox) -> None:
    shown, took = run(pty_command(sandbox, "sleep 1; echo hello-$((40 + 2))"))
    assert "hello-42" in shown and took >= 1, "the marker was seen twice before the command ran"


@only_with_terminals
def test_08_a_heredoc(run, sandbox) -> None:
    shown, _ = run(pty_command(sandbox, "cat > /workspace/h.txt <<'EOF'\nline one\nline two\nEOF\ncat /workspace/h.txt"))
    assert run(sandbox.fs.download_file("/workspace/h.txt")) == b"line one\nline two\n"


@only_with_terminals
def test_08_a_line_longer_than_the_screen(run, sandbox) -> None:
    shown, _ = run(pty_command(sandbox, f"echo {'x' * 150} | wc -c"))
    assert "151" in shown


@only_with_terminals
def test_08_a_shell_that_starts_slowly(run, sandbox) -> None:
    run(sandbox.process.exec("echo 'sleep 0.5' >> /root/.bashrc"))
    try:
        shown, took = run(pty_command(sandbox, "sleep 1; echo hello-$((40 + 2))"))
        assert "hello-42" in shown and took >= 1
    finally:
        run(sandbox.process.exec("sed -i '$ d' /root/.bashrc"))


@only_with_terminals
def test_08_output_comes_while_it_runs_and_kill_ends_it(run, sandbox) -> None:
    async def stream() -> None:
        shown = bytearray()

        async def on_data(data: bytes) -> None:
            shown.extend(data)

        handle = await sandbox.process.create_pty_session("streamed", on_data=on_data, pty_size=sdk.PtySize(cols=120, rows=40))
        await handle.resize(sdk.PtySize(cols=80, rows=24))
        await handle.send_input("for i in $(seq 600); do echo tick-$i; sleep 0.2; done\n")

        async def ticks() -> bool:
            return b"tick-5\r" in shown

        await until(ticks, 5, "the output does not stream")
        await handle.kill()

    run(stream())
    assert run(sandbox.process.exec("pgrep -f 'seq 60[0]'")).exit_code == 1


# 9. A port that the agent opens, and git.


def test_09_expose_port(run, sandbox) -> None:
    run(sandbox.fs.upload_file(b"<h1>app</h1>", "/workspace/index.html"))
    assert run(sandbox.process.exec("netstat -tlnp | grep :3000", timeout=5)).exit_code == 0
    link = run(sandbox.get_preview_link(3000))
    assert fetch(f"{link.url}/index.html").text == "<h1>app</h1>"


def test_09_git(run, sandbox) -> None:
    code, text = run(
        raw_command(
            sandbox,
            "bash -lc 'cd /workspace/src && git init -q && echo 1 > f && git add -A && "
            "git -c user.name=s -c user.email=s@s commit -qm one && git show --stat --oneline HEAD'",
        )
    )
    assert code == 0 and "one" in text and "f | 1 +" in text


# 10. The browser.


@pytest.mark.slow
def test_10_browser(run, sandbox, screen) -> None:
    run(sandbox.fs.upload_file(b"<title>Local page</title><h1>Hi</h1>", "/workspace/page.html"))
    health = "curl -s -o /dev/null -w '%{http_code}' http://localhost:8004/api"
    assert run(sandbox.process.exec(health, timeout=10)).result.strip() == "500"

    def post(path: str, body: str) -> dict:
        answer = run(
            sandbox.process.exec(
                f"curl -s -X POST http://localhost:8004/api/{path} -H 'Content-Type: application/json' -d '{body}'",
                timeout=90,
                env={"GEMINI_API_KEY": "k"},
            )
        )
        assert answer.exit_code == 0, answer.result
        return json.loads(answer.result)

    assert post("init", "{}")["status"] == "initialized"
    assert run(sandbox.process.exec(health, timeout=10)).result.strip() == "200"
    assert post("navigate", '{"url": "http://localhost:8080/page.html"}')["title"] == "Local page"
    assert len(post("screenshot", "{}")["screenshot_base64"]) > 1000


# 11. The user comes back after a while.


def test_11_stop_and_start(daytona, run, sandbox, shared) -> None:
    run(sandbox.fs.upload_file(b"kept", "/workspace/kept.txt"))
    run(daytona.stop(sandbox))
    assert run(daytona.get(shared.sandbox_id)).state == sdk.SandboxState.STOPPED
    started = time.monotonic()
    assert fetch(f"{shared.files_url}/kept.txt").status_code >= 400
    assert time.monotonic() - started < 5, "a stopped sandbox's preview hangs"
    stopped = run(daytona.get(shared.sandbox_id))
    run(daytona.start(stopped))
    again = run(daytona.get(shared.sandbox_id))
    assert again.state == sdk.SandboxState.STARTED
    shared.sandbox = again
    assert run(again.fs.download_file("/workspace/kept.txt")) == b"kept"
    assert run(again.get_preview_link(6080)).url == shared.vnc_url
    assert run(again.get_preview_link(8080)).url == shared.files_url
    run(again.process.create_session("supervisord-session"))
    command = driver.SUPERVISORD if shared.has_screen else "exec sleep 10000"
    run(session_command(again, "supervisord-session", command, var_async=True))


@pytest.mark.slow
def test_11_services_run_again(run, sandbox, screen) -> None:
    services_run(run, sandbox)


# 12. The sandbox rests.


def test_12_archive(daytona, run, sandbox, shared) -> None:
    run(sandbox.stop())
    run(sandbox.archive())

    async def archived() -> bool:
        return (await daytona.get(shared.sandbox_id)).state == sdk.SandboxState.ARCHIVED

    run(until(archived, 90, "it is not archived"))
    resting = run(daytona.get(shared.sandbox_id))
    run(daytona.start(resting, timeout=90))
    shared.sandbox = run(daytona.get(shared.sandbox_id))
    assert shared.sandbox.state == sdk.SandboxState.STARTED
    assert run(shared.sandbox.fs.download_file("/workspace/kept.txt")) == b"kept"


@pytest.mark.slow
def test_12_an_idle_sandbox_stops(daytona, run) -> None:
    idle = run(driver.create(daytona, "idle", auto_stop=1))

    async def stopped() -> bool:
        return (await daytona.get(idle.id)).state == sdk.SandboxState.STOPPED

    try:
        time.sleep(75)  # no request, not even for its state
        run(until(stopped, 20, "it was idle for a minute, and runs"))
    finally:
        run(daytona.delete(run(daytona.get(idle.id))))


def test_12_the_scripts_list_all(daytona, run, shared) -> None:
    listed = run(daytona.list())
    items = listed if OLD else listed.items
    assert shared.sandbox_id in [item.id for item in items]


# 13. The project ends.


def test_13_delete(daytona, run, sandbox, shared, nothing_left) -> None:
    run(daytona.delete(sandbox))

    async def gone() -> bool:
        try:
            await daytona.get(shared.sandbox_id)
        except Exception as error:
            return "not found" in str(error).lower() or "404" in str(error)
        return False

    run(until(gone, 10, "it is still there"))
    assert nothing_left() == {}
