//! Python cells through the agent's protocol. Needs a Python with IPython; see `agent::python`.
#![expect(clippy::unwrap_used, reason = "a failure is what a test is for")]

#[path = "cells/agent.rs"]
mod agent;

use std::{
    fs,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
    time::{Duration, Instant},
};

use agent_protocol::{Cell, CellStatus, FailureKind, Reply, Request};

use crate::agent::{Agent, Client, Ran, cell, python, timed};

const DONE: Reply = Reply::Done { truncated: false };

fn merged(code: &str) -> Cell {
    Cell {
        merge_output: true,
        ..cell(code)
    }
}

fn in_context(code: &str, context: &str) -> Cell {
    Cell {
        context: context.to_owned(),
        ..cell(code)
    }
}

fn interrupt(context: &str) -> Request {
    Request::InterruptKernel {
        context: context.to_owned(),
    }
}

fn restart(context: &str) -> Request {
    Request::RestartKernel {
        context: context.to_owned(),
    }
}

/// An agent, a connection, and a kernel in which `x` is 1.
fn started() -> (Agent, Client) {
    let agent = Agent::start();
    let mut client = agent.connect();
    assert_eq!(client.prints("x = 1"), "");
    (agent, client)
}

fn assert_died(ran: &Ran, reason: &str) {
    assert_eq!(ran.status(), CellStatus::KernelDied, "{ran:?}");
    assert!(ran.error().contains(reason), "{ran:?}");
}

#[test]
fn cells_behave_as_in_the_original_server() {
    let (_agent, mut client) = started();
    assert_eq!(client.prints("print(123)"), "123\n");
    assert_eq!(client.prints("123"), "Out[1]: 123\n");
    assert_eq!(client.prints("124"), "Out[1]: 124\n");
    assert_eq!(client.prints("x = 2"), "");
    assert_eq!(client.prints("import sys"), "");
    assert_eq!(client.prints("x"), "Out[1]: 2\n");
    assert_eq!(client.prints("! echo -n $MY_TEST_VAR"), "from-spec");
    let ran = client.run(merged("print('to err', file=sys.stderr)"));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("to err\n", ""));
    let ran = client.run(cell("print('to err', file=sys.stderr)\nprint('to out')"));
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("to out\n", "to err\n")
    );
    let ran = client.run(cell("foo"));
    assert_eq!(ran.status(), CellStatus::Error);
    assert!(
        ran.stdout.contains("name 'foo' is not defined"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("\x1b["), "the traceback has colours");
    assert_eq!(ran.ended().error_name.as_deref(), Some("NameError"));
    assert!(!ran.ended().traceback.is_empty());
}

#[test]
fn the_order_of_both_outputs_is_exact_when_merged() {
    let (_agent, mut client) = started();
    let code = "import os, sys\nfor n in range(2000):\n    print(n, end=' ')\n    print('e', n, end=' ', file=sys.stderr)\n    os.write(2, b'w ')";
    let ran = client.run(merged(code));
    let expected: String = (0..2000).map(|n| format!("{n} e {n} w ")).collect();
    assert_eq!(ran.stdout, expected);
}

#[test]
fn output_comes_while_the_cell_runs() {
    let (_agent, mut client) = started();
    client.start(
        cell("import time\nprint('early', end='')\ntime.sleep(1)\nprint('late')"),
        "early",
    );
    assert_eq!(client.finish().stdout, "late\n");
}

