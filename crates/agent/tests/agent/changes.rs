//! Making, moving and removing files, and their permissions.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use agent_protocol::{EntryKind, FailureKind, FileRequest};

use crate::{
    client::Agent,
    file_client::{ask_done, mode, paths, remove, rename},
};

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
