//! Shell sessions.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use agent_protocol::{
    Exit, FailureKind, ProcessInfo, Reply, Request, SessionInfo, Signal, frame::FrameKind,
};

use crate::client::{Agent, Frame, eventually, is_running};

/// A session of an agent.
struct Session<'a> {
    agent: &'a Agent,
    name: &'static str,
}

/// What a command did.
#[derive(Debug)]
struct Ran {
    out: String,
    err: String,
    exit: Exit,
}

fn open<'a>(agent: &'a Agent, name: &'static str) -> Session<'a> {
    let reply = agent.connect().ask(&open_request(name, None));
    assert_eq!(reply, Reply::Done { truncated: false });
    Session { agent, name }
}

/// With a `PATH` in which there is no bash.
fn open_plain(agent: &Agent) -> Session<'_> {
    let bin = agent.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in ["sh", "sleep", "cat", "seq", "head", "setsid", "printenv"] {
        let target = format!("/usr/bin/{program}");
        std::os::unix::fs::symlink(target, bin.join(program)).unwrap();
    }
    let mut request = open_request("plain", None);
    let Request::OpenSession { env, .. } = &mut request else {
        unreachable!()
    };
    env.insert("PATH".into(), bin.display().to_string());
    assert!(matches!(agent.connect().ask(&request), Reply::Done { .. }));
    Session {
        agent,
        name: "plain",
    }
}

fn open_request(name: &str, cwd: Option<&str>) -> Request {
    Request::OpenSession {
        session: name.to_owned(),
        cwd: cwd.map(str::to_owned),
        env: BTreeMap::from([("FROM_SESSION".to_owned(), "here".to_owned())]),
    }
}