#[test]
fn displays_come_in_their_place() {
    let (_agent, mut client) = started();
    let ran = client.run(cell("print('a')\ndisplay('b')\nprint('c')\n'd'"));
    assert_eq!(ran.stdout, "a\n'b'\nc\nOut[1]: 'd'\n");
    let places: Vec<_> = ran
        .displays
        .iter()
        .map(|(result, data, place)| {
            (
                *result,
                data["text/plain"].as_str().unwrap(),
                &ran.stdout[..*place],
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            (false, "'b'", "a\n'b'\n"),
            (true, "'d'", "a\n'b'\nc\nOut[1]: 'd'\n"),
        ]
    );
}

#[test]
fn figures_and_frames_are_rich() {
    let (_agent, mut client) = started();
    let ran = client.run(cell("import matplotlib.pyplot as plt\nplt.plot([1, 2]);"));
    let [(false, figure, _)] = ran.displays.as_slice() else {
        panic!("{ran:?}")
    };
    assert!(
        figure["image/png"]
            .as_str()
            .unwrap()
            .starts_with("iVBORw0KGgo")
    );
    assert!(ran.stdout.starts_with("<Figure size"), "{}", ran.stdout);
    let ran = client.run(cell("import pandas as pd\npd.DataFrame({'a': [1]})"));
    let [(true, frame, _)] = ran.displays.as_slice() else {
        panic!("{ran:?}")
    };
    assert!(frame["text/html"].as_str().unwrap().contains("<table"));
    // Nearly the longest bundle, and one that is over the limit.
    let ran = client.run(cell("display({'text/html': 'x' * (7 << 20)}, raw=True)"));
    assert_eq!(
        ran.displays[0].1["text/html"].as_str().unwrap().len(),
        7 << 20
    );
    let ran = client.run(cell("display({'text/html': 'x' * (9 << 20)}, raw=True)"));
    assert!(
        ran.displays[0].1["text/plain"]
            .as_str()
            .unwrap()
            .contains("too long")
    );
}

#[test]
fn environment_of_a_cell_ends_with_it() {
    let (_agent, mut client) = started();
    let mut with_env = cell("!echo -n $MY_TEST_VAR$MORE");
    with_env.env = [("MY_TEST_VAR", "own"), ("MORE", "!")]
        .map(|(k, v)| (k.into(), v.into()))
        .into();
    assert_eq!(client.run(with_env).stdout, "own!");
    assert_eq!(client.prints("!echo -n $MY_TEST_VAR$MORE"), "from-spec");
    let mut wrong = cell("1");
    wrong.env = [("A=B".to_owned(), String::new())].into();
    assert_eq!(
        client.run(wrong).failure().kind,
        FailureKind::InvalidRequest
    );
}

#[test]
fn a_timeout_interrupts_and_the_state_is_kept() {
    let (_agent, mut client) = started();
    for code in [
        "import time; time.sleep(60)",
        "while True: pass",
        "!sleep 60",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "import os; os.system('sleep 60')",
        "import asyncio; await asyncio.sleep(60)",
        "x = 1\nwhile True: print('flood' * 1000)",
    ] {
        let begin = Instant::now();
        let ran = client.run(timed(code, 300));
        assert_eq!(ran.status(), CellStatus::TimedOut, "{code}: {ran:?}");
        assert!(ran.error().contains("300 ms"), "{code}: {}", ran.error());
        assert!(
            begin.elapsed() < Duration::from_secs(4),
            "{code}: {:?}",
            begin.elapsed()
        );
        assert_eq!(client.prints("x"), "Out[1]: 1\n", "after {code}");
    }
    // A timeout that passes before the kernel looks.
    for _ in 0..20 {
        let ran = client.run(timed("import time; time.sleep(60)", 0));
        assert_eq!(ran.status(), CellStatus::TimedOut);
    }
    assert_eq!(client.prints("x"), "Out[1]: 1\n");
}

#[test]
fn a_cell_that_ignores_interrupts_costs_the_kernel() {
    let (_agent, mut client) = started();
    let code = "import time\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: print('no')";
    let begin = Instant::now();
    let ran = client.run(timed(code, 100));
    assert_died(&ran, "did not end within 7 s");
    assert_eq!(ran.stdout, "no\nno\n");
    assert!(begin.elapsed() < Duration::from_secs(12));
    assert_eq!(client.prints("'x' in globals()"), "Out[1]: False\n");
}

#[test]
fn interrupt_and_restart_by_request() {
    let (agent, mut client) = started();
    let mut other = agent.connect();
    // Without a running cell there is nothing to interrupt.
    assert_eq!(other.ask(&interrupt("default")), DONE);
    client.start(cell("import time\nprint('go')\ntime.sleep(60)"), "go");
    assert_eq!(other.ask(&interrupt("default")), DONE);
    let ran = client.finish();
    assert_eq!(ran.status(), CellStatus::Interrupted, "{ran:?}");
    assert_eq!(client.prints("x"), "Out[1]: 1\n");

    client.start(cell("print('go')\ntime.sleep(60)"), "go");
    assert_eq!(other.ask(&restart("default")), DONE);
    assert_died(&client.finish(), "restarted by request");
    assert_eq!(client.prints("'x' in globals()"), "Out[1]: False\n");

    assert_eq!(client.prints("x = 2"), "");
    assert_eq!(other.ask(&restart("default")), DONE);
    assert_eq!(client.prints("'x' in globals()"), "Out[1]: False\n");
    for request in [interrupt("unknown"), restart("unknown")] {
        let Reply::Failed(failure) = other.ask(&request) else {
            panic!()
        };
        assert_eq!(failure.kind, FailureKind::NotFound);
    }
}

#[test]
fn a_kernel_that_dies_says_why_and_is_replaced() {
    let (_agent, mut client) = started();
    for (code, reason) in [
        (
            "import os; print('last', end=''); os._exit(3)",
            "exited with code 3",
        ),
        (
            "import os, signal; print('last', end=''); os.kill(os.getpid(), signal.SIGSEGV)",
            "signal 11 (SIGSEGV",
        ),
        ("import os; print('last', end=''); os.abort()", "SIGABRT"),
        (
            "print('last', end=''); import ctypes; ctypes.string_at(0)",
            "SIGSEGV",
        ),
    ] {
        let ran = client.run(cell(code));
        assert_died(&ran, reason);
        assert_eq!(ran.stdout, "last");
        assert_eq!(client.prints("print('new')"), "new\n");
    }
}

#[test]
fn a_kernel_that_dies_between_cells_is_reported_by_the_next() {
    let (agent, mut client) = started();
    client.prints("import os, threading; threading.Timer(0.3, os._exit, [4]).start()");
    let marker = agent.directory().join("gone");
    std::thread::park_timeout(Duration::from_secs(2));
    let ran = client.run(cell(&format!("open({marker:?}, 'w')")));
    assert_died(&ran, "exited with code 4");
    assert!(ran.error().contains("this cell was not run"));
    assert!(!marker.exists());
    assert_eq!(client.prints("print('new')"), "new\n");
}

#[test]
fn lack_of_memory_is_named() {
    let counter = tempfile::NamedTempFile::new().unwrap();
    fs::write(counter.path(), "oom_kill_disable 0\noom_kill 0\n").unwrap();
    let bin = python().parent().unwrap().display().to_string();
    let agent = Agent::start_with(
        &format!("{bin}:/usr/bin:/bin"),
        &[("--oom-fd", counter.as_file().as_fd())],
        |_| {},
    );
    let mut client = agent.connect();
    let kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)";
    assert_died(&client.run(cell(kill)), "signal 9 (SIGKILL)");
    let code = format!(
        "f = open({:?}, 'w'); f.write('oom_kill 1\\n'); f.close()\n{kill}",
        counter.path()
    );
    assert_died(&client.run(cell(&code)), "lack of memory");
}

