//! The state of a working tree.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::command::{Git, line};
use crate::{
    error::{ApiError, ApiResult},
    extract::QueryOf,
    target::Target,
};

/// What `currentBranch` says when `HEAD` is on no branch.
const DETACHED: &str = "HEAD";

#[derive(Debug, Deserialize)]
pub(super) struct PathQuery {
    pub(super) path: String,
}

/// The state of a working tree as the SDKs see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    current_branch: String,
    file_status: Vec<FileStatus>,
    ahead: u64,
    behind: u64,
    branch_published: bool,
    detached: bool,
    upstream: String,
}

/// One file that is not as in the last commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct FileStatus {
    name: String,
    staging: &'static str,
    worktree: &'static str,
    /// Its name before it was renamed.
    extra: String,
}

/// `GET /git/status`
pub(super) async fn status(
    target: Target,
    QueryOf(query): QueryOf<PathQuery>,
) -> ApiResult<Json<Status>> {
    let git = || Git::at(&target, &query.path);
    let arguments = [
        "status",
        "--porcelain=v2",
        "--branch",
        "-z",
        "--untracked-files=all",
    ];
    let output = git()?.run(arguments).await?;
    let mut status = parse(&output).ok_or_else(|| {
        ApiError::bad_request("git gave a status that cannot be read; it may be too old")
    })?;
    if !status.branch_published && !status.detached {
        let published = format!("refs/remotes/origin/{}", status.current_branch);
        let verify = ["rev-parse", "--verify", "--quiet", published.as_str()];
        status.branch_published = git()?.ask(verify).await?.code == 0;
    }
    Ok(Json(status))
}

/// Reads `git status --porcelain=v2 --branch -z`.
fn parse(output: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    let mut records = output
        .split(|byte| *byte == 0)
        .filter(|record| !record.is_empty());
    while let Some(record) = records.next() {
        let (kind, rest) = split(record)?;
        match kind {
            b"#" => header(&mut status, &line(rest))?,
            b"1" => status.file_status.push(changed(rest, 7, None)?),
            b"2" => {
                let file = changed(rest, 8, Some(records.next()?))?;
                status.file_status.push(file);
            }
            b"u" => {
                let mut file = changed(rest, 9, None)?;
                (file.staging, file.worktree) = (UNMERGED, UNMERGED);
                status.file_status.push(file);
            }
            b"?" => status.file_status.push(FileStatus {
                name: text(rest),
                staging: UNTRACKED,
                worktree: UNTRACKED,
                extra: String::new(),
            }),
            // Something newer than this: not a changed file.
            _ => {}
        }
    }
    Some(status)
}

const UNMERGED: &str = "Updated but unmerged";
const UNTRACKED: &str = "Untracked";

fn header(status: &mut Status, header: &str) -> Option<()> {
    let (name, value) = header.split_once(' ').unwrap_or((header, ""));
    match name {
        "branch.head" if value == "(detached)" => {
            status.detached = true;
            status.current_branch = DETACHED.to_owned();
        }
        "branch.head" => status.current_branch = value.to_owned(),
        "branch.upstream" => status.upstream = value.to_owned(),
        // There only when the upstream branch is known here.
        "branch.ab" => {
            let (ahead, behind) = value.split_once(' ')?;
            status.ahead = ahead.strip_prefix('+')?.parse().ok()?;
            status.behind = behind.strip_prefix('-')?.parse().ok()?;
            status.branch_published = true;
        }
        _ => {}
    }
    Some(())
}

/// A changed file: `XY`, so many fields in all, then its name.
fn changed(record: &[u8], fields: usize, before: Option<&[u8]>) -> Option<FileStatus> {
    let (states, mut rest) = split(record)?;
    for _ in 1..fields {
        rest = split(rest)?.1;
    }
    let &[staging, worktree] = states else {
        return None;
    };
    Some(FileStatus {
        name: text(rest),
        staging: word(staging),
        worktree: word(worktree),
        extra: before.map(text).unwrap_or_default(),
    })
}

