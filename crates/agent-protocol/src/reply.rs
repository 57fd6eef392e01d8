//! What the agent answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::TtySize;

/// A message from the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The agent is there.
    Pong {
        /// [`crate::VERSION`] of the agent.
        version: u32,
        /// The image's working directory.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        workdir: String,
        /// The home directory of the user that commands run as.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        home: String,
    },
    /// A background process runs.
    Started(ProcessInfo),
    /// The command ended.
    Exited(Exit),
    /// All background processes.
    Processes {
        /// In order of their ids.
        processes: Vec<ProcessInfo>,
    },
    /// A rich result or display of the running cell. Not final.
    Display {
        /// The representations.
        data: MimeBundle,
        /// Whether it is the value of the last expression rather than a `display` call.
        #[serde(default)]
        is_result: bool,
    },
    /// The cell ended.
    CellEnded(CellEnd),
    /// One file. Final, but for [`crate::FileRequest::Read`], where content follows.
    Entry {
        /// The file.
        entry: Entry,
        /// Whether content and another reply follow.
        #[serde(default)]
        more: bool,
    },
    /// Some entries of a listing. Not final.
    Entries {
        /// At most some hundreds.
        entries: Vec<Entry>,
    },
    /// Some lines that contain a text. Not final.
    Matches {
        /// At most some hundreds.
        matches: Vec<Match>,
    },
    /// What a replacement did to each file, in the order asked for.
    Replaced {
        /// One per file.
        outcomes: Vec<ReplaceOutcome>,
    },
    /// All shell sessions.
    Sessions {
        /// In order of their opening.
        sessions: Vec<SessionInfo>,
    },
    /// All contexts that have a kernel.
    Kernels {
        /// In order of their start.
        kernels: Vec<KernelInfo>,
    },
    /// The file system of the sandbox.
    Disk {
        /// Its size in bytes.
        total_bytes: u64,
        /// What is in use, bytes.
        used_bytes: u64,
    },
    /// The port is connected; raw bytes follow.
    Connected,
    /// The request was carried out.
    Done {
        /// A listing or an output that is longer than the limit was cut.
        #[serde(default)]
        truncated: bool,
    },
    /// The request failed.
    Failed(Failure),
}

impl Reply {
    /// Whether the conversation ends with this message.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Display { .. } | Self::Entries { .. } | Self::Matches { .. } => false,
            Self::Entry { more, .. } => !more,
            Self::Pong { .. }
            | Self::Replaced { .. }
            | Self::Sessions { .. }
            | Self::Kernels { .. }
            | Self::Disk { .. }
            | Self::Connected
            | Self::Started(_)
            | Self::Exited(_)
            | Self::Processes { .. }
            | Self::CellEnded(_)
            | Self::Done { .. }
            | Self::Failed(_) => true,
        }
    }
}

/// Representations of one value by MIME type, as in Jupyter: text types are
/// strings, `image/png` is base64, JSON types are values.
pub type MimeBundle = BTreeMap<String, Value>;

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 plus the signal when a signal ended it, as shells report.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// It was killed because its time was over.
    #[serde(default)]
    pub timed_out: bool,
    /// The kernel killed something in the sandbox for lack of memory meanwhile.
    #[serde(default)]
    pub out_of_memory: bool,
    /// Output was dropped from the ring buffer (background processes only).
    #[serde(default)]
    pub truncated: bool,
}

/// A background process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Its id in this API, counted from 1, never reused in a sandbox.
    pub process: u64,
    /// Its process id inside the sandbox; 0 for a command of a session that
    /// waits for those before it.
    pub pid: u32,
    /// The command as given, shortened.
    pub command: String,
    /// When it was started, milliseconds since the epoch by the sandbox's clock.
    pub started_ms: u64,
    /// How it ended, if it has.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// The caller's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Size of its terminal, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
}

/// A shell session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its name.
    pub session: String,
    /// When it was opened, milliseconds since the epoch by the sandbox's clock.
    pub opened_ms: u64,
    /// Its commands, in order; the oldest may be forgotten.
    pub commands: Vec<ProcessInfo>,
}

/// The kernel of a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// The context.
    pub context: String,
    /// Its working directory at the start.
    pub cwd: String,
    /// When it was started, milliseconds since the epoch by the sandbox's clock.
    pub started_ms: u64,
    /// Whether its process is alive.
    pub alive: bool,
}

/// A line that contains a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The file.
    pub path: String,
    /// The line, counted from 1.
    pub line: u64,
    /// The line's text, shortened; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// What a replacement did to one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceOutcome {
    /// The file as asked for.
    pub path: String,
    /// How many places were replaced.
    pub replaced: u64,
    /// Why it was left as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// How a cell ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellEnd {
    /// In which way.
    pub status: CellStatus,
    /// Name of the exception, e.g. `NameError`, when there was one.
    #[serde(default)]
    pub error_name: Option<String>,
    /// Its text.
    #[serde(default)]
    pub error_value: Option<String>,
    /// The traceback as IPython prints it, one element per line group.
    #[serde(default)]
    pub traceback: Vec<String>,
}

