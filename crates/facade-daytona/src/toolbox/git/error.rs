//! What git says when it fails, in the codes of the protocol.

use axum::http::StatusCode;

use super::command::Said;
use crate::error::ApiError;

/// A remote repository could not be reached: 502, but no fault of this server.
pub(crate) const TRANSPORT_FAILED: &str = "GIT_TRANSPORT_FAILED";

/// Characters of git's words that are passed on.
const MESSAGE_CHARS_MAX: usize = 2000;

/// A class of failures.
struct Class {
    status: StatusCode,
    code: Option<&'static str>,
    /// Any of these, in lower case, tells that it is one.
    words: &'static [&'static str],
}

/// The first that fits counts.
const CLASSES: &[Class] = &[
    Class {
        status: StatusCode::UNAUTHORIZED,
        code: Some("GIT_AUTH_FAILED"),
        words: &[
            "authentication failed",
            "could not read username",
            "could not read password",
            "permission denied (publickey",
            "host key verification failed",
            "returned error: 401",
        ],
    },
    Class {
        status: StatusCode::FORBIDDEN,
        code: Some("GIT_AUTH_FAILED"),
        words: &["returned error: 403"],
    },
    Class {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        code: Some("GIT_REMOTE_REJECTED"),
        words: &["[remote rejected]"],
    },
    Class {
        status: StatusCode::CONFLICT,
        code: Some("GIT_PUSH_REJECTED"),
        words: &["[rejected]", "non-fast-forward", "failed to push some refs"],
    },
    Class {
        status: StatusCode::CONFLICT,
        code: Some("GIT_DIRTY_WORKTREE"),
        words: &[
            "would be overwritten by",
            "please commit your changes or stash",
            "you have unstaged changes",
        ],
    },
    Class {
        status: StatusCode::CONFLICT,
        code: Some("GIT_MERGE_CONFLICT"),
        words: &[
            "conflict (",
            "automatic merge failed",
            "unmerged files",
            "you have not concluded your merge",
            "resolve your current index first",
        ],
    },
    Class {
        status: StatusCode::CONFLICT,
        code: Some("GIT_BRANCH_EXISTS"),
        words: &["a branch named"],
    },
    Class {
        status: StatusCode::CONFLICT,
        code: None,
        words: &[
            "already exists",
            "nothing to commit",
            "nothing added to commit",
            "no changes added to commit",
            "checked out at",
            "used by worktree at",
        ],
    },
    Class {
        status: StatusCode::NOT_FOUND,
        code: Some("GIT_BRANCH_NOT_FOUND"),
        words: &[
            "remote branch",
            "error: branch '",
            "invalid reference",
            "couldn't find remote ref",
            "src refspec",
            "unknown revision",
            "ambiguous argument",
            "not a valid object name",
            "reference is not a tree",
            "unable to read tree",
            "not our ref",
            "fatal: could not resolve",
        ],
    },
    Class {
        status: StatusCode::NOT_FOUND,
        code: Some("GIT_REPO_NOT_FOUND"),
        words: &[
            "not a git repository",
            "cannot change to",
            "does not appear to be a git repository",
            "returned error: 404",
            "repository not found",
            "' not found",
            "' does not exist",
        ],
    },
    Class {
        status: StatusCode::BAD_GATEWAY,
        code: Some(TRANSPORT_FAILED),
        words: &[
            "unable to access",
            "unable to connect",
            "connection refused",
            "connection timed out",
            "connection reset",
            "could not read from remote repository",
            "the remote end hung up",
            "early eof",
            "rpc failed",
            "certificate",
        ],
    },
];

/// What git says of the network, which other classes' words could be taken from.
const UNREACHABLE: &[&str] = &["could not resolve host", "could not resolve hostname"];

/// The error of a command that failed.
pub(super) fn failed(said: &Said) -> ApiError {
    let stdout = String::from_utf8_lossy(&said.stdout);
    let message = message(&said.stderr, &stdout, said.code);
    let words = format!("{}\n{stdout}", said.stderr).to_lowercase();
    let has = |any: &[&str]| any.iter().any(|known| words.contains(known));
    if has(UNREACHABLE) {
        return ApiError::new(StatusCode::BAD_GATEWAY, message).with_code(TRANSPORT_FAILED);
    }
    match CLASSES.iter().find(|class| has(class.words)) {
        Some(Class { status, code, .. }) => {
            let error = ApiError::new(*status, message);
            match code {
                Some(code) => error.with_code(code),
                None => error,
            }
        }
        None => ApiError::bad_request(message),
    }
}

