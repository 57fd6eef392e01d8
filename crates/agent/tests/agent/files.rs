//! Reading, writing, listing and telling about files.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    time::Duration,
};

use agent_protocol::{EntryKind, FailureKind, FileRequest, Reply, Request, frame::FrameKind};

use crate::{
    client::{Agent, Frame, eventually},
    file_client::{ask_done, bytes, mode, paths, remove, rename, stat},
};

#[test]
fn a_hundred_megabytes_go_both_ways_in_bounded_memory() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let content = bytes(100 << 20);
    let entry = client.write("big", &content).unwrap();
    assert_eq!((entry.size, entry.kind), (100 << 20, EntryKind::File));
    assert!(client.read("big", 0, None).unwrap() == content);
    let part = client.read("big", 12_345_678, Some(1_000_000)).unwrap();
    assert!(part == content[12_345_678..13_345_678]);
    assert!(client.read("big", 200 << 20, None).unwrap().is_empty());
    assert!(
        agent.status("VmHWM") < 24 << 10,
        "{} KiB",
        agent.status("VmHWM")
    );
}

#[test]
fn writing_makes_parents_and_keeps_what_is_replaced_in_mode_and_owner() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let entry = client.write("a/b/c.txt", b"one").unwrap();
    assert_eq!((entry.path.as_str(), entry.mode), ("a/b/c.txt", 0o644));
    let file = agent.workdir().join("a/b/c.txt");
    assert_eq!(mode(agent.workdir().join("a")), 0o755);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4750)).unwrap();
    std::os::unix::fs::chown(&file, Some(1234), Some(2345)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4750)).unwrap();
    let entry = client.write("a/b/c.txt", b"two").unwrap();
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o4750, 1234, 2345));
    assert_eq!(
        (entry.owner.as_str(), entry.group.as_str()),
        ("1234", "2345")
    );
    let entry = client
        .write_with("a/b/c.txt", b"", Some(0o600), false)
        .unwrap();
    assert_eq!((entry.mode, entry.size), (0o600, 0));
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn appending_extends() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.write_with("new/log", b"one\n", None, true).unwrap();
    client
        .write_with("new/log", b"two\n", Some(0o640), true)
        .unwrap();
    let log = agent.workdir().join("new/log");
    assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
    assert_eq!(mode(log), 0o640);
}

#[test]
fn links_are_followed_in_writing_as_a_shell_would() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let work = agent.workdir();
    client.write("real/file", b"old").unwrap();
    symlink("real/file", work.join("link")).unwrap();
    symlink("link", work.join("second")).unwrap();
    symlink("real/new", work.join("dangling")).unwrap();
    client.write("second", b"new").unwrap();
    client.write("dangling", b"made").unwrap();
    assert_eq!(fs::read_to_string(work.join("real/file")).unwrap(), "new");
    assert_eq!(fs::read_to_string(work.join("real/new")).unwrap(), "made");
    assert!(work.join("second").is_symlink());
    symlink("loop", work.join("loop")).unwrap();
    assert_eq!(
        client.write("loop", b"").unwrap_err().kind,
        FailureKind::InvalidRequest
    );
}

