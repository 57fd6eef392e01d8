//! Background processes.

use agent_protocol::{Exec, FailureKind, ProcessInfo, Reply, Request, Signal, frame::FrameKind};

use crate::client::{Agent, Frame, eventually, is_running, shell};

fn start(agent: &Agent, exec: Exec) -> ProcessInfo {
    match agent.connect().ask(&Request::Start(exec)) {
        Reply::Started(info) => info,
        other => panic!("{other:?}"),
    }
}

fn list(agent: &Agent) -> Vec<ProcessInfo> {
    match agent.connect().ask(&Request::Processes) {
        Reply::Processes { processes } => processes,
        other => panic!("{other:?}"),
    }
}

fn output(agent: &Agent, process: u64, follow: bool) -> (Vec<u8>, Vec<u8>, Reply) {
    let mut client = agent.connect();
    client.send(&Request::Output {
        process,
        follow,
        skip_kept: false,
    });
    let (stdout, stderr, mut replies) = client.receive_all();
    (stdout, stderr, replies.pop().unwrap())
}

#[test]
fn a_process_is_started_listed_followed_and_remembered() {
    let agent = Agent::start();
    let info = start(&agent, shell("echo out; echo err >&2; exit 4"));
    assert_eq!(info.process, 1);
    let (stdout, stderr, reply) = output(&agent, 1, true);
    assert_eq!((&*stdout, &*stderr), (&b"out\n"[..], &b"err\n"[..]));
    let Reply::Exited(exit) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(exit.code, 4);
    let listed = list(&agent);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].exit.as_ref().unwrap().code, 4);
    assert_eq!(listed[0].command, "echo out; echo err >&2; exit 4");
    assert!(listed[0].started_ms > 1_600_000_000_000);
    assert_eq!(start(&agent, shell("true")).process, 2);
}

#[test]
fn output_so_far_is_told_without_waiting() {
    let agent = Agent::start();
    let info = start(&agent, shell("echo here; sleep 30"));
    eventually("the output is there", || {
        let (stdout, _, reply) = output(&agent, info.process, false);
        assert_eq!(reply, Reply::Done { truncated: false });
        stdout == b"here\n"
    });
}

#[test]
fn followers_get_news_as_they_come() {
    let agent = Agent::start();
    let exec = Exec {
        stdin: true,
        ..shell("while read line; do echo got $line; done; echo over")
    };
    let process = start(&agent, exec).process;
    let mut followers = [agent.connect(), agent.connect()];
    for follower in &mut followers {
        follower.send(&Request::Output {
            process,
            follow: true,
            skip_kept: false,
        });
    }
    for (word, close) in [("one", false), ("two", true)] {
        let mut client = agent.connect();
        client.send(&Request::Input { process, close });
        client.send_input(format!("{word}\n").as_bytes());
        assert!(matches!(client.receive(), Frame::Reply(Reply::Done { .. })));
        for follower in &mut followers {
            let Frame::Output(bytes) = follower.receive() else {
                panic!("no output")
            };
            assert!(
                String::from_utf8(bytes)
                    .unwrap()
                    .starts_with(&format!("got {word}\n"))
            );
        }
    }
    for mut follower in followers {
        let (_, _, replies) = follower.receive_all();
        assert!(matches!(&replies[..], [Reply::Exited(exit)] if exit.code == 0));
    }
    // Idle followers and processes must not make anybody turn in circles.
    let before = agent.cpu_ticks();
    std::thread::park_timeout(std::time::Duration::from_millis(300));
    assert!(agent.cpu_ticks() - before < 10);
}

#[test]
fn two_followers_of_a_quiet_process_rest() {
    let agent = Agent::start();
    let process = start(&agent, shell("echo one; sleep 30")).process;
    let mut followers = [agent.connect(), agent.connect()];
    for follower in &mut followers {
        follower.send(&Request::Output {
            process,
            follow: true,
            skip_kept: false,
        });
        assert!(matches!(follower.receive(), Frame::Output(_)));
    }
    let before = agent.cpu_ticks();
    std::thread::park_timeout(std::time::Duration::from_millis(500));
    assert!(agent.cpu_ticks() - before < 5);
}

#[test]
fn only_the_tail_of_much_output_is_kept() {
    let agent = Agent::start();
    let process = start(&agent, shell("seq 1 1000000; echo last")).process;
    let (_, _, reply) = output(&agent, process, true);
    let Reply::Exited(exit) = reply else {
        panic!("{reply:?}")
    };
    assert!(exit.truncated);
    let (stdout, _, _) = output(&agent, process, false);
    assert_eq!(stdout.len(), 1 << 20);
    assert!(stdout.ends_with(b"1000000\nlast\n"));
    assert!(list(&agent)[0].exit.as_ref().unwrap().truncated);
}

