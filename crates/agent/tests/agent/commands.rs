//! Commands in the foreground.

use std::time::{Duration, Instant};

use agent_protocol::{Command, Exec, FailureKind, Reply, Request, frame::FrameKind};

use crate::client::{Agent, Frame, argv, eventually, is_running, shell};

#[test]
fn output_streams_and_exit_code_come_apart() {
    let ran = Agent::start().shell("echo out; echo err >&2; exit 7");
    assert_eq!((ran.text(), &*ran.stderr), ("out\n", &b"err\n"[..]));
    assert_eq!((ran.exit.code, ran.exit.signal), (7, None));
    assert!(!ran.exit.timed_out && !ran.exit.out_of_memory && !ran.exit.truncated);
}

#[test]
fn merged_output_keeps_its_order() {
    let agent = Agent::start();
    let exec = Exec {
        merge_output: true,
        ..shell("for i in 1 2 3; do echo o$i; echo e$i >&2; done")
    };
    let ran = agent.connect().run(&exec).unwrap();
    assert_eq!(ran.text(), "o1\ne1\no2\ne2\no3\ne3\n");
    assert!(ran.stderr.is_empty());
}

#[test]
fn an_agent_without_a_spawner_starts_programs_itself() {
    let agent = Agent::start_with(&[c"--direct"], &[]);
    let ran = agent.shell("echo out; echo err >&2; exit 7");
    assert_eq!((ran.text(), &*ran.stderr), ("out\n", &b"err\n"[..]));
    assert_eq!(ran.exit.code, 7);
    let parent = agent.shell("echo $PPID");
    assert_eq!(parent.text().trim(), agent.pid.to_string());
    let failure = agent.connect().run(&argv(&["no-such-program"]));
    assert_eq!(failure.unwrap_err().kind, FailureKind::NotFound);
    // As with one: not what the agent allows itself.
    let own = std::process::Command::new("sh")
        .args(["-c", "ulimit -Sn; ulimit -Hn"])
        .output()
        .unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    assert_eq!(agent.shell("ulimit -Sn; ulimit -Hn").text(), own);
    assert!(agent.shell("(sleep 0.1; exit 3) & wait $!").exit.code == 3);
}

#[test]
fn a_signal_ends_as_shells_report_it() {
    let ran = Agent::start().shell("kill -TERM $$");
    assert_eq!((ran.exit.code, ran.exit.signal), (143, Some(15)));
}

#[test]
fn environment_and_working_directory_are_merged_with_the_sandboxes() {
    let agent = Agent::start();
    let mut exec = shell("echo $FROM_IMAGE $MINE; pwd");
    exec.env.insert("MINE".into(), "mine".into());
    let workdir = agent.workdir();
    let text = |exec: &Exec| agent.connect().run(exec).unwrap().text().to_owned();
    assert_eq!(text(&exec), format!("image mine\n{}\n", workdir.display()));
    exec.env.insert("FROM_IMAGE".into(), "replaced".into());
    std::fs::create_dir(workdir.join("sub")).unwrap();
    exec.cwd = Some("sub".into());
    assert_eq!(
        text(&exec),
        format!("replaced mine\n{}/sub\n", workdir.display())
    );
    exec.cwd = Some("/".into());
    assert_eq!(text(&exec), "replaced mine\n/\n");
}

#[test]
fn what_cannot_be_started_is_told_with_its_name() {
    let agent = Agent::start();
    let fails = |exec: Exec| {
        let failure = agent.connect().run(&exec).unwrap_err();
        (failure.kind, failure.message)
    };
    let nowhere = Exec {
        cwd: Some("/nowhere".into()),
        ..shell("true")
    };
    let long = "x".repeat(200 << 10);
    for (exec, kind, word) in [
        (
            argv(&["no-such-program"]),
            FailureKind::NotFound,
            "no-such-program",
        ),
        (
            argv(&["/etc/passwd"]),
            FailureKind::PermissionDenied,
            "/etc/passwd",
        ),
        (argv(&[]), FailureKind::InvalidRequest, "empty"),
        (argv(&["a\0b"]), FailureKind::InvalidRequest, "NUL"),
        (
            argv(&["echo", &long]),
            FailureKind::InvalidRequest,
            "too long",
        ),
        (shell(&long), FailureKind::InvalidRequest, "too long"),
        (nowhere, FailureKind::NotFound, "/nowhere"),
    ] {
        let (found, message) = fails(exec);
        assert_eq!(found, kind, "{message}");
        assert!(message.contains(word), "{message}");
    }
    // In all over the kernel's limit, though each argument alone is not.
    let many = vec!["x".repeat(100 << 10); 30];
    let mut words = vec!["echo"];
    words.extend(many.iter().map(String::as_str));
    assert_eq!(fails(argv(&words)).0, FailureKind::InvalidRequest);
    assert_eq!(agent.shell("echo usable").text(), "usable\n");
}

