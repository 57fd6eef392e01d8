//! Terminals, users, tags and the environment of programs.

use std::collections::BTreeMap;

use agent_protocol::{
    Command, Exec, FailureKind, ProcessInfo, Reply, Request, Signal, TtySize, frame::FrameKind,
};

use crate::client::{Agent, Client, Frame, argv, eventually, is_running, shell};

fn start(agent: &Agent, exec: &Exec) -> ProcessInfo {
    match agent.connect().ask(&Request::Start(exec.clone())) {
        Reply::Started(info) => info,
        other => panic!("{other:?}"),
    }
}

fn terminal(exec: Exec) -> Exec {
    Exec {
        tty: Some(TtySize { cols: 90, rows: 30 }),
        ..exec
    }
}

fn follow(agent: &Agent, process: u64, skip_kept: bool) -> Client {
    let mut client = agent.connect();
    client.send(&Request::Output {
        process,
        follow: true,
        skip_kept,
    });
    client
}

fn finish(mut client: Client) -> (String, i32) {
    let (out, err, mut replies) = client.receive_all();
    assert!(err.is_empty());
    let Some(Reply::Exited(exit)) = replies.pop() else {
        panic!("it has not ended")
    };
    (String::from_utf8(out).unwrap(), exit.code)
}

fn type_in(agent: &Agent, process: u64, bytes: &[u8], close: bool) {
    let mut client = agent.connect();
    client.send(&Request::Input { process, close });
    client.send_frame(FrameKind::Input, bytes).unwrap();
    client.send_frame(FrameKind::InputEnd, b"").unwrap();
    assert!(matches!(client.receive(), Frame::Reply(Reply::Done { .. })));
}

#[test]
fn a_terminal_has_a_size_a_name_and_a_controlling_process() {
    let agent = Agent::start();
    let exec = terminal(shell(
        "stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2; cat </dev/tty; exit 5",
    ));
    let info = start(&agent, &exec);
    assert_eq!(info.tty, Some(TtySize { cols: 90, rows: 30 }));
    type_in(&agent, info.process, b"word\n", true);
    let (out, code) = finish(follow(&agent, info.process, false));
    assert_eq!(code, 5, "{out}");
    let out = out.replace('\r', "");
    assert!(out.contains("30 90\nxterm-256color\n"), "{out}");
    // The terminal's echo, and what cat wrote.
    assert_eq!(out.matches("word\n").count(), 2, "{out}");
}

#[test]
fn an_interactive_shell_is_resized_interrupted_and_left() {
    let agent = Agent::start();
    let mut exec = terminal(argv(&["bash", "--norc", "-i"]));
    exec.env = BTreeMap::from([
        ("TERM".to_owned(), "dumb".to_owned()),
        ("PS1".to_owned(), "> ".to_owned()),
    ]);
    let process = start(&agent, &exec).process;
    let seen = |text: &str| {
        let mut client = agent.connect();
        client.send(&Request::Output {
            process,
            follow: false,
            skip_kept: false,
        });
        let (out, _, _) = client.receive_all();
        String::from_utf8_lossy(&out).contains(text)
    };
    eventually("the prompt", || seen("> "));
    let size = TtySize {
        cols: 120,
        rows: 40,
    };
    let resized = agent.connect().ask(&Request::ResizeTty { process, size });
    assert_eq!(resized, Reply::Done { truncated: false });
    type_in(&agent, process, b"stty size; echo $TERM\n", false);
    eventually("the new size", || seen("40 120\r\ndumb"));
    // Told by the program in the foreground itself, which the interrupt is for.
    let sleeper = b"sh -c 'echo a\"\"sleep; exec sleep 1000'\n";
    type_in(&agent, process, sleeper, false);
    eventually("it sleeps", || seen("asleep"));
    type_in(&agent, process, b"\x03", false);
    let follower = follow(&agent, process, true);
    type_in(&agent, process, b"echo a; exit 3\n", false);
    let (out, code) = finish(follower);
    assert_eq!(code, 3);
    assert!(!out.contains("40 120"), "{out}");
}

#[test]
fn the_last_words_on_a_terminal_are_not_lost() {
    let agent = Agent::start();
    for _ in 0..20 {
        let exec = terminal(shell("seq 1 3000; echo last"));
        let (out, _) = finish(follow(&agent, start(&agent, &exec).process, false));
        assert!(out.ends_with("3000\r\nlast\r\n"), "{}", out.len());
    }
}