#[test]
fn an_upload_that_breaks_off_leaves_the_old_file() {
    let agent = Agent::start();
    agent.connect().write("file", b"old").unwrap();
    let mut client = agent.connect();
    client.send(&Request::File(FileRequest::Write {
        path: "file".into(),
        mode: None,
        append: false,
    }));
    client
        .send_frame(FrameKind::Input, b"half of the new")
        .unwrap();
    eventually("it has begun", || {
        fs::read_dir(agent.workdir()).unwrap().count() == 2
    });
    drop(client);
    eventually("nothing is left of it", || {
        fs::read_dir(agent.workdir()).unwrap().count() == 1
    });
    assert_eq!(fs::read(agent.workdir().join("file")).unwrap(), b"old");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let agent = Agent::start();
    let mount = agent.workdir().join("small");
    fs::create_dir(&mount).unwrap();
    let is_mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&mount)
        .status()
        .is_ok_and(|status| status.success());
    assert!(is_mounted, "this test needs root");
    let mut client = agent.connect();
    let failure = client.write("small/file", &bytes(3 << 20));
    let left = fs::read_dir(&mount).unwrap().count();
    let moved = {
        client.write("big", &bytes(2 << 20)).unwrap();
        client.file(rename("big", "small/big", false))
    };
    let left_after_move = fs::read_dir(&mount).unwrap().count();
    client.write("fits", b"content").unwrap();
    let fits = client.file(rename("fits", "small/fits", false));
    // Undone before anything is asserted.
    drop(std::process::Command::new("umount").arg(&mount).status());
    let failure = failure.unwrap_err();
    assert_eq!(failure.kind, FailureKind::LimitReached);
    assert!(failure.message.contains("no space"), "{}", failure.message);
    assert_eq!((left, left_after_move), (0, 0));
    assert_eq!(moved.unwrap_err().kind, FailureKind::LimitReached);
    assert_eq!(fits.unwrap().size, 7);
    assert!(!agent.workdir().join("fits").exists());
    assert!(agent.workdir().join("big").exists());
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let agent = Agent::start();
    let work = agent.workdir();
    rustix::fs::mkfifoat(rustix::fs::CWD, work.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    fs::create_dir(work.join("folder")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(work.join("sock")).unwrap();
    let mut client = agent.connect();
    for path in ["pipe", "folder", "sock", "/dev/zero", "/dev/tty"] {
        let failure = client.read(path, 0, None).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidRequest, "{failure:?}");
        let failure = client.write(path, b"x").unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidRequest, "{failure:?}");
        let failure = client.write_with(path, b"x", None, true).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidRequest, "{failure:?}");
    }
}

#[test]
fn hostile_paths_are_refused() {
    let agent = Agent::start();
    let work = agent.workdir();
    symlink("/proc/self/mem", work.join("memory")).unwrap();
    symlink("/proc/self/fd/3", work.join("socket")).unwrap();
    let long_name = "n".repeat(300);
    let long_path = "d/".repeat(3000);
    let mut client = agent.connect();
    for path in [
        "",
        "a\0b",
        &long_name,
        &long_path,
        "/proc/self/fd/3",
        "/proc/self/mem",
        "/proc/self/environ",
        "/proc/self/exe",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd/x",
        "/proc/thread-self/mem",
        "memory",
        "socket",
    ] {
        let kinds = [FailureKind::InvalidRequest, FailureKind::PermissionDenied];
        let failure = client.read(path, 0, None).unwrap_err();
        assert!(kinds.contains(&failure.kind), "read {path}: {failure:?}");
        for append in [false, true] {
            let failure = client.write_with(path, b"x", None, append).unwrap_err();
            assert!(kinds.contains(&failure.kind), "write {path}: {failure:?}");
        }
    }
    // Those of the system as a whole are useful and harmless.
    assert!(!client.read("/proc/cpuinfo", 0, None).unwrap().is_empty());
    assert_eq!(client.read("/proc/cpuinfo", 0, Some(5)).unwrap().len(), 5);
    let failure = client.write("/proc/cpuinfo", b"x").unwrap_err();
    assert_eq!(failure.kind, FailureKind::PermissionDenied);
    assert!(matches!(client.ask(&Request::Ping), Reply::Pong { .. }));
}

#[test]
fn a_file_that_grows_while_it_is_read_ends() {
    let agent = Agent::start();
    let path = agent.workdir().join("log");
    fs::write(&path, bytes(1 << 20)).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = File::options().append(true).open(&path).unwrap();
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                log.write_all(&[0; 4096]).unwrap();
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        let read = agent.connect().read("log", 0, None);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(read.unwrap().len() < 64 << 20);
    });
}