impl Session<'_> {
    fn start(&self, command: &str) -> ProcessInfo {
        match self.agent.connect().ask(&self.request(command)) {
            Reply::Started(info) => info,
            other => panic!("{other:?}"),
        }
    }

    fn request(&self, command: &str) -> Request {
        Request::RunInSession {
            session: self.name.to_owned(),
            command: command.to_owned(),
        }
    }

    fn wait(&self, process: u64) -> Ran {
        let mut client = self.agent.connect();
        client.send(&Request::Output {
            process,
            follow: true,
            skip_kept: false,
        });
        let (out, err, mut replies) = client.receive_all();
        let Some(Reply::Exited(exit)) = replies.pop() else {
            panic!("it has not ended")
        };
        Ran {
            out: String::from_utf8_lossy(&out).into_owned(),
            err: String::from_utf8_lossy(&err).into_owned(),
            exit,
        }
    }

    fn run(&self, command: &str) -> Ran {
        let process = self.start(command).process;
        self.wait(process)
    }

    fn text(&self, command: &str) -> String {
        let ran = self.run(command);
        assert_eq!((ran.exit.code, &*ran.err), (0, ""), "{command}: {ran:?}");
        ran.out
    }

    fn code(&self, command: &str) -> i32 {
        self.run(command).exit.code
    }

    fn close(&self) {
        let request = Request::CloseSession {
            session: self.name.to_owned(),
        };
        let reply = self.agent.connect().ask(&request);
        assert_eq!(reply, Reply::Done { truncated: false });
    }

    fn input(&self, process: u64, bytes: &[u8], close: bool) -> Reply {
        let mut client = self.agent.connect();
        client.send(&Request::Input { process, close });
        client.send_frame(FrameKind::Input, bytes).unwrap();
        client.send_frame(FrameKind::InputEnd, b"").unwrap();
        match client.receive() {
            Frame::Reply(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
}

fn commands(session: &Session<'_>) -> Vec<ProcessInfo> {
    let all = sessions(session.agent).into_iter();
    let mut own = all.filter(|info| info.session == session.name);
    own.next().unwrap().commands
}

fn sessions(agent: &Agent) -> Vec<SessionInfo> {
    match agent.connect().ask(&Request::Sessions) {
        Reply::Sessions { sessions } => sessions,
        other => panic!("{other:?}"),
    }
}

#[test]
fn state_is_kept_from_command_to_command() {
    let agent = Agent::start();
    for session in [open(&agent, "s"), open_plain(&agent)] {
        assert_eq!(
            session.text("pwd"),
            format!("{}\n", agent.workdir().display())
        );
        session.text("cd /usr; export A=5; B=6; f() { echo fun $1; }; alias ll='echo aliased'");
        assert_eq!(session.text("pwd; echo $A $B; f x"), "/usr\n5 6\nfun x\n");
        assert_eq!(session.text("printenv A FROM_SESSION"), "5\nhere\n");
        session.text("umask 027; set -f");
        assert_eq!(session.text("umask; echo *"), "0027\n*\n");
    }
}

#[test]
fn codes_and_both_outputs_are_told() {
    let agent = Agent::start();
    for session in [open(&agent, "s"), open_plain(&agent)] {
        let ran = session.run("echo out; echo err >&2; (exit 7)");
        assert_eq!((&*ran.out, &*ran.err), ("out\n", "err\n"));
        assert_eq!(ran.exit.code, 7);
        assert_eq!(session.code("false"), 1);
        assert_eq!(session.code("return 9"), 9);
        assert_eq!(session.code("no-such-program"), 127);
        assert_eq!(session.text("printf 'a\\0b'"), "a\0b");
        assert_eq!(
            session.text("cat <<'END'\nit's $HOME\n\"x\nEND\necho on"),
            "it's $HOME\n\"x\non\n"
        );
        assert_eq!(session.run("break; echo on").out, "on\n");
    }
}

#[test]
fn an_exit_ends_the_command_and_the_session_lives_on() {
    let agent = Agent::start();
    for session in [open(&agent, "s"), open_plain(&agent)] {
        session.text("cd /; GONE=1");
        assert_eq!(session.code("exit 3"), 3);
        let fresh = format!("{}\n", agent.workdir().display());
        assert_eq!(session.text("pwd; printf \"$GONE\""), fresh);
        let ran = session.run("trap 'echo bye' EXIT; echo on; exit 4");
        assert_eq!((&*ran.out, ran.exit.code), ("on\nbye\n", 4));
        let ran = session.run("set -e; false; echo never");
        assert_eq!((&*ran.out, ran.exit.code), ("", 1));
        assert_eq!(session.text("false; echo on"), "on\n");
        assert_eq!(session.code("exec no-such-program"), 127);
        assert_eq!(session.code("kill -9 $$"), 137);
        assert_eq!(session.text("echo on"), "on\n");
    }
}

#[test]
fn wrong_grammar_gives_2_and_the_state_stays() {
    let agent = Agent::start();
    for session in [open(&agent, "s"), open_plain(&agent)] {
        session.text("KEPT=1");
        for wrong in [
            "if then",
            "echo 'abc",
            "echo \"abc",
            "echo $(",
            "{ echo",
            "case x in",
            ")",
        ] {
            let ran = session.run(wrong);
            assert_eq!(ran.exit.code, 2, "{wrong}: {ran:?}");
            assert!(!ran.err.is_empty(), "{wrong}");
        }
        assert_eq!(session.text("echo $KEPT"), "1\n");
        // A here-document that is never ended is only warned of.
        assert_eq!(session.run("cat <<END\nopen").out.trim(), "open");
        assert_eq!(session.text("echo $KEPT"), "1\n");
    }
}

#[test]
fn a_shell_that_becomes_another_program_does_not_hold_up_the_session() {
    let agent = Agent::start();
    for session in [open(&agent, "s"), open_plain(&agent)] {
        let exec = session.start("cd /; exec sh -c 'read line; echo $line; exit 6'");
        assert_eq!(session.text("echo beside"), "beside\n");
        let reply = session.input(exec.process, b"word\n", false);
        assert!(matches!(reply, Reply::Done { .. }), "{reply:?}");
        let ran = session.wait(exec.process);
        assert_eq!((&*ran.out, ran.exit.code), ("word\n", 6));
        let long = session.start("exec sleep 100");
        session.text("true");
        let pid = commands(&session);
        let pid = pid.iter().find(|info| info.process == long.process);
        let pid = pid.unwrap().pid.to_string();
        assert!(is_running(&pid));
        let killed = agent.connect().ask(&Request::Signal {
            process: long.process,
            signal: Signal::Sigterm,
        });
        assert!(matches!(killed, Reply::Done { .. }));
        assert_eq!(session.wait(long.process).exit.code, 143);
        session.close();
    }
}

#[test]
fn what_goes_on_in_the_background_does_not_hold_up_a_command() {
    let agent = Agent::start();
    for session in [open(&agent, "s"), open_plain(&agent)] {
        let begun = Instant::now();
        let ran = session.run("(sleep 0.5; echo late) & echo early");
        assert_eq!((&*ran.out, ran.exit.code), ("early\n", 0));
        let process = session.start("sleep 100 & echo $!").process;
        let sleep = session.wait(process).out;
        assert!(begun.elapsed() < Duration::from_millis(400));
        assert!(is_running(&sleep));
        session.text("echo other");
        let first = commands(&session)[0].process;
        eventually("the late line is kept", || {
            session.wait(first).out == "early\nlate\n"
        });
        session.close();
        eventually("it has been killed", || !is_running(&sleep));
    }
}

#[test]
fn commands_run_in_order_one_at_a_time() {
    let agent = Agent::start();
    let session = open(&agent, "s");
    let first = session.start("X=1; sleep 0.3; X=2");
    let second = session.start("echo $X; X=3");
    let third = session.start("echo $X");
    assert_ne!(first.pid, 0);
    assert_eq!((second.pid, third.pid), (0, 0));
    let waiting = agent.connect().ask_failing(&Request::Signal {
        process: third.process,
        signal: Signal::Sigkill,
    });
    assert!(
        waiting.message.contains("has not begun"),
        "{}",
        waiting.message
    );
    assert_eq!(session.wait(third.process).out, "3\n");
    assert_eq!(session.wait(second.process).out, "2\n");
    let commands = commands(&session);
    let ids: Vec<u64> = commands.iter().map(|info| info.process).collect();
    assert_eq!(ids, [first.process, second.process, third.process]);
    assert!(
        commands
            .iter()
            .all(|info| info.pid == first.pid && info.exit.is_some())
    );
    assert_eq!(commands[1].command, "echo $X; X=3");
}

#[test]
fn input_is_read_until_it_is_closed() {
    let agent = Agent::start();
    for session in [open(&agent, "s"), open_plain(&agent)] {
        let reading = session.start("read line; echo got $line; cat").process;
        session.input(reading, b"one\ntwo ", false);
        session.input(reading, b"three", true);
        assert_eq!(session.wait(reading).out, "got one\ntwo three");
        // Closed before the command has begun.
        session.start("sleep 0.2");
        let reading = session.start("cat").process;
        session.input(reading, b"early", true);
        assert_eq!(session.wait(reading).out, "early");
        let reply = session.input(reading, b"late", false);
        let Reply::Failed(failure) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(failure.kind, FailureKind::InvalidRequest);
        assert_eq!(session.text("echo on"), "on\n");
    }
}

#[test]
fn much_output_passes_and_its_tail_is_kept() {
    let agent = Agent::start();
    let session = open(&agent, "s");
    let ran = session.run("seq 1 1000000; echo last");
    assert!(ran.exit.truncated && ran.out.ends_with("1000000\nlast\n"));
    assert_eq!(session.text("head -c 100000 /dev/zero").len(), 100_000);
}

#[test]
fn what_shells_print_by_themselves_confuses_nobody() {
    let agent = Agent::start();
    let session = open(&agent, "s");
    let ran = session.run("set -x; echo hi");
    assert_eq!((&*ran.out, ran.exit.code), ("hi\n", 0));
    assert!(ran.err.contains("echo hi"));
    session.run("set +x");
    session.run("trap 'echo debug' DEBUG");
    assert_eq!(session.run("(exit 5)").exit.code, 5);
    session.run("trap - DEBUG; set -u; set -C");
    assert_eq!(session.text("echo on"), "on\n");
    let ran = session.run("exec >/dev/null; echo lost");
    assert_eq!((&*ran.out, ran.exit.code), ("", 0));
    assert_eq!(session.text("echo found"), "found\n");
    // Nothing of ours is left open in what it starts.
    let files = session.text("ls -l /proc/self/fd");
    assert_eq!(files.matches(" -> ").count(), 4, "{files}");
}

#[test]
fn closing_kills_what_belongs_to_the_session_and_nothing_else() {
    let agent = Agent::start();
    let session = open(&agent, "s");
    let pids = session.text(
        "sleep 100 & echo $!; (setsid sleep 101 & echo $!); set -m; sleep 102 & echo $!; set +m",
    );
    let mut pids: Vec<String> = pids.lines().map(str::to_owned).collect();
    session.code("exit 1");
    // Of the next shell, the first one being gone.
    pids.push(session.text("sleep 103 & echo $!").trim().to_owned());
    let running = session.start("sleep 104; echo never");
    let waiting = session.start("echo never");
    assert!(pids.iter().all(|pid| is_running(pid)));
    let mut follower = agent.connect();
    follower.send(&Request::Output {
        process: running.process,
        follow: true,
        skip_kept: false,
    });
    session.close();
    let (out, _, replies) = follower.receive_all();
    assert!(out.is_empty());
    assert!(matches!(&replies[..], [Reply::Exited(exit)] if exit.code == 137));
    eventually("its processes have ended", || {
        [0, 2, 3].iter().all(|index| !is_running(&pids[*index]))
    });
    // The shell of `setsid` has ended; what it started is found by its name.
    let survivor = format!("pgrep -f '^sleep 101$' | grep -qx {}", pids[1]);
    assert_eq!(agent.shell(&survivor).exit.code, 0);
    agent.shell(&format!("kill {}", pids[1]));
    assert!(sessions(&agent).is_empty());
    let failure = agent.connect().ask_failing(&Request::Output {
        process: waiting.process,
        follow: false,
        skip_kept: false,
    });
    assert_eq!(failure.kind, FailureKind::NotFound);
    // The name is free again.
    assert_eq!(open(&agent, "s").text("echo new"), "new\n");
}

#[test]
fn wrong_requests_are_refused() {
    let agent = Agent::start();
    let session = open(&agent, "s");
    let kind = |request: &Request| agent.connect().ask_failing(request).kind;
    assert_eq!(kind(&open_request("s", None)), FailureKind::AlreadyExists);
    assert_eq!(kind(&open_request("", None)), FailureKind::InvalidRequest);
    assert_eq!(
        kind(&open_request("a\nb", None)),
        FailureKind::InvalidRequest
    );
    let nowhere = open_request("n", Some("/no/where"));
    assert_eq!(kind(&nowhere), FailureKind::NotFound);
    assert_eq!(kind(&session.request("a\0b")), FailureKind::InvalidRequest);
    let long = "x".repeat((1 << 20) + 1);
    assert_eq!(kind(&session.request(&long)), FailureKind::InvalidRequest);
    let absent = Session {
        agent: &agent,
        name: "absent",
    };
    assert_eq!(kind(&absent.request("true")), FailureKind::NotFound);
    let close = Request::CloseSession {
        session: "absent".to_owned(),
    };
    assert_eq!(kind(&close), FailureKind::NotFound);
    assert_eq!(sessions(&agent).len(), 1);
    for _ in 0..32 {
        session.start("sleep 100");
    }
    session.start("sleep 100");
    assert_eq!(kind(&session.request("true")), FailureKind::LimitReached);
    session.close();
}

#[test]
fn many_sessions_rest_in_one_thread_and_leave_nothing() {
    const NAMES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let agent = Agent::start();
    let folders = || {
        let entries = std::fs::read_dir("/dev/shm").unwrap().flatten();
        let mine = entries.filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(".session-")
        });
        mine.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let before = folders();
    let opened: Vec<Session<'_>> = NAMES.iter().map(|name| open(&agent, name)).collect();
    let running: Vec<u64> = opened
        .iter()
        .map(|session| session.start("sleep 0.2; echo $FROM_SESSION").process)
        .collect();
    for (session, process) in opened.iter().zip(running) {
        assert_eq!(session.wait(process).out, "here\n");
    }
    assert!(agent.status("Threads") < 10);
    let ticks = agent.cpu_ticks();
    std::thread::park_timeout(Duration::from_millis(300));
    assert!(agent.cpu_ticks() - ticks < 5);
    let own = opened[0].text("ls -d /dev/shm/.session-*/");
    assert!(own.lines().count() >= NAMES.len());
    for session in &opened {
        session.close();
    }
    // Other tests have theirs at the same time: those of this one are gone.
    let left = folders();
    assert!(left.len() < before.len() + NAMES.len());
    eventually("the thread has gone", || agent.status("Threads") < 6);
}