#[test]
fn a_terminal_ends_with_its_process() {
    let agent = Agent::start();
    let exec = terminal(shell("sleep 1000 & echo $!; trap '' HUP; read x"));
    let process = start(&agent, &exec).process;
    let mut follower = follow(&agent, process, false);
    let Frame::Output(pid) = follower.receive() else {
        panic!("no output")
    };
    let pid = String::from_utf8(pid).unwrap();
    agent.connect().ask(&Request::Signal {
        process,
        signal: Signal::Sigkill,
    });
    assert_eq!(finish(follower).1, 137);
    eventually("what it left is gone", || !is_running(&pid));
    let failure = agent.connect().ask_failing(&Request::ResizeTty {
        process: start(&agent, &shell("sleep 10")).process,
        size: TtySize { cols: 1, rows: 1 },
    });
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let mut none = terminal(shell("true"));
    none.tty = Some(TtySize { cols: 0, rows: 1 });
    let failure = agent.connect().ask_failing(&Request::Start(none));
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let failure = agent.connect().run(&terminal(shell("true"))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
}

#[test]
fn scripts_run_in_bash() {
    let agent = Agent::start();
    let mut exec = Exec {
        command: Command::Script("a=(1 2 3); [[ ${#a[@]} == 3 ]] && echo $0".to_owned()),
        ..Exec::default()
    };
    let ran = agent.connect().run(&exec).unwrap();
    assert!(ran.text().ends_with("bash\n"), "{ran:?}");
    exec.command = Command::Script("echo $0".to_owned());
    exec.env
        .insert("PATH".to_owned(), "/nonexistent".to_owned());
    assert_eq!(agent.connect().run(&exec).unwrap().text(), "/bin/sh\n");
}

#[test]
fn programs_run_as_other_users() {
    let agent = Agent::start();
    let as_user = |user: &str, line: &str| {
        agent.connect().run(&Exec {
            user: Some(user.to_owned()),
            ..shell(line)
        })
    };
    let words = "id -un; id -u; id -g; echo $HOME $USER $LOGNAME; echo here >/dev/stdout; \
                 grep -c '^CapEff:.*0000000000000000$' /proc/self/status";
    let ran = as_user("daemon", words).unwrap();
    assert_eq!(
        ran.text(),
        "daemon\n1\n1\n/usr/sbin daemon daemon\nhere\n1\n",
        "{ran:?}"
    );
    assert_eq!(as_user("1", "id -un").unwrap().text(), "daemon\n");
    assert_eq!(
        as_user("54321", "id -u; echo $HOME").unwrap().text(),
        "54321\n/\n"
    );
    // In a group by its line of /etc/group alone.
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let member = groups.lines().find_map(|line| {
        let members = line.rsplit(':').next()?;
        let user = members.split(',').next().filter(|user| !user.is_empty())?;
        Some((user.to_owned(), line.split(':').next()?.to_owned()))
    });
    if let Some((user, group)) = member {
        let ran = as_user(&user, "id -Gn").unwrap();
        assert!(ran.text().split_whitespace().any(|name| name == group));
    }
    let failure = as_user("nobody-here", "true").unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert!(failure.message.contains("nobody-here"));
    let on_terminal = Exec {
        user: Some("daemon".to_owned()),
        ..terminal(shell("id -un >/dev/tty"))
    };
    let (out, code) = finish(follow(&agent, start(&agent, &on_terminal).process, false));
    assert_eq!((out.as_str(), code), ("daemon\r\n", 0));
}

#[test]
fn tags_are_unique_among_what_runs() {
    let agent = Agent::start();
    let tagged = |line: &str| Exec {
        tag: Some("server".to_owned()),
        ..shell(line)
    };
    let info = start(&agent, &tagged("sleep 100"));
    assert_eq!(info.tag.as_deref(), Some("server"));
    let again = Request::Start(tagged("true"));
    assert_eq!(
        agent.connect().ask_failing(&again).kind,
        FailureKind::AlreadyExists
    );
    agent.connect().ask(&Request::Signal {
        process: info.process,
        signal: Signal::Sigkill,
    });
    finish(follow(&agent, info.process, false));
    start(&agent, &tagged("true"));
    let empty = Request::Start(Exec {
        tag: Some(String::new()),
        ..shell("true")
    });
    assert_eq!(
        agent.connect().ask_failing(&empty).kind,
        FailureKind::InvalidRequest
    );
}

#[test]
fn the_environment_is_changed_for_what_starts_later() {
    let agent = Agent::start();
    let change = |set: &[(&str, &str)], unset: &[&str]| Request::SetEnvironment {
        set: set
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        unset: unset.iter().map(|name| (*name).to_owned()).collect(),
    };
    let reply = agent
        .connect()
        .ask(&change(&[("NEW", "a b")], &["FROM_IMAGE"]));
    assert_eq!(reply, Reply::Done { truncated: false });
    let line = "echo \"$NEW|$FROM_IMAGE|\"";
    assert_eq!(agent.shell(line).text(), "a b||\n");
    let failure = agent.connect().ask_failing(&change(&[("A=B", "")], &[]));
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert_eq!(agent.shell(line).text(), "a b||\n");
}

#[test]
fn the_disk_is_measured() {
    let agent = Agent::start();
    let Reply::Disk {
        total_bytes,
        used_bytes,
    } = agent.connect().ask(&Request::Disk)
    else {
        panic!("no disk")
    };
    assert!(used_bytes > 0 && used_bytes <= total_bytes);
}

#[test]
fn programs_may_have_as_many_files_open_as_by_custom() {
    let agent = Agent::start();
    let own = std::process::Command::new("sh")
        .args(["-c", "ulimit -Sn; ulimit -Hn"])
        .output()
        .unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    assert_eq!(agent.shell("ulimit -Sn; ulimit -Hn").text(), own);
}
