use super::*;
use std::{
    ffi::CStr,
    io::Read,
    os::fd::{AsFd, AsRawFd},
};

/// What `/bin/sh -c script` prints, with `setup` applied.
fn shell(script: &CStr, setup: impl FnOnce(&mut Program<'_>)) -> (String, Ended) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut program = Program {
        candidates: &[c"/nowhere/sh", c"/bin/sh"],
        arguments: &[c"sh", c"-c", script],
        environment: &[c"A=b c"],
        directory: Some(c"/"),
        descriptors: &[(writer.as_fd(), 1), (reader.as_fd(), 7)],
        cgroups: &[],
        oom_score_adj: Some(c"500"),
        open_files: None,
        new_session: true,
        sibling: false,
        user: None,
        terminal: false,
        announce: None,
    };
    setup(&mut program);
    let pid = spawn(&program).unwrap();
    drop(writer);
    let mut output = String::new();
    let mut reader = reader;
    reader.read_to_string(&mut output).unwrap();
    (output, reap(pid).unwrap())
}

#[test]
fn a_program_gets_what_was_asked_for() {
    let script =
        c"echo \"$A\"; pwd; cat /proc/self/oom_score_adj; ls /proc/self/fd | tr '\\n' ' '; exit 3";
    let (output, ended) = shell(script, |_| {});
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..3], ["b c", "/", "500"]);
    // 0 is inherited, 1 and 7 given; 2 inherited; 3 is `ls` reading the folder.
    assert_eq!(lines[3].trim(), "0 1 2 3 7");
    assert_eq!(ended, Ended::Exited(3));
}

#[test]
fn signals_are_reset_in_the_program() {
    // The test program itself ignores SIGPIPE, as every Rust program does.
    let script = c"grep -E 'Sig(Blk|Ign)' /proc/self/status | tr -d '\\n\\t '; kill -9 $$";
    let (output, ended) = shell(script, |_| {});
    assert_eq!(output, "SigBlk:0000000000000000SigIgn:0000000000000000");
    assert_eq!(ended, Ended::Signalled(9));
}

#[test]
fn the_failed_step_is_told() {
    let fails = |setup: &dyn Fn(&mut Program<'_>)| {
        let mut program = Program {
            candidates: &[c"/bin/true"],
            arguments: &[c"true"],
            environment: &[],
            directory: None,
            descriptors: &[],
            cgroups: &[],
            oom_score_adj: None,
            open_files: None,
            new_session: false,
            sibling: false,
            user: None,
            terminal: false,
            announce: None,
        };
        setup(&mut program);
        let error = spawn(&program).unwrap_err();
        (error.step, error.source.raw_os_error().unwrap())
    };
    assert_eq!(
        fails(&|program| program.directory = Some(c"/nowhere")),
        (SpawnStep::Directory, libc::ENOENT)
    );
    assert_eq!(
        fails(&|program| program.candidates = &[c"/nowhere", c"/etc/passwd", c"/nowhere"]),
        (SpawnStep::Execute, libc::EACCES)
    );
    let null = std::fs::File::open("/dev/null").unwrap();
    let joined = [null.as_fd()];
    let mut program = Program {
        candidates: &[c"/bin/true"],
        arguments: &[c"true"],
        environment: &[],
        directory: None,
        descriptors: &[],
        cgroups: &joined,
        oom_score_adj: None,
        open_files: None,
        new_session: false,
        sibling: false,
        user: None,
        terminal: false,
        announce: None,
    };
    assert_eq!(spawn(&program).unwrap_err().step, SpawnStep::Cgroup);
    program.cgroups = &[];
    let pid = spawn(&program).unwrap();
    assert!(is_child(pid));
    assert!(matches!(
        try_reap(pid).unwrap(),
        None | Some(Ended::Exited(0))
    ));
    if is_child(pid) {
        assert_eq!(reap(pid).unwrap(), Ended::Exited(0));
    }
    assert!(try_reap(pid).is_err());
    assert!(!is_child(pid));
}

#[test]
fn descriptors_that_swap_places_arrive() {
    let (first, second) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let numbers = (first.as_raw_fd(), second.as_raw_fd());
    let swapped = [(first.as_fd(), numbers.1), (second.as_fd(), numbers.0)];
    let script = std::ffi::CString::new(format!(
        "echo one >&{}; echo two >&{}",
        numbers.1, numbers.0
    ))
    .unwrap();
    let arguments = [c"sh", c"-c", script.as_c_str()];
    let program = Program {
        candidates: &[c"/bin/sh"],
        arguments: &arguments,
        environment: &[],
        directory: None,
        descriptors: &swapped,
        cgroups: &[],
        oom_score_adj: None,
        open_files: None,
        new_session: true,
        sibling: false,
        user: None,
        terminal: false,
        announce: None,
    };
    assert_eq!(reap(spawn(&program).unwrap()).unwrap(), Ended::Exited(0));
    for (mut file, text) in [(first, "one\n"), (second, "two\n")] {
        use std::io::Seek;
        file.rewind().unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), text);
    }
}

#[test]
fn inherited_descriptors_are_handed_out_once() {
    assert!(take_inherited(1).is_err());
    assert!(take_inherited(9999).is_err());
    let file = tempfile::tempfile().unwrap();
    let number = std::os::fd::IntoRawFd::into_raw_fd(file);
    let _file = take_inherited(number).unwrap();
    assert!(take_inherited(number).is_err());
}

#[test]
fn the_process_id_is_announced_before_the_program_runs() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut announced = |candidates: &[&CStr]| {
        let program = Program {
            candidates,
            arguments: &[c"true"],
            environment: &[],
            directory: None,
            descriptors: &[],
            cgroups: &[],
            oom_score_adj: None,
            open_files: None,
            new_session: false,
            sibling: false,
            user: None,
            terminal: false,
            announce: Some(writer.as_fd()),
        };
        let result = spawn(&program);
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).unwrap();
        (result, i32::from_le_bytes(bytes))
    };
    let (result, pid) = announced(&[c"/bin/true"]);
    assert_eq!(result.as_ref().unwrap().as_raw_pid(), pid);
    reap(result.unwrap()).unwrap();
    let (result, pid) = announced(&[c"/nowhere"]);
    assert!(result.is_err() && pid > 1);
}

#[test]
fn a_program_runs_as_another_user_with_its_groups() {
    if !rustix::process::geteuid().is_root() {
        // Only root may become somebody else.
        return;
    }
    let script = c"grep -E '^(Uid|Gid|Groups|CapEff)' /proc/self/status";
    let (text, ended) = shell(script, |program| {
        program.user = Some(UserIds {
            uid: 7,
            gid: 8,
            groups: &[9, 10],
        });
    });
    assert_eq!(ended, Ended::Exited(0));
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(
        words.join(" "),
        "Uid: 7 7 7 7 Gid: 8 8 8 8 Groups: 9 10 CapEff: 0000000000000000"
    );
}