#[test]
fn programs_are_found_in_the_path_of_the_command() {
    let agent = Agent::start();
    let program = agent.workdir().join("mine");
    std::fs::write(&program, "#!/bin/sh\necho found $1\n").unwrap();
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let mut exec = argv(&["mine", "it"]);
    exec.env.insert(
        "PATH".into(),
        format!("/nowhere:{}:/bin", agent.workdir().display()),
    );
    assert_eq!(agent.connect().run(&exec).unwrap().text(), "found it\n");
}

#[test]
fn input_reaches_the_command_and_ends() {
    let agent = Agent::start();
    let exec = Exec {
        stdin: true,
        ..shell("wc -c; read x || echo end")
    };
    let mut client = agent.connect();
    client.send(&Request::Exec(exec));
    client.send_input(&vec![b'x'; 1_000_000]);
    assert_eq!(client.finish_run().unwrap().text(), "1000000\nend\n");
    // Without input, standard input is empty.
    assert_eq!(agent.shell("wc -c").text(), "0\n");
}

#[test]
fn input_and_output_flow_at_once() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.send(&Request::Exec(Exec {
        stdin: true,
        ..shell("cat")
    }));
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut writer = crate::client::Client {
        stream: client.stream.try_clone().unwrap(),
    };
    let expected = sent.clone();
    let thread = std::thread::spawn(move || writer.send_input(&sent));
    let ran = client.finish_run().unwrap();
    thread.join().unwrap();
    assert!(ran.stdout == expected, "{} bytes", ran.stdout.len());
}

#[test]
fn input_nobody_reads_is_skipped_and_the_connection_stays_usable() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.send(&Request::Exec(Exec {
        stdin: true,
        ..shell("exec 0<&-; sleep 0.1; echo done")
    }));
    client.send_input(&vec![0; 3_000_000]);
    assert_eq!(client.finish_run().unwrap().text(), "done\n");
    assert_eq!(client.run(&shell("echo again")).unwrap().text(), "again\n");
}

#[test]
fn output_comes_as_it_is_written() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.send(&Request::Exec(Exec {
        stdin: true,
        ..shell("echo first; read line; echo second")
    }));
    // It does not go on before it gets a line, so this came before its end.
    assert!(matches!(client.receive(), Frame::Output(bytes) if bytes == b"first\n"));
    client.send_frame(FrameKind::Input, b"go\n").unwrap();
    assert_eq!(client.finish_run().unwrap().text(), "second\n");
}

#[test]
fn a_command_is_killed_with_its_group_when_its_time_is_over() {
    let agent = Agent::start();
    let exec = Exec {
        timeout_ms: Some(300),
        ..shell("echo before; sleep 50 & echo $!; wait")
    };
    let begun = Instant::now();
    let ran = agent.connect().run(&exec).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(ran.exit.timed_out);
    assert_eq!((ran.exit.code, ran.exit.signal), (124, Some(9)));
    let sleep = ran.text().lines().last().unwrap().to_owned();
    eventually("the sleep is gone", || !is_running(&sleep));
}

#[test]
fn an_endless_timeout_is_accepted() {
    let exec = Exec {
        timeout_ms: Some(u64::MAX),
        ..shell("echo ok")
    };
    assert_eq!(Agent::start().connect().run(&exec).unwrap().text(), "ok\n");
}

#[test]
fn closing_the_stream_kills_the_command() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.send(&Request::Exec(shell("echo $$; sleep 50 & wait")));
    let Frame::Output(pid) = client.receive() else {
        panic!("no pid")
    };
    let pid = String::from_utf8(pid).unwrap();
    assert!(is_running(&pid));
    drop(client);
    eventually("the command is gone", || !is_running(&pid));
}

