//! Files.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use agent_protocol::{
    Entry, EntryKind, Failure, FailureKind, FileRequest, Reply, Request, frame::FrameKind,
};

use crate::client::{Agent, Client, Frame, eventually};

impl Client {
    fn file(&mut self, request: FileRequest) -> Result<Entry, Failure> {
        match self.ask(&Request::File(request)) {
            Reply::Entry { entry, more: false } => Ok(entry),
            Reply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, path: &str, content: &[u8]) -> Result<Entry, Failure> {
        self.write_with(path, content, None, false)
    }

    fn write_with(
        &mut self,
        path: &str,
        content: &[u8],
        mode: Option<u32>,
        append: bool,
    ) -> Result<Entry, Failure> {
        let path = path.to_owned();
        self.send(&Request::File(FileRequest::Write { path, mode, append }));
        self.send_input(content);
        match self.receive_all().2.pop().unwrap() {
            Reply::Entry { entry, more: false } => Ok(entry),
            Reply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, path: &str, offset: u64, length: Option<u64>) -> Result<Vec<u8>, Failure> {
        let path = path.to_owned();
        self.send(&Request::File(FileRequest::Read {
            path,
            offset,
            length,
        }));
        let (content, _, replies) = self.receive_all();
        match &replies[..] {
            [
                Reply::Entry { more: true, .. },
                Reply::Done { truncated: false },
            ] => Ok(content),
            [Reply::Failed(failure)] => Err(failure.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self, path: &str, depth: u32, limit: u64) -> Result<(Vec<Entry>, bool), Failure> {
        let path = path.to_owned();
        self.send(&Request::File(FileRequest::List { path, depth, limit }));
        let mut all = Vec::new();
        for reply in self.receive_all().2 {
            match reply {
                Reply::Entries { entries } => all.extend(entries),
                Reply::Done { truncated } => return Ok((all, truncated)),
                Reply::Failed(failure) => return Err(failure),
                other => panic!("{other:?}"),
            }
        }
        unreachable!("the last reply is final")
    }
}

fn paths(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.path.as_str()).collect()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn stat(path: &str) -> FileRequest {
    FileRequest::Stat { path: path.into() }
}

fn remove(path: &str, recursive: bool) -> FileRequest {
    let path = path.into();
    FileRequest::Remove { path, recursive }
}

fn rename(source: &str, destination: &str, overwrite: bool) -> FileRequest {
    FileRequest::Move {
        source: source.into(),
        destination: destination.into(),
        overwrite,
    }
}

fn ask_done(client: &mut Client, request: FileRequest) {
    let reply = client.ask(&Request::File(request));
    assert_eq!(reply, Reply::Done { truncated: false });
}

/// Every byte value, and no pattern that a lost piece would keep.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33).to_le_bytes()[0]
    };
    (0..count).map(|_| next()).collect()
}

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
fn directories_are_made_with_parents_and_again() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let make = |path: &str, mode| FileRequest::MakeDirectory {
        path: path.into(),
        mode,
    };
    assert_eq!(
        client.file(make("a/b/c", Some(0o1777))).unwrap().mode,
        0o1777
    );
    assert_eq!(mode(agent.workdir().join("a/b")), 0o755);
    assert_eq!(
        client.file(make("a/b/c", Some(0o700))).unwrap().mode,
        0o1777
    );
    assert_eq!(
        client.file(make("/", None)).unwrap().kind,
        EntryKind::Directory
    );
    client.write("file", b"").unwrap();
    assert_eq!(
        client.file(make("file", None)).unwrap_err().kind,
        FailureKind::AlreadyExists
    );
    assert_eq!(
        client.file(make("file/x", None)).unwrap_err().kind,
        FailureKind::InvalidRequest
    );
    let failure = client.file(make("b", Some(0o70000))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
}

#[test]
fn moving_renames_and_replaces_only_when_asked() {
    let agent = Agent::start();
    let mut client = agent.connect();
    let work = agent.workdir();
    for path in ["one", "two", "dir/inner", "other/inner2"] {
        client.write(path, path.as_bytes()).unwrap();
    }
    assert_eq!(
        client.file(rename("one", "three", false)).unwrap().path,
        "three"
    );
    let failure = client.file(rename("three", "two", false)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::AlreadyExists);
    assert!(failure.message.contains("overwrite"), "{}", failure.message);
    client.file(rename("three", "two", true)).unwrap();
    assert_eq!(fs::read_to_string(work.join("two")).unwrap(), "one");
    // Directories over directories and files, which rename alone refuses.
    client.file(rename("dir", "other", true)).unwrap();
    assert_eq!(
        paths(&client.list("other", 1, 9).unwrap().0),
        ["other/inner"]
    );
    client.file(rename("other", "two", true)).unwrap();
    assert!(work.join("two/inner").exists());
    client.write("file", b"").unwrap();
    client.file(rename("file", "two", true)).unwrap();
    assert_eq!(client.list(".", 5, 9).unwrap().0.len(), 1);
    assert_eq!(
        client.file(rename("none", "x", true)).unwrap_err().kind,
        FailureKind::NotFound
    );
    assert_eq!(
        client.file(rename("two", "no/x", true)).unwrap_err().kind,
        FailureKind::NotFound
    );
    client.write("d/f", b"").unwrap();
    let failure = client.file(rename("d", "d/below", true)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let failure = client.file(rename("d/f", "d", true)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert!(work.join("d/f").exists());
}

#[test]
fn moving_works_over_file_systems() {
    let agent = Agent::start();
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        panic!("this test needs /dev/shm")
    };
    assert_ne!(
        fs::metadata(elsewhere.path()).unwrap().dev(),
        fs::metadata(agent.workdir()).unwrap().dev()
    );
    let mut client = agent.connect();
    client
        .write_with("tree/a/file", b"content", Some(0o640), false)
        .unwrap();
    let work = agent.workdir();
    symlink("nowhere", work.join("tree/link")).unwrap();
    fs::set_permissions(work.join("tree/a"), fs::Permissions::from_mode(0o500)).unwrap();
    let modified = fs::metadata(work.join("tree/a/file")).unwrap().mtime_nsec();
    let target = elsewhere.path().join("moved").to_str().unwrap().to_owned();
    client.file(rename("tree", &target, false)).unwrap();
    let moved = Path::new(&target);
    assert_eq!(fs::read_to_string(moved.join("a/file")).unwrap(), "content");
    assert_eq!(
        (mode(moved.join("a")), mode(moved.join("a/file"))),
        (0o500, 0o640)
    );
    assert_eq!(
        fs::metadata(moved.join("a/file")).unwrap().mtime_nsec(),
        modified
    );
    assert_eq!(
        fs::read_link(moved.join("link")).unwrap(),
        Path::new("nowhere")
    );
    assert!(!work.join("tree").exists());
    client.write("tree", b"file").unwrap();
    assert_eq!(
        client
            .file(rename("tree", &target, false))
            .unwrap_err()
            .kind,
        FailureKind::AlreadyExists
    );
    client.file(rename("tree", &target, true)).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "file");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

#[test]
fn removing_takes_trees_only_when_asked() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.write("tree/a/b", b"").unwrap();
    symlink("/etc", agent.workdir().join("tree/etc")).unwrap();
    let failure = client.file(remove("tree", false)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    assert!(failure.message.contains("recursive"), "{}", failure.message);
    ask_done(&mut client, remove("tree/etc", true));
    ask_done(&mut client, remove("tree", true));
    assert!(Path::new("/etc/passwd").exists());
    assert_eq!(
        client.file(remove("tree", true)).unwrap_err().kind,
        FailureKind::NotFound
    );
    for path in ["/", "tree/..", "."] {
        assert_eq!(
            client.file(remove(path, true)).unwrap_err().kind,
            FailureKind::InvalidRequest
        );
    }
}

#[test]
fn a_tree_of_twenty_thousand_levels_is_removed() {
    let agent = Agent::start();
    let mut folder: std::os::fd::OwnedFd = File::open(agent.workdir()).unwrap().into();
    for _ in 0..20_000 {
        rustix::fs::mkdirat(&folder, c"d", rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        folder = rustix::fs::openat(&folder, c"d", flags, rustix::fs::Mode::empty()).unwrap();
    }
    let mut client = agent.connect();
    // An open descriptor of the lowest level would make the kernel's part quadratic.
    drop(folder);
    // A listing stops where paths end.
    let (entries, truncated) = client.list(".", u32::MAX, 100_000).unwrap();
    assert!(truncated && entries.len() > 1000);
    ask_done(&mut client, remove("d", true));
    assert!(!agent.workdir().join("d").exists());
    assert!(
        agent.status("VmHWM") < 24 << 10,
        "{} KiB",
        agent.status("VmHWM")
    );
}

#[test]
fn permissions_change_by_name_and_number() {
    let agent = Agent::start();
    let mut client = agent.connect();
    client.write("file", b"").unwrap();
    let set = |mode, owner: Option<&str>, group: Option<&str>| FileRequest::SetPermissions {
        path: "file".into(),
        mode,
        owner: owner.map(Into::into),
        group: group.map(Into::into),
    };
    let entry = client
        .file(set(Some(0o4711), Some("nobody"), Some("4321")))
        .unwrap();
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o4711, 65534, 4321));
    assert_eq!(
        (entry.owner.as_str(), entry.group.as_str()),
        ("nobody", "4321")
    );
    assert_eq!(client.file(set(None, None, Some("root"))).unwrap().gid, 0);
    for wrong in [
        set(None, None, None),
        set(None, Some("no-such-user"), None),
        set(None, None, Some("-1")),
    ] {
        assert_eq!(
            client.file(wrong).unwrap_err().kind,
            FailureKind::InvalidRequest
        );
    }
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