/// The first field, and what comes after it.
fn split(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = record.iter().position(|byte| *byte == b' ')?;
    Some((&record[..space], &record[space + 1..]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn word(state: u8) -> &'static str {
    match state {
        b'M' | b'T' => "Modified",
        b'A' => "Added",
        b'D' => "Deleted",
        b'R' => "Renamed",
        b'C' => "Copied",
        b'U' => UNMERGED,
        b'?' => UNTRACKED,
        _ => "Unmodified",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASHES: &str = "0123 4567";

    fn file(name: &str, staging: &'static str, worktree: &'static str, extra: &str) -> FileStatus {
        FileStatus {
            name: name.to_owned(),
            staging,
            worktree,
            extra: extra.to_owned(),
        }
    }

    #[test]
    fn every_kind_of_record_is_read() {
        let output = format!(
            "# branch.oid abc\0# branch.head main\0# branch.upstream origin/main\0# branch.ab +2 -1\0\
             1 .M N... 100644 100644 100644 {HASHES} a b.txt\0\
             1 A. N... 000000 100644 100644 {HASHES} new\0\
             1 .T N... 100644 100644 120000 {HASHES} link\0\
             2 R. N... 100644 100644 100644 {HASHES} R100 to\0from\0\
             u UU N... 100644 100644 100644 100644 0 1 2 both\0\
             ? ü\n\0"
        );
        let status = parse(output.as_bytes()).unwrap();
        assert_eq!(
            status,
            Status {
                current_branch: "main".to_owned(),
                file_status: vec![
                    file("a b.txt", "Unmodified", "Modified", ""),
                    file("new", "Added", "Unmodified", ""),
                    file("link", "Unmodified", "Modified", ""),
                    file("to", "Renamed", "Unmodified", "from"),
                    file("both", UNMERGED, UNMERGED, ""),
                    file("ü\n", UNTRACKED, UNTRACKED, ""),
                ],
                ahead: 2,
                behind: 1,
                branch_published: true,
                detached: false,
                upstream: "origin/main".to_owned(),
            }
        );
    }

    #[test]
    fn a_head_on_no_branch_is_told() {
        let status = parse(b"# branch.oid abc\0# branch.head (detached)\0").unwrap();
        assert!(status.detached && !status.branch_published);
        assert_eq!(status.current_branch, "HEAD");
    }

    #[test]
    fn what_is_cut_off_is_no_status() {
        for cut in [
            "1 .M N...\0",
            "2 R. N... 1 1 1 a b R1 to\0",
            "# branch.ab x\0",
            "1\0",
        ] {
            assert_eq!(parse(cut.as_bytes()), None, "{cut:?}");
        }
    }

    proptest! {
        #[test]
        fn no_output_makes_the_parser_panic(output in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&output);
        }

        #[test]
        fn names_come_out_as_they_went_in(
            files in prop::collection::vec(("[^\0]{1,20}", "[.MADRC]", "[.MAD]", prop::option::of("[^\0]{1,20}")), 0..8)
        ) {
            let mut output = String::from("# branch.head b\0");
            for (name, x, y, before) in &files {
                output += &match before {
                    Some(before) => format!("2 {x}{y} N... 1 1 1 {HASHES} R50 {name}\0{before}\0"),
                    None => format!("1 {x}{y} N... 1 1 1 {HASHES} {name}\0"),
                };
            }
            let status = parse(output.as_bytes()).unwrap();
            prop_assert_eq!(status.file_status.len(), files.len());
            for (read, (name, x, y, before)) in status.file_status.iter().zip(&files) {
                prop_assert_eq!(&read.name, name);
                prop_assert_eq!(&read.extra, before.as_deref().unwrap_or_default());
                prop_assert_eq!(read.staging, word(x.as_bytes()[0]));
                prop_assert_eq!(read.worktree, word(y.as_bytes()[0]));
            }
        }
    }
}