#[test]
fn a_background_child_does_not_hold_up_the_answer_and_lives_on() {
    let agent = Agent::start();
    let begun = Instant::now();
    let ran = agent.shell(
        "(trap 'echo pipe >> log' PIPE; sleep 0.5; echo late; echo late >&2; echo survived >> log) & echo $!",
    );
    assert!(
        begun.elapsed() < Duration::from_millis(450),
        "{:?}",
        begun.elapsed()
    );
    assert!(is_running(ran.text()));
    let log = agent.workdir().join("log");
    eventually("it wrote to its pipes and went on", || {
        std::fs::read_to_string(&log).is_ok_and(|log| log == "survived\n")
    });
}

#[test]
fn a_child_that_floods_the_inherited_pipe_does_not_hold_up_the_answer() {
    let agent = Agent::start();
    let begun = Instant::now();
    let ran = agent.shell("timeout 20 yes & echo $!");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(ran.exit.code, 0);
    assert_eq!(agent.shell("echo usable").text(), "usable\n");
}

#[test]
fn a_slow_reader_slows_the_command_and_costs_no_memory() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.send(&Request::Exec(Exec {
        timeout_ms: Some(3000),
        ..shell("yes")
    }));
    // Nothing is read until its time is over.
    std::thread::park_timeout(Duration::from_millis(1500));
    assert!(
        agent.status("VmRSS") < 16 << 10,
        "{} KiB",
        agent.status("VmRSS")
    );
    let ran = client.finish_run().unwrap();
    assert!(ran.exit.timed_out);
}

#[test]
fn a_hundred_megabytes_of_output_arrive() {
    let agent = Agent::start();
    let ran = agent.shell("head -c 104857600 /dev/zero");
    assert_eq!(ran.stdout.len(), 100 << 20);
    assert!(
        agent.status("VmHWM") < 24 << 10,
        "{} KiB",
        agent.status("VmHWM")
    );
}

#[test]
fn a_removed_working_directory_is_named() {
    let agent = Agent::start();
    agent.connect().ask(&Request::Ping);
    std::fs::remove_dir(agent.workdir()).unwrap();
    let failure = agent.connect().run(&shell("true")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(failure.message.contains("work"), "{}", failure.message);
}

#[test]
fn the_command_has_clean_signals_descriptors_and_a_session() {
    let agent = Agent::start();
    let ran = agent.shell(
        "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | tr '\\n' ' '; cat /proc/self/oom_score_adj; ps -o sid= -p $$ | tr -d ' '; echo $$",
    );
    let lines: Vec<&str> = ran.text().lines().collect();
    assert!(lines[0].ends_with("0000000000000000"), "{}", lines[0]);
    assert!(lines[1].ends_with("0000000000000000"), "{}", lines[1]);
    assert_eq!(lines[2], "0 1 2 3 500", "3 is `ls` reading the folder");
    assert_eq!(lines[3], lines[4]);
}

#[test]
fn out_of_memory_is_told_when_the_counter_moves() {
    let mut counter = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut counter, b"oom_kill 3\n").unwrap();
    let file = std::fs::File::open(counter.path()).unwrap();
    let agent = Agent::start_with(&[c"--oom-fd", c"4"], &[std::os::fd::AsFd::as_fd(&file)]);
    assert!(!agent.shell("true").exit.out_of_memory);
    let line = format!("echo oom_kill 4 > {}; kill -9 $$", counter.path().display());
    let ran = agent.shell(&line);
    assert!(ran.exit.out_of_memory);
    assert_eq!(ran.exit.code, 137);
    assert!(!agent.shell("true").exit.out_of_memory);
}

#[test]
fn requests_are_answered_in_turn_on_one_connection() {
    let agent = Agent::start();
    let mut client = agent.connect();
    for number in 0..20 {
        let ran = client.run(&shell(&format!("echo {number}"))).unwrap();
        assert_eq!(ran.text(), format!("{number}\n"));
        assert!(matches!(
            client.ask(&Request::Ping),
            Reply::Pong { version: 1, .. }
        ));
    }
    let failure = client.run(&Exec {
        command: Command::Argv(vec!["nope".into()]),
        ..shell("")
    });
    assert!(failure.is_err());
    assert!(matches!(
        client.ask(&Request::Ping),
        Reply::Pong { version: 1, .. }
    ));
}
