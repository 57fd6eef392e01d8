//! Searching files and replacing texts in them.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use agent_protocol::{FailureKind, FileRequest, Match, ReplaceOutcome, Reply, Request};

use crate::client::Agent;

fn grep_request(path: &str, pattern: &str, limit: u64) -> Request {
    Request::File(FileRequest::Grep {
        path: path.to_owned(),
        pattern: pattern.to_owned(),
        limit,
    })
}

fn glob_request(path: &str, pattern: &str, limit: u64) -> Request {
    Request::File(FileRequest::Glob {
        path: path.to_owned(),
        pattern: pattern.to_owned(),
        limit,
    })
}

/// Matches, and whether there are more.
fn grep(agent: &Agent, path: &str, pattern: &str, limit: u64) -> (Vec<Match>, bool) {
    let mut client = agent.connect();
    client.send(&grep_request(path, pattern, limit));
    let (_, _, mut replies) = client.receive_all();
    let Some(Reply::Done { truncated }) = replies.pop() else {
        panic!("the search has not ended well")
    };
    let matches = replies.into_iter().flat_map(|reply| match reply {
        Reply::Matches { matches } => matches,
        other => panic!("{other:?}"),
    });
    (matches.collect(), truncated)
}

/// Paths, and whether there are more.
fn glob(agent: &Agent, path: &str, pattern: &str, limit: u64) -> (Vec<String>, bool) {
    let mut client = agent.connect();
    client.send(&glob_request(path, pattern, limit));
    let (_, _, mut replies) = client.receive_all();
    let Some(Reply::Done { truncated }) = replies.pop() else {
        panic!("the search has not ended well")
    };
    let entries = replies.into_iter().flat_map(|reply| match reply {
        Reply::Entries { entries } => entries,
        other => panic!("{other:?}"),
    });
    (entries.map(|entry| entry.path).collect(), truncated)
}