#[test]
fn listings_are_sorted_and_as_deep_as_asked() {
    let agent = Agent::start();
    let mut client = agent.connect();
    for path in [
        "tree/b/two",
        "tree/b/one",
        "tree/a",
        "tree/b/c/deep",
        "tree/b-c",
    ] {
        client.write(path, b"12345").unwrap();
    }
    symlink("b", agent.workdir().join("tree/link")).unwrap();
    let (entries, truncated) = client.list("tree", 1, 100).unwrap();
    assert_eq!(
        paths(&entries),
        ["tree/a", "tree/b", "tree/b-c", "tree/link"]
    );
    assert!(!truncated);
    assert_eq!(entries[0].size, 5);
    assert_eq!(
        (entries[3].kind, entries[3].target.as_deref()),
        (EntryKind::Symlink, Some("b"))
    );
    let (entries, _) = client.list("tree/", 9, 100).unwrap();
    let all = [
        "tree/a",
        "tree/b",
        "tree/b/c",
        "tree/b/c/deep",
        "tree/b/one",
        "tree/b/two",
        "tree/b-c",
        "tree/link",
    ];
    assert_eq!(paths(&entries), all);
    let (entries, truncated) = client.list("tree", 9, 4).unwrap();
    assert_eq!(paths(&entries), all[..4]);
    assert!(truncated);
    let (entries, truncated) = client.list("tree", 9, 8).unwrap();
    assert_eq!((entries.len(), truncated), (8, false));
    let (entries, _) = client.list("tree/link", 1, 100).unwrap();
    assert_eq!(
        paths(&entries),
        ["tree/link/c", "tree/link/one", "tree/link/two"]
    );
    assert_eq!(
        client.list("tree/a", 1, 9).unwrap_err().kind,
        FailureKind::InvalidRequest
    );
    assert_eq!(
        client.list("none", 1, 9).unwrap_err().kind,
        FailureKind::NotFound
    );
    assert!(client.list("/", 2, 3).unwrap().1);
}

#[test]
fn a_huge_directory_is_listed_in_bounded_memory() {
    let agent = Agent::start();
    let folder = agent.workdir().join("huge");
    fs::create_dir(&folder).unwrap();
    for number in 0..40_000 {
        File::create(folder.join(format!("{number:05}{}", "x".repeat(150)))).unwrap();
    }
    let mut client = agent.connect();
    let (entries, truncated) = client.list("huge", 3, 500).unwrap();
    assert_eq!((entries.len(), truncated), (500, true));
    assert!(entries[499].path.starts_with("huge/00499x"));
    let (entries, truncated) = client.list("huge", 1, u64::MAX).unwrap();
    assert!(truncated && entries.len() > 20_000);
    assert!(entries.is_sorted_by_key(|entry| entry.path.clone()));
    assert!(
        agent.status("VmHWM") < 40 << 10,
        "{} KiB",
        agent.status("VmHWM")
    );
    ask_done(&mut client, remove("huge", true));
}

#[test]
fn names_that_are_not_unicode_are_told_exactly() {
    let agent = Agent::start();
    let name = std::ffi::OsStr::new("work");
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xff");
    fs::write(agent.folder.path().join(name).join(odd), "x").unwrap();
    let (entries, _) = agent.connect().list(".", 1, 9).unwrap();
    assert_eq!(entries[0].path, "./a\u{fffd}");
    assert_eq!(entries[0].path_base64.as_deref(), Some("Li9h/w=="));
}

#[test]
fn stat_tells_and_does_not_follow_the_last_link() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.write("file", b"123").unwrap();
    symlink("file", agent.workdir().join("link")).unwrap();
    let entry = client.file(stat("file")).unwrap();
    let metadata = fs::metadata(agent.workdir().join("file")).unwrap();
    assert_eq!(
        entry.modified_ms,
        metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000
    );
    assert_eq!((entry.owner.as_str(), entry.uid), ("root", metadata.uid()));
    let entry = client.file(stat("link")).unwrap();
    assert_eq!(
        (entry.kind, entry.target.as_deref()),
        (EntryKind::Symlink, Some("file"))
    );
    assert_eq!(client.file(stat("/")).unwrap().kind, EntryKind::Directory);
    assert_eq!(
        client.file(stat("/dev/null")).unwrap().kind,
        EntryKind::Other
    );
    let failure = client.file(stat("none")).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::NotFound, "none: does not exist")
    );
    let failure = client.file(stat("file/below")).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
}

#[test]
fn a_failed_upload_leaves_the_connection_usable() {
    let agent = Agent::start();
    fs::create_dir(agent.workdir().join("folder")).unwrap();
    let mut client = agent.connect();
    for _ in 0..3 {
        let failure = client.write("folder", &bytes(2 << 20)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidRequest);
        client.write("fine", b"x").unwrap();
    }
    client.send(&Request::Ping);
    assert!(matches!(client.receive(), Frame::Reply(Reply::Pong { .. })));
}