/// The ways a cell can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellStatus {
    /// Without an exception.
    Ok,
    /// With an exception.
    Error,
    /// Its time was over; it was interrupted and the kernel is usable.
    TimedOut,
    /// It was interrupted by request; the kernel is usable.
    Interrupted,
    /// The kernel process died (or had to be killed) in it; state is lost, the
    /// next cell starts a new one. `error_value` says why.
    KernelDied,
}

/// One file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path: as asked for, or below the listed directory. Bytes that are
    /// not UTF-8 are replaced; `path_base64` then holds the true path.
    pub path: String,
    /// The exact path in base64 when `path` is not exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
    /// What it is.
    pub kind: EntryKind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits, e.g. 0o644.
    pub mode: u32,
    /// Last change of content, milliseconds since the epoch.
    pub modified_ms: i64,
    /// Owner as a number.
    pub uid: u32,
    /// Group as a number.
    pub gid: u32,
    /// Owner by name, or the number as text.
    pub owner: String,
    /// Group by name, or the number as text.
    pub group: String,
    /// Target of a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Device, pipe or socket.
    Other,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The class.
    pub kind: FailureKind,
    /// What was wrong, with what, and what to do.
    pub message: String,
}

/// Classes of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The path, process or context does not exist.
    NotFound,
    /// Something is there already.
    AlreadyExists,
    /// The file system's permissions do not allow it.
    PermissionDenied,
    /// The request is wrong.
    InvalidRequest,
    /// A limit (processes, memory, disk, number of kernels) is reached.
    LimitReached,
    /// A deadline passed.
    Timeout,
    /// The image lacks something that is needed; the message says what to install.
    Missing,
    /// Anything else.
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(reply: &Reply, json: &str) {
        assert_eq!(serde_json::to_string(reply).unwrap(), json);
        assert_eq!(&serde_json::from_str::<Reply>(json).unwrap(), reply);
    }

    #[test]
    fn the_form_of_replies_is_frozen() {
        golden(
            &Reply::Pong {
                version: 1,
                workdir: String::new(),
                home: String::new(),
            },
            r#"{"reply":"pong","version":1}"#,
        );
        golden(
            &Reply::Exited(Exit {
                code: 137,
                signal: Some(9),
                ..Exit::default()
            }),
            r#"{"reply":"exited","code":137,"signal":9,"timed_out":false,"out_of_memory":false,"truncated":false}"#,
        );
        golden(
            &Reply::Failed(Failure {
                kind: FailureKind::NotFound,
                message: "no".into(),
            }),
            r#"{"reply":"failed","kind":"not_found","message":"no"}"#,
        );
    }

    #[test]
    fn the_form_of_newer_replies_is_frozen() {
        golden(
            &Reply::Pong {
                version: 1,
                workdir: "/w".into(),
                home: "/h".into(),
            },
            r#"{"reply":"pong","version":1,"workdir":"/w","home":"/h"}"#,
        );
        golden(&Reply::Connected, r#"{"reply":"connected"}"#);
        golden(
            &Reply::Disk {
                total_bytes: 2,
                used_bytes: 1,
            },
            r#"{"reply":"disk","total_bytes":2,"used_bytes":1}"#,
        );
        let process = ProcessInfo {
            process: 1,
            pid: 2,
            command: "c".into(),
            started_ms: 3,
            exit: None,
            tag: Some("t".into()),
            tty: Some(TtySize { cols: 80, rows: 24 }),
        };
        golden(
            &Reply::Sessions {
                sessions: vec![SessionInfo {
                    session: "s".into(),
                    opened_ms: 4,
                    commands: vec![process],
                }],
            },
            r#"{"reply":"sessions","sessions":[{"session":"s","opened_ms":4,"commands":[{"process":1,"pid":2,"command":"c","started_ms":3,"exit":null,"tag":"t","tty":{"cols":80,"rows":24}}]}]}"#,
        );
        golden(
            &Reply::Kernels {
                kernels: vec![KernelInfo {
                    context: "c".into(),
                    cwd: "/".into(),
                    started_ms: 1,
                    alive: true,
                }],
            },
            r#"{"reply":"kernels","kernels":[{"context":"c","cwd":"/","started_ms":1,"alive":true}]}"#,
        );
        golden(
            &Reply::Matches {
                matches: vec![Match {
                    path: "/a".into(),
                    line: 1,
                    text: "x".into(),
                }],
            },
            r#"{"reply":"matches","matches":[{"path":"/a","line":1,"text":"x"}]}"#,
        );
        golden(
            &Reply::Replaced {
                outcomes: vec![ReplaceOutcome {
                    path: "/a".into(),
                    replaced: 1,
                    failure: None,
                }],
            },
            r#"{"reply":"replaced","outcomes":[{"path":"/a","replaced":1}]}"#,
        );
    }

    #[test]
    fn only_parts_of_a_longer_answer_are_not_final() {
        assert!(Reply::Done { truncated: false }.is_final());
        assert!(!Reply::Entries { entries: vec![] }.is_final());
    }
}