#[test]
fn a_closed_stream_interrupts_the_cell() {
    let (agent, mut client) = started();
    client.start(cell("import time\nprint('go')\ntime.sleep(60)"), "go");
    client.close();
    let begin = Instant::now();
    assert_eq!(agent.connect().prints("x"), "Out[1]: 1\n");
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_client_that_does_not_read_delays_no_timeout() {
    let (agent, mut client) = started();
    client.send(&Request::Cell(timed(
        "print('begin')\nwhile True: print('flood' * 1000)",
        500,
    )));
    let begin = Instant::now();
    // The kernel is free for others although nothing was read.
    assert_eq!(agent.connect().prints("x"), "Out[1]: 1\n");
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    let ran = client.finish();
    assert_eq!(ran.status(), CellStatus::TimedOut);
    assert!(ran.stdout.starts_with("begin\nflood"));
}

#[test]
fn contexts_are_apart_and_bounded() {
    let (_agent, mut client) = started();
    assert_eq!(
        client.run(in_context("'x' in globals()", "b")).stdout,
        "Out[1]: False\n"
    );
    assert_eq!(client.prints("x"), "Out[1]: 1\n");
    for name in ["", "a/b", "a b", &"a".repeat(65)] {
        assert_eq!(
            client.run(in_context("1", name)).failure().kind,
            FailureKind::InvalidRequest
        );
    }
    for n in 2..16 {
        assert_eq!(
            client.run(in_context("1", &format!("n{n}"))).status(),
            CellStatus::Ok
        );
    }
    let ran = client.run(in_context("1", "one-too-many"));
    assert_eq!(ran.failure().kind, FailureKind::LimitReached);
    assert_eq!(client.ask(&restart("b")), DONE);
    assert_eq!(
        client.run(in_context("1", "one-too-many")).status(),
        CellStatus::Ok
    );
    assert_eq!(client.prints("x"), "Out[1]: 1\n");
}

#[test]
fn cells_wait_in_order_and_not_too_many() {
    let (agent, mut first) = started();
    first.start(
        cell("import time\norder = []\nprint('go')\ntime.sleep(60)"),
        "go",
    );
    let mut waiting = Vec::new();
    for n in 0..32 {
        let mut client = agent.connect();
        client.send(&Request::Cell(cell(&format!("order.append({n})"))));
        // The agent serves connections in threads: give each time to queue.
        std::thread::park_timeout(Duration::from_millis(30));
        waiting.push(client);
    }
    let failed = agent.connect().run(cell("1"));
    assert_eq!(failed.failure().kind, FailureKind::LimitReached);
    // One that waits gives up.
    waiting.remove(5).close();
    std::thread::park_timeout(Duration::from_millis(100));
    assert_eq!(agent.connect().ask(&interrupt("default")), DONE);
    assert_eq!(first.finish().status(), CellStatus::Interrupted);
    for client in &mut waiting {
        assert_eq!(client.finish().status(), CellStatus::Ok);
    }
    let expected: Vec<_> = (0..32).filter(|n| *n != 5).collect();
    assert_eq!(first.prints("print(order)"), format!("{expected:?}\n"));
}

#[test]
fn output_between_cells_comes_with_the_next() {
    let (_agent, mut client) = started();
    client.prints("import threading; threading.Timer(0.2, print, ['later']).start()");
    std::thread::park_timeout(Duration::from_secs(1));
    assert_eq!(client.prints("print('now')"), "later\nnow\n");
    // A flood does not block the thread; its end is kept.
    client.prints(
        "def flood():\n    for n in range(300): print('f' * 1000)\n    print('end')\n    global done; done = True\ndone = False\nt = threading.Timer(0.1, flood); t.start()",
    );
    std::thread::park_timeout(Duration::from_secs(2));
    let stdout = client.prints("print(done)");
    assert!(
        stdout.starts_with('[') && stdout.contains("bytes printed between cells were dropped]\n"),
        "{}",
        &stdout[..100]
    );
    assert!(stdout.ends_with("f\nend\nTrue\n"));
    assert!(stdout.len() < 70_000);
}

#[test]
fn a_background_command_outlives_its_cell() {
    let (_agent, mut client) = started();
    client.prints("!(sleep 0.5; echo from background) &");
    std::thread::park_timeout(Duration::from_millis(1500));
    assert_eq!(client.prints("x"), "from background\nOut[1]: 1\n");
}

#[test]
fn a_cell_that_breaks_the_channel_harms_only_its_kernel() {
    let (agent, mut client) = started();
    let sockets = "import os\nfor name in os.listdir('/proc/self/fd'):\n    try:\n        if os.readlink('/proc/self/fd/' + name).startswith('socket:'): fd = int(name)\n    except OSError: pass\n";
    for (harm, reason) in [
        (r"os.write(fd, b'\xff\xff\xff\xffd')", "4294967295 bytes"),
        (r"os.write(fd, b'\x02\x00\x00\x00da]')", "malformed"),
        (r"os.write(fd, b'\x01\x00\x00\x00zz')", "malformed"),
        (r"os.write(fd, b'\x00\x00\x00\x00r')", "malformed"),
        (
            "os.close(fd)\nimport time; time.sleep(60)",
            "control channel: it was closed",
        ),
        (
            r"os.write(fd, (6 << 20).to_bytes(4, 'little') + b'd')
os._exit(1)",
            "exited with code 1",
        ),
        ("os.closerange(3, 1000)", "exited with code"),
    ] {
        let ran = client.run(timed(&format!("{sockets}{harm}"), 30_000));
        assert_died(&ran, reason);
        assert_eq!(client.prints("print('new')"), "new\n", "after {harm}");
    }
    assert!(matches!(
        agent.connect().ask(&Request::Ping),
        Reply::Pong { .. }
    ));
}

fn write_python(directory: &Path, line: &str) {
    let path = directory.join("python3");
    fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_is_missing_is_named_and_can_be_installed() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start_with(directory.path().to_str().unwrap(), &[], |_| {});
    let mut client = agent.connect();
    let real = python();

    let ran = client.run(cell("1"));
    assert_eq!(ran.failure().kind, FailureKind::Missing);
    assert!(ran.failure().message.contains("python3"), "{ran:?}");

    write_python(
        directory.path(),
        &format!("exec {} -S \"$@\"", real.display()),
    );
    let ran = client.run(cell("1"));
    assert_eq!(ran.failure().kind, FailureKind::Missing);
    assert!(
        ran.failure().message.contains("`pip install ipython`"),
        "{ran:?}"
    );

    write_python(directory.path(), "echo broken >&2; exit 5");
    let ran = client.run(cell("1"));
    assert_eq!(ran.failure().kind, FailureKind::Internal);
    assert!(
        ran.failure()
            .message
            .ends_with("exited with code 5; it said: broken"),
        "{ran:?}"
    );

    write_python(directory.path(), &format!("exec {} \"$@\"", real.display()));
    assert_eq!(client.prints("1"), "Out[1]: 1\n");
}

#[test]
fn other_requests_are_served_while_a_cell_runs() {
    let (agent, mut client) = started();
    client.start(cell("import time\nprint('go')\ntime.sleep(1)"), "go");
    let begin = Instant::now();
    let pong = agent.connect().ask(&Request::Ping);
    assert!(matches!(pong, Reply::Pong { .. }));
    assert!(begin.elapsed() < Duration::from_millis(500));
    assert_eq!(client.finish().status(), CellStatus::Ok);
}

/// Not a test of correctness: prints what `cargo test -- --ignored --nocapture times` measures.
#[test]
#[ignore = "prints times; run it alone, in release mode"]
fn times() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let begin = Instant::now();
    client.prints("import os");
    println!("first cell {:?}", begin.elapsed());
    for code in ["pass", "print(1)", "1"] {
        let mut times: Vec<_> = (0..3000)
            .map(|_| {
                let begin = Instant::now();
                client.prints(code);
                begin.elapsed()
            })
            .collect();
        times.sort();
        println!("cell {code:8}: p50 {:?} p99 {:?}", times[1500], times[2970]);
    }
    let begin = Instant::now();
    client.prints("for n in range(100000): print(n)");
    println!("100,000 lines printed in {:?}", begin.elapsed());
    let pss = client.prints("!grep -E '^(Rss|Pss|Private_Dirty)' /proc/{os.getpid()}/smaps_rollup");
    println!("kernel:\n{pss}");
}