fn replace(agent: &Agent, paths: &[&str], pattern: &str, by: &str) -> Vec<ReplaceOutcome> {
    let request = Request::File(FileRequest::Replace {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        pattern: pattern.to_owned(),
        replacement: by.to_owned(),
    });
    match agent.connect().ask(&request) {
        Reply::Replaced { outcomes } => outcomes,
        other => panic!("{other:?}"),
    }
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn lines_are_found_in_text_files_below() {
    let agent = Agent::start();
    let folder = agent.workdir();
    write(
        &folder,
        "t/a.txt",
        "one\nneedle two\r\n\nthree needle needle\n",
    );
    write(&folder, "t/b/c.txt", "needle without end");
    write(&folder, "t/binary", b"needle\0");
    write(
        &folder,
        "t/large",
        [vec![b'x'; 600_000], b"needle\nn\xffeedle needle".to_vec()].concat(),
    );
    symlink(folder.join("t/a.txt"), folder.join("t/link")).unwrap();
    symlink("/", folder.join("t/b/root")).unwrap();
    agent.shell("mkfifo t/pipe");
    let (found, truncated) = grep(&agent, "t", "needle", 100);
    let places: Vec<(&str, u64)> = found.iter().map(|m| (m.path.as_str(), m.line)).collect();
    let expected = [
        ("t/a.txt", 2),
        ("t/a.txt", 4),
        ("t/b/c.txt", 1),
        ("t/large", 1),
        ("t/large", 2),
    ];
    assert_eq!((&places[..], truncated), (&expected[..], false));
    assert_eq!(found[0].text, "needle two");
    assert!(found[3].text.starts_with("xxx") && found[3].text.ends_with('…'));
    assert_eq!(found[4].text, "n\u{fffd}eedle needle");
    let (found, truncated) = grep(&agent, "t", "needle", 2);
    assert_eq!((found.len(), truncated), (2, true));
    let (found, truncated) = grep(&agent, "t/a.txt", "three", 1);
    assert_eq!(
        (found[0].line, found[0].path.as_str(), truncated),
        (4, "t/a.txt", false)
    );
    assert_eq!(grep(&agent, "t", "no such text", 9), (vec![], false));
}

#[test]
fn files_of_the_kernel_are_not_searched() {
    let agent = Agent::start();
    for path in ["/proc/self", "/proc/1/environ"] {
        let failure = agent.connect().ask_failing(&grep_request(path, "PATH", 10));
        let kinds = [FailureKind::InvalidRequest, FailureKind::PermissionDenied];
        assert!(kinds.contains(&failure.kind), "{failure:?}");
    }
    let (found, _) = glob(&agent, "/", "self", 1000);
    assert!(
        found.iter().all(|path| !path.starts_with("/proc/")),
        "{found:?}"
    );
}

#[test]
fn names_are_found_by_pattern() {
    let agent = Agent::start();
    let folder = agent.workdir();
    for name in [
        "t/a.rs",
        "t/b.txt",
        "t/sub/c.rs",
        "t/sub/.hidden.rs",
        "t/sub/x[1].rs",
    ] {
        write(&folder, name, "");
    }
    fs::create_dir(folder.join("t/dir.rs")).unwrap();
    let found = |pattern: &str| glob(&agent, "t", pattern, 100).0;
    let all = [
        "t/a.rs",
        "t/dir.rs",
        "t/sub/.hidden.rs",
        "t/sub/c.rs",
        "t/sub/x[1].rs",
    ];
    assert_eq!(found("*.rs"), all);
    assert_eq!(found("**/*.rs"), all);
    assert_eq!(found("?.{rs,txt}"), ["t/a.rs", "t/b.txt", "t/sub/c.rs"]);
    assert_eq!(found("[ab].*"), ["t/a.rs", "t/b.txt"]);
    assert_eq!(found("sub"), ["t/sub"]);
    assert_eq!(found("none*"), Vec::<String>::new());
    assert_eq!(
        glob(&agent, "t", "*.rs", 2),
        (vec!["t/a.rs".into(), "t/dir.rs".into()], true)
    );
    for (path, pattern) in [("t", ""), ("t", "a/b")] {
        let failure = agent.connect().ask_failing(&glob_request(path, pattern, 9));
        assert_eq!(failure.kind, FailureKind::InvalidRequest, "{pattern}");
    }
    let failure = agent.connect().ask_failing(&glob_request("none", "*", 9));
    assert_eq!(failure.kind, FailureKind::NotFound);
}

#[test]
fn texts_are_replaced_in_each_file_at_once() {
    let agent = Agent::start();
    let folder = agent.workdir();
    write(&folder, "a", "one two one\n");
    write(&folder, "none", "nothing");
    write(&folder, "big", "ab".repeat(400_000));
    symlink("a", folder.join("link")).unwrap();
    let path = folder.join("a");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o4751)).unwrap();
    let untouched = fs::metadata(folder.join("none")).unwrap().ino();
    let outcomes = replace(&agent, &["link", "none", "absent", ".", "big"], "one", "1");
    let counts: Vec<u64> = outcomes.iter().map(|outcome| outcome.replaced).collect();
    assert_eq!(counts, [2, 0, 0, 0, 0]);
    let failed: Vec<bool> = outcomes
        .iter()
        .map(|outcome| outcome.failure.is_some())
        .collect();
    assert_eq!(failed, [false, false, true, true, false]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "1 two 1\n");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        (0o4751, 7, 8)
    );
    assert!(
        fs::symlink_metadata(folder.join("link"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(fs::metadata(folder.join("none")).unwrap().ino(), untouched);
    assert_eq!(replace(&agent, &["big"], "ba", "-")[0].replaced, 399_999);
    assert_eq!(
        fs::read_to_string(folder.join("big")).unwrap(),
        format!("a{}b", "-".repeat(399_999))
    );
    let left: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
    assert_eq!(left.len(), 4, "{left:?}");
    let request = Request::File(FileRequest::Replace {
        paths: vec![],
        pattern: String::new(),
        replacement: String::new(),
    });
    assert_eq!(
        agent.connect().ask_failing(&request).kind,
        FailureKind::InvalidRequest
    );
}

#[test]
fn a_large_tree_takes_little_memory_and_ends_with_its_client() {
    let agent = Agent::start();
    agent.shell(
        "mkdir t; cd t; for d in $(seq 50); do mkdir $d; (cd $d; seq 200 | xargs touch); done",
    );
    let (found, truncated) = glob(&agent, "t", "[0-9]*", 100_000);
    assert_eq!((found.len(), truncated), (10_050, false));
    assert!(agent.status("VmRSS") < 16 << 10);
    agent.shell("cd t; yes line | head -c 50000000 > many");
    let mut client = agent.connect();
    client.send(&grep_request("t", "line", 200_000));
    client.receive();
    drop(client);
    crate::client::eventually("the search is given up", || {
        let before = agent.cpu_ticks();
        std::thread::park_timeout(std::time::Duration::from_millis(100));
        agent.cpu_ticks() == before
    });
    assert!(agent.status("VmRSS") < 24 << 10);
}