#[test]
fn signals_reach_the_whole_group_until_it_has_ended() {
    let agent = Agent::start();
    let info = start(
        &agent,
        shell("trap 'echo got; exit 5' TERM; sleep 50 & echo $!; wait"),
    );
    let mut sleep = String::new();
    eventually("it has begun", || {
        sleep = String::from_utf8(output(&agent, info.process, false).0).unwrap();
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", sleep.trim()));
        // Not before: a shell's child that is not `sleep` yet may lose the signal.
        comm.is_ok_and(|name| name == "sleep\n")
    });
    let signal = Request::Signal {
        process: info.process,
        signal: Signal::Sigterm,
    };
    assert_eq!(
        agent.connect().ask(&signal),
        Reply::Done { truncated: false }
    );
    let (stdout, _, reply) = output(&agent, info.process, true);
    assert!(String::from_utf8(stdout).unwrap().ends_with("got\n"));
    assert!(matches!(reply, Reply::Exited(exit) if exit.code == 5));
    eventually("its child has ended too", || !is_running(&sleep));
    assert_eq!(
        agent.connect().ask_failing(&signal).kind,
        FailureKind::InvalidRequest
    );
}

#[test]
fn a_process_lives_on_when_its_connections_close() {
    let agent = Agent::start();
    let info = start(&agent, shell("sleep 0.3; echo done"));
    let mut follower = agent.connect();
    follower.send(&Request::Output {
        process: info.process,
        follow: true,
        skip_kept: false,
    });
    drop(follower);
    let (stdout, _, _) = output(&agent, info.process, true);
    assert_eq!(stdout, b"done\n");
}

#[test]
fn output_of_what_a_process_left_behind_is_kept_too() {
    let agent = Agent::start();
    let process = start(&agent, shell("(sleep 0.3; echo late) & echo early")).process;
    let (stdout, _, reply) = output(&agent, process, true);
    assert_eq!(stdout, b"early\n");
    assert!(matches!(reply, Reply::Exited(_)));
    eventually("the late line is kept", || {
        output(&agent, process, false).0 == b"early\nlate\n"
    });
}

#[test]
fn wrong_ids_and_closed_inputs_are_told() {
    let agent = Agent::start();
    let failure = agent.connect().ask_failing(&Request::Output {
        process: 9,
        follow: true,
        skip_kept: false,
    });
    assert_eq!(failure.kind, FailureKind::NotFound);
    let process = start(&agent, shell("sleep 30")).process;
    let mut client = agent.connect();
    client.send(&Request::Input {
        process,
        close: false,
    });
    client.send_frame(FrameKind::Input, b"x").unwrap();
    client.send_frame(FrameKind::InputEnd, b"").unwrap();
    let Frame::Reply(Reply::Failed(failure)) = client.receive() else {
        panic!("no failure")
    };
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    // The input that nobody took does not disturb the next request.
    assert!(matches!(client.ask(&Request::Ping), Reply::Pong { .. }));
}

#[test]
fn an_input_request_ends_with_its_process() {
    let agent = Agent::start();
    let exec = Exec {
        stdin: true,
        ..shell("sleep 0.2")
    };
    let process = start(&agent, exec).process;
    let mut client = agent.connect();
    client.send(&Request::Input {
        process,
        close: false,
    });
    let Frame::Reply(Reply::Failed(failure)) = client.receive() else {
        panic!("no failure")
    };
    assert!(failure.message.contains("has ended"), "{}", failure.message);
}

#[test]
fn input_that_ends_its_process_was_a_success() {
    let agent = Agent::start();
    let exec = Exec {
        stdin: true,
        ..shell("read line")
    };
    let process = start(&agent, exec).process;
    let mut client = agent.connect();
    client.send(&Request::Input {
        process,
        close: false,
    });
    client.send_frame(FrameKind::Input, b"line\n").unwrap();
    assert!(matches!(output(&agent, process, true).2, Reply::Exited(_)));
    client.send_frame(FrameKind::InputEnd, b"").unwrap();
    assert!(matches!(client.receive(), Frame::Reply(Reply::Done { .. })));
}

#[test]
fn running_ones_are_limited_and_ended_ones_forgotten() {
    let agent = Agent::start();
    for _ in 0..64 {
        start(&agent, shell("exec sleep 40"));
    }
    let failure = agent.connect().ask_failing(&Request::Start(shell("true")));
    assert_eq!(failure.kind, FailureKind::LimitReached);
    for process in 1..=64 {
        agent.connect().ask(&Request::Signal {
            process,
            signal: Signal::Sigkill,
        });
    }
    for _ in 0..300 {
        let mut started = None;
        eventually("there is room", || {
            started = match agent.connect().ask(&Request::Start(shell("true"))) {
                Reply::Started(info) => Some(info),
                _ => None,
            };
            started.is_some()
        });
        output(&agent, started.unwrap().process, true);
    }
    eventually("the oldest are forgotten", || {
        let listed = list(&agent);
        listed.len() <= 257 && listed[0].process > 64
    });
    let mut ids: Vec<u64> = list(&agent).iter().map(|info| info.process).collect();
    ids.dedup();
    assert!(ids.is_sorted());
}