#[test]
fn contexts_are_started_listed_and_ended_by_request() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let start = |context: &str, cwd: Option<&str>| Request::StartKernel {
        context: context.to_owned(),
        cwd: cwd.map(str::to_owned),
    };
    let end = |context: &str| Request::EndKernel {
        context: context.to_owned(),
    };
    let kernels = |client: &mut Client| match client.ask(&Request::Kernels) {
        Reply::Kernels { kernels } => kernels,
        other => panic!("{other:?}"),
    };
    let fails = |client: &mut Client, request: &Request| match client.ask(request) {
        Reply::Failed(failure) => failure.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(kernels(&mut client), []);
    assert_eq!(client.ask(&start("c", Some("/usr"))), DONE);
    let listed = kernels(&mut client);
    assert_eq!(
        (&*listed[0].context, &*listed[0].cwd, listed[0].alive),
        ("c", "/usr", true)
    );
    assert!(listed[0].started_ms > 1_600_000_000_000);
    let again = start("c", None);
    assert_eq!(fails(&mut client, &again), FailureKind::AlreadyExists);
    let nowhere = start("d", Some("/no/where"));
    assert_eq!(fails(&mut client, &nowhere), FailureKind::NotFound);
    assert_eq!(
        fails(&mut client, &start("a b", None)),
        FailureKind::InvalidRequest
    );
    let ran = client.run(in_context("import os; x = 1; os.getcwd()", "c"));
    assert_eq!(ran.displays[0].1["text/plain"], "'/usr'");
    // A running cell ends with its context, and one that waits is not run.
    let mut busy = agent.connect();
    busy.start(
        in_context("print(1)\nimport time; time.sleep(100)", "c"),
        "1",
    );
    let mut waiting = agent.connect();
    waiting.send(&Request::Cell(in_context("x", "c")));
    std::thread::park_timeout(Duration::from_millis(200));
    assert_eq!(client.ask(&end("c")), DONE);
    assert_eq!(busy.finish().status(), CellStatus::KernelDied);
    assert_eq!(waiting.finish().failure().kind, FailureKind::NotFound);
    assert_eq!(kernels(&mut client), []);
    assert_eq!(fails(&mut client, &end("c")), FailureKind::NotFound);
    assert_eq!(client.ask(&start("c", None)), DONE);
    let ran = client.run(in_context("x", "c"));
    assert_eq!(ran.ended().error_name.as_deref(), Some("NameError"));
}
