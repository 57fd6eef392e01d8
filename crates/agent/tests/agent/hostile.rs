//! Workloads that do their worst.

use std::time::{Duration, Instant};

use agent_protocol::{FailureKind, Reply, Request};

use crate::client::{Agent, argv, eventually, is_running, shell};

/// The process id of the agent's spawner.
fn spawner(agent: &Agent) -> i32 {
    let is_spawner = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(9).any(|part| part == b"--spawner")
    };
    let mut found = None;
    // Its command line shows a moment after it was started.
    eventually("there is a spawner", || {
        found = agent.children().into_iter().find(is_spawner);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_killed_spawner_is_replaced() {
    let agent = Agent::start();
    for _ in 0..3 {
        let killed = spawner(&agent).to_string();
        // Perhaps before the spawner has said that this command runs.
        assert_eq!(
            agent.shell(&format!("kill -9 {killed}; echo sent")).text(),
            "sent\n"
        );
        eventually("it is gone", || !is_running(&killed));
        assert_eq!(agent.shell("echo usable").text(), "usable\n");
    }
}

#[test]
fn a_stopped_spawner_delays_but_does_not_hang() {
    let agent = Agent::start();
    let stopped = spawner(&agent);
    agent.shell(&format!("(sleep 0.2; kill -STOP {stopped}) &"));
    let stat = || std::fs::read_to_string(format!("/proc/{stopped}/stat")).unwrap();
    eventually("it is stopped", || stat().contains(") T "));
    let begun = Instant::now();
    let failure = agent.connect().run(&shell("true")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(agent.shell("echo usable").text(), "usable\n");
}

#[test]
fn orphans_are_reaped() {
    let agent = Agent::start();
    // Each subshell's child loses its parent and ends a little later.
    agent.shell("for i in $(seq 300); do (sleep 0.1 &) ; done");
    eventually("only the spawner is left", || agent.children().len() <= 1);
    assert_eq!(agent.shell("echo usable").text(), "usable\n");
}

#[test]
fn exits_are_told_to_the_right_requests_while_orphans_end() {
    let agent = Agent::start();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let agent = &agent;
            scope.spawn(move || {
                for number in 0..40 {
                    let code = (thread * 40 + number) % 200;
                    let ran = agent.shell(&format!("(true &); (true &); exit {code}"));
                    assert_eq!(ran.exit.code, code);
                }
            });
        }
    });
    eventually("only the spawner is left", || agent.children().len() <= 1);
}

#[test]
fn a_failed_start_leaves_no_process_and_no_descriptor() {
    let agent = Agent::start();
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", agent.pid))
            .unwrap()
            .count()
    };
    agent.shell("true");
    let before = descriptors();
    for _ in 0..100 {
        assert!(agent.connect().run(&argv(&["no-such-program"])).is_err());
        assert!(agent.connect().run(&shell("true")).is_ok());
    }
    eventually("all are closed", || descriptors() <= before + 1);
    eventually("all are reaped", || agent.children().len() <= 1);
}

#[test]
fn the_agent_cannot_be_looked_into() {
    let agent = Agent::start();
    // As somebody else than the host's root, who may do everything.
    let pid = agent.pid;
    let line = format!(
        "setpriv --reuid 65534 --clear-groups --inh-caps=-all --bounding-set=-all cat /proc/{pid}/environ"
    );
    let ran = agent.shell(&line);
    assert_ne!(ran.exit.code, 0);
    assert!(ran.stdout.is_empty());
    let owner = std::fs::metadata(format!("/proc/{pid}/mem")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
    let dumpable = agent.shell("kill -0 $PPID; echo usable");
    assert_eq!(dumpable.text(), "usable\n");
}

#[test]
fn at_rest_the_agent_is_small() {
    let agent = Agent::start();
    agent.connect().ask(&Request::Ping);
    agent.shell("head -c 3000000 /dev/zero");
    agent
        .connect()
        .ask(&Request::Start(shell("head -c 3000000 /dev/zero")));
    eventually("the threads have ended", || agent.status("Threads") <= 4);
    assert!(
        agent.status("VmRSS") < 12 << 10,
        "{} KiB",
        agent.status("VmRSS")
    );
}

#[test]
fn many_at_once_all_get_their_own_answers() {
    let agent = Agent::start();
    std::thread::scope(|scope| {
        for number in 0..40 {
            let agent = &agent;
            scope.spawn(move || {
                let mut client = agent.connect();
                for round in 0..10 {
                    let ran = client
                        .run(&shell(&format!("echo {number}.{round}")))
                        .unwrap();
                    assert_eq!(ran.text(), format!("{number}.{round}\n"));
                }
                assert!(matches!(client.ask(&Request::Ping), Reply::Pong { .. }));
            });
        }
    });
}