/// What git says, without what only a person at a terminal needs.
fn message(stderr: &str, stdout: &str, code: i32) -> String {
    let told = match stderr.trim() {
        "" => stdout.trim(),
        stderr => stderr,
    };
    let lines = told
        .lines()
        .filter(|line| !line.starts_with("hint:") && !line.trim().is_empty());
    let text: Vec<&str> = lines.map(str::trim_end).collect();
    match text.is_empty() {
        true => format!("git failed with exit code {code}"),
        false => text.join("\n").chars().take(MESSAGE_CHARS_MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What git says, and the status and code that it has.
    const SAID: &[(&str, u16, &str)] = &[
        (
            "fatal: Authentication failed for 'http://h/r.git/'",
            401,
            "GIT_AUTH_FAILED",
        ),
        (
            "fatal: could not read Username for 'http://h': terminal prompts disabled",
            401,
            "GIT_AUTH_FAILED",
        ),
        (
            "fatal: not a git repository (or any of the parent directories): .git",
            404,
            "GIT_REPO_NOT_FOUND",
        ),
        (
            "fatal: cannot change to '/x': No such file or directory",
            404,
            "GIT_REPO_NOT_FOUND",
        ),
        (
            "fatal: repository '/x' does not exist",
            404,
            "GIT_REPO_NOT_FOUND",
        ),
        (
            "fatal: repository 'http://h/x/' not found",
            404,
            "GIT_REPO_NOT_FOUND",
        ),
        (
            "fatal: Remote branch x not found in upstream origin",
            404,
            "GIT_BRANCH_NOT_FOUND",
        ),
        ("error: branch 'x' not found.", 404, "GIT_BRANCH_NOT_FOUND"),
        (
            "error: pathspec 'x' did not match any file(s) known to git",
            400,
            "BAD_REQUEST",
        ),
        (
            "fatal: unable to access 'http://h/': Could not resolve proxy: p",
            502,
            "GIT_TRANSPORT_FAILED",
        ),
        (
            "fatal: A branch named 'x' already exists.",
            409,
            "GIT_BRANCH_EXISTS",
        ),
        (
            " ! [rejected] main -> main (fetch first)\nerror: failed to push some refs",
            409,
            "GIT_PUSH_REJECTED",
        ),
        (
            " ! [remote rejected] main -> main (hook declined)",
            422,
            "GIT_REMOTE_REJECTED",
        ),
        (
            "error: Your local changes to the following files would be overwritten by checkout:\n\ta\nPlease commit your changes or stash them",
            409,
            "GIT_DIRTY_WORKTREE",
        ),
        (
            "fatal: unable to access 'http://h/': Could not resolve host: h",
            502,
            "GIT_TRANSPORT_FAILED",
        ),
        (
            "fatal: unable to access 'http://h/': Failed to connect to h",
            502,
            "GIT_TRANSPORT_FAILED",
        ),
        (
            "fatal: destination path 'x' already exists and is not an empty directory.",
            409,
            "CONFLICT",
        ),
        (
            "error: key does not contain a section: x",
            400,
            "BAD_REQUEST",
        ),
    ];

    #[test]
    fn what_git_says_has_its_code() {
        for (stderr, status, code) in SAID {
            let error = failed(&Said {
                code: 128,
                stdout: Vec::new(),
                stderr: (*stderr).to_owned(),
            });
            assert_eq!(
                (error.status.as_u16(), error.code),
                (*status, *code),
                "{stderr}"
            );
        }
    }

    #[test]
    fn conflicts_are_told_on_standard_output() {
        let error = failed(&Said {
            code: 1,
            stdout: b"CONFLICT (content): Merge conflict in a\nAutomatic merge failed".to_vec(),
            stderr: "From /r\n * branch main -> FETCH_HEAD".to_owned(),
        });
        assert_eq!(
            (error.status.as_u16(), error.code),
            (409, "GIT_MERGE_CONFLICT")
        );
    }

    #[test]
    fn messages_are_gits_own_without_hints() {
        assert_eq!(message("hint: x\nfatal: y\n", "", 1), "fatal: y");
        assert_eq!(message("", "nothing to commit\n", 1), "nothing to commit");
        assert_eq!(message(" ", "", 7), "git failed with exit code 7");
    }
}
