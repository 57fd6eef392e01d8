//! What the server asks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The first message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Is the agent there? Answered by [`crate::Reply::Pong`].
    Ping,
    /// Runs a command in the foreground: output frames, then
    /// [`crate::Reply::Exited`]. Closing the stream kills it.
    Exec(Exec),
    /// Runs a command in the background: [`crate::Reply::Started`]. Its output
    /// is kept in a ring buffer and read by [`Request::Output`].
    Start(Exec),
    /// All background processes, running or ended: [`crate::Reply::Processes`].
    Processes,
    /// Output of a background process: output frames, then
    /// [`crate::Reply::Exited`] if it has ended, else [`crate::Reply::Done`].
    Output {
        /// Id of the process.
        process: u64,
        /// Also what comes later, until it ends.
        #[serde(default)]
        follow: bool,
        /// Leave out what it has said before.
        #[serde(default)]
        skip_kept: bool,
    },
    /// Changes the size of the terminal of a background process: [`crate::Reply::Done`].
    ResizeTty {
        /// Id of the process.
        process: u64,
        /// The new size.
        size: TtySize,
    },
    /// Opens a shell session: a shell that keeps its state from command to
    /// command: [`crate::Reply::Done`].
    OpenSession {
        /// Its name, chosen by the caller.
        session: String,
        /// Where its shell starts; the image's working directory when absent.
        #[serde(default)]
        cwd: Option<String>,
        /// On top of the sandbox's environment.
        #[serde(default)]
        env: BTreeMap<String, String>,
    },
    /// Runs a command in the shell of a session, after those before it:
    /// [`crate::Reply::Started`], at once and with process id 0 when it has to
    /// wait for them. Its standard input is open until it is closed. It counts as a background process from there
    /// on: output, input and signals go by its id. A command that replaces the
    /// shell by another program (`exec`) ends when that program does, and the
    /// next command gets a new shell.
    RunInSession {
        /// Which session.
        session: String,
        /// The command.
        command: String,
    },
    /// All sessions: [`crate::Reply::Sessions`].
    Sessions,
    /// Ends the processes of a session and forgets it: [`crate::Reply::Done`].
    CloseSession {
        /// Which session.
        session: String,
    },
    /// Connects to a TCP port inside the sandbox: [`crate::Reply::Connected`],
    /// after which the stream carries the raw bytes of that connection in both
    /// directions and serves no further request.
    ConnectPort {
        /// The port, on the loopback address.
        port: u16,
    },
    /// Changes the environment of everything started from now on: [`crate::Reply::Done`].
    /// The shells of open sessions and running kernels stay as they are, and a
    /// sandbox that was stopped begins with its first environment again.
    SetEnvironment {
        /// Variables to set.
        #[serde(default)]
        set: BTreeMap<String, String>,
        /// Variables to remove.
        #[serde(default)]
        unset: Vec<String>,
    },
    /// Size and use of the sandbox's file system: [`crate::Reply::Disk`].
    Disk,
    /// Input for a background process: input frames, then
    /// [`crate::Reply::Done`]. `InputEnd` ends this request; `close` also closes stdin.
    Input {
        /// Id of the process.
        process: u64,
        /// Close the process's standard input afterwards.
        #[serde(default)]
        close: bool,
    },
    /// Sends a signal to the process group of a background process: [`crate::Reply::Done`].
    Signal {
        /// Id of the process.
        process: u64,
        /// Which one.
        signal: Signal,
    },
    /// Runs a Python cell: output frames and [`crate::Reply::Display`], then
    /// [`crate::Reply::CellEnded`]. Closing the stream interrupts it.
    Cell(Cell),
    /// Interrupts the running cell of a context: [`crate::Reply::Done`].
    InterruptKernel {
        /// The context.
        context: String,
    },
    /// Ends the kernel of a context; the next cell starts a new one: [`crate::Reply::Done`].
    RestartKernel {
        /// The context.
        context: String,
    },
    /// Starts the kernel of a new context: [`crate::Reply::Done`].
    StartKernel {
        /// The context; it must not exist.
        context: String,
        /// Its working directory; the image's when absent.
        #[serde(default)]
        cwd: Option<String>,
    },
    /// Ends the kernel of a context and forgets the context: [`crate::Reply::Done`].
    EndKernel {
        /// The context.
        context: String,
    },
    /// All contexts: [`crate::Reply::Kernels`].
    Kernels,
    /// Something about files.
    File(FileRequest),
}

/// A command as a shell line or as an argument vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Run by `/bin/sh -c`.
    Shell(String),
    /// Run by the best shell of the image: bash if it has one, else `/bin/sh`.
    Script(String),
    /// Program (looked up in `PATH`) and arguments, no shell.
    Argv(Vec<String>),
}

impl Default for Command {
    /// Nothing: the shell ends at once.
    fn default() -> Self {
        Self::Shell(String::new())
    }
}

/// A command and how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// What to run.
    pub command: Command,
    /// On top of the sandbox's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; the image's when absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Kill its process group after this long; for foreground commands.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Send stderr into stdout's pipe, so that the order is exact.
    #[serde(default)]
    pub merge_output: bool,
    /// Whether input frames follow; else standard input is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Give it a terminal of this size instead of pipes; for background
    /// processes. Its input is then always open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TtySize>,
    /// A name of the caller's for a background process; no two that run have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The user to run as, by name or number; root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Characters in a row.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// Signals that can be sent to processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Signal {
    /// Hang-up.
    Sighup,
    /// Interrupt, as Ctrl-C.
    Sigint,
    /// Quit.
    Sigquit,
    /// Kill.
    Sigkill,
    /// User signal 1.
    Sigusr1,
    /// User signal 2.
    Sigusr2,
    /// Please end.
    Sigterm,
    /// Stop.
    Sigstop,
    /// Continue.
    Sigcont,
}

/// A piece of Python run in a kernel with kept state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The code, with IPython's syntax.
    pub code: String,
    /// Which kernel; each context is a Python process of its own, started on first use.
    #[serde(default = "default_context")]
    pub context: String,
    /// Interrupt after this long; the kernel stays usable.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Send stderr into stdout's pipe, so that the order is exact.
    #[serde(default)]
    pub merge_output: bool,
    /// Environment variables set in the kernel while the cell runs.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Print only what the code prints: neither the value of the last
    /// expression, nor the traceback of an exception, which
    /// [`crate::Reply::CellEnded`] tells anyway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hide_result: bool,
}

impl Default for Cell {
    /// Nothing, in the default context.
    fn default() -> Self {
        Self {
            code: String::new(),
            context: default_context(),
            timeout_ms: None,
            merge_output: false,
            env: BTreeMap::new(),
            hide_result: false,
        }
    }
}

fn default_context() -> String {
    "default".to_owned()
}

/// Work on files. Paths are absolute, or relative to the image's working
/// directory. `/proc`-style magic links are never followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "file", rename_all = "snake_case")]
pub enum FileRequest {
    /// Content of a regular file: [`crate::Reply::Entry`] (its size at opening),
    /// output frames, then [`crate::Reply::Done`].
    Read {
        /// Which file.
        path: String,
        /// First byte.
        #[serde(default)]
        offset: u64,
        /// At most so many bytes.
        #[serde(default)]
        length: Option<u64>,
    },
    /// Replaces or creates a file from input frames, atomically at `InputEnd`,
    /// parents included: [`crate::Reply::Entry`]. A stream that closes before
    /// `InputEnd` leaves the old file as it was.
    Write {
        /// Which file.
        path: String,
        /// Permission bits; kept, or 0644 for a new file, when absent.
        #[serde(default)]
        mode: Option<u32>,
        /// Append to the file instead of replacing it (not atomic).
        #[serde(default)]
        append: bool,
    },
    /// Entries of a directory, sorted by path: [`crate::Reply::Entries`] (several), then [`crate::Reply::Done`].
    List {
        /// Which directory.
        path: String,
        /// 1 lists its own entries only.
        #[serde(default = "one")]
        depth: u32,
        /// Stop after so many.
        limit: u64,
    },
    /// Lines of the text files of a tree that contain a text:
    /// [`crate::Reply::Matches`] (several), then [`crate::Reply::Done`]. Links are
    /// not followed; files with a NUL byte count as binary and are skipped.
    Grep {
        /// A file or directory.
        path: String,
        /// The text, taken literally.
        pattern: String,
        /// Stop after so many lines.
        limit: u64,
    },
    /// Entries of a tree whose last component matches a glob pattern (`*`, `?`,
    /// `[…]`, `{a,b}`): [`crate::Reply::Entries`] (several), then [`crate::Reply::Done`].
    Glob {
        /// A directory.
        path: String,
        /// The pattern.
        pattern: String,
        /// Stop after so many entries.
        limit: u64,
    },
    /// Replaces every occurrence of a text in files, each atomically:
    /// [`crate::Reply::Replaced`].
    Replace {
        /// Which files.
        paths: Vec<String>,
        /// The text, taken literally.
        pattern: String,
        /// What takes its place.
        replacement: String,
    },
    /// One entry, not following a final symbolic link: [`crate::Reply::Entry`].
    Stat {
        /// Which one.
        path: String,
    },
    /// Makes a directory and its parents; one that exists is a success: [`crate::Reply::Entry`].
    MakeDirectory {
        /// Which one.
        path: String,
        /// Permission bits, 0755 when absent.
        #[serde(default)]
        mode: Option<u32>,
    },
    /// Renames, over file systems if need be: [`crate::Reply::Entry`].
    Move {
        /// From.
        source: String,
        /// To.
        destination: String,
        /// Replace what is there.
        #[serde(default)]
        overwrite: bool,
    },
    /// Removes a file, or with `recursive` a tree: [`crate::Reply::Done`].
    Remove {
        /// Which one.
        path: String,
        /// Whole trees too.
        #[serde(default)]
        recursive: bool,
    },
    /// Changes permissions and owner: [`crate::Reply::Entry`].
    SetPermissions {
        /// Which one.
        path: String,
        /// Permission bits.
        #[serde(default)]
        mode: Option<u32>,
        /// User name or number.
        #[serde(default)]
        owner: Option<String>,
        /// Group name or number.
        #[serde(default)]
        group: Option<String>,
    },
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(request: &Request, json: &str) {
        assert_eq!(serde_json::to_string(request).unwrap(), json);
        assert_eq!(&serde_json::from_str::<Request>(json).unwrap(), request);
    }

    #[test]
    fn the_form_of_requests_is_frozen() {
        golden(&Request::Ping, r#"{"op":"ping"}"#);
        golden(
            &Request::Exec(Exec {
                command: Command::Shell("echo hi".into()),
                env: BTreeMap::new(),
                cwd: None,
                timeout_ms: Some(5),
                merge_output: true,
                stdin: false,
                tty: None,
                tag: None,
                user: None,
            }),
            r#"{"op":"exec","command":{"shell":"echo hi"},"env":{},"cwd":null,"timeout_ms":5,"merge_output":true,"stdin":false}"#,
        );
        golden(
            &Request::File(FileRequest::Stat { path: "/a".into() }),
            r#"{"op":"file","file":"stat","path":"/a"}"#,
        );
        golden(
            &Request::Signal {
                process: 3,
                signal: Signal::Sigterm,
            },
            r#"{"op":"signal","process":3,"signal":"SIGTERM"}"#,
        );
    }

    #[test]
    fn the_form_of_requests_for_sessions_and_terminals_is_frozen() {
        let size = TtySize { cols: 80, rows: 24 };
        let exec = Exec {
            command: Command::Script("true".into()),
            tty: Some(size),
            tag: Some("t".into()),
            user: Some("u".into()),
            ..Exec::default()
        };
        golden(
            &Request::Start(exec),
            r#"{"op":"start","command":{"script":"true"},"env":{},"cwd":null,"timeout_ms":null,"merge_output":false,"stdin":false,"tty":{"cols":80,"rows":24},"tag":"t","user":"u"}"#,
        );
        golden(
            &Request::Output {
                process: 1,
                follow: true,
                skip_kept: true,
            },
            r#"{"op":"output","process":1,"follow":true,"skip_kept":true}"#,
        );
        golden(
            &Request::ResizeTty { process: 1, size },
            r#"{"op":"resize_tty","process":1,"size":{"cols":80,"rows":24}}"#,
        );
        golden(
            &Request::OpenSession {
                session: "s".into(),
                cwd: Some("/".into()),
                env: BTreeMap::from([("A".into(), "1".into())]),
            },
            r#"{"op":"open_session","session":"s","cwd":"/","env":{"A":"1"}}"#,
        );
        golden(
            &Request::RunInSession {
                session: "s".into(),
                command: "true".into(),
            },
            r#"{"op":"run_in_session","session":"s","command":"true"}"#,
        );
        golden(&Request::Sessions, r#"{"op":"sessions"}"#);
        golden(
            &Request::CloseSession {
                session: "s".into(),
            },
            r#"{"op":"close_session","session":"s"}"#,
        );
    }

    #[test]
    fn the_form_of_requests_for_ports_kernels_and_searches_is_frozen() {
        golden(
            &Request::ConnectPort { port: 8080 },
            r#"{"op":"connect_port","port":8080}"#,
        );
        golden(
            &Request::SetEnvironment {
                set: BTreeMap::from([("A".into(), "1".into())]),
                unset: vec!["B".into()],
            },
            r#"{"op":"set_environment","set":{"A":"1"},"unset":["B"]}"#,
        );
        golden(&Request::Disk, r#"{"op":"disk"}"#);
        golden(&Request::Kernels, r#"{"op":"kernels"}"#);
        golden(
            &Request::StartKernel {
                context: "c".into(),
                cwd: None,
            },
            r#"{"op":"start_kernel","context":"c","cwd":null}"#,
        );
        golden(
            &Request::EndKernel {
                context: "c".into(),
            },
            r#"{"op":"end_kernel","context":"c"}"#,
        );
        golden(
            &Request::File(FileRequest::Grep {
                path: "/a".into(),
                pattern: "x".into(),
                limit: 9,
            }),
            r#"{"op":"file","file":"grep","path":"/a","pattern":"x","limit":9}"#,
        );
        golden(
            &Request::File(FileRequest::Glob {
                path: "/a".into(),
                pattern: "*".into(),
                limit: 9,
            }),
            r#"{"op":"file","file":"glob","path":"/a","pattern":"*","limit":9}"#,
        );
        golden(
            &Request::File(FileRequest::Replace {
                paths: vec!["/a".into()],
                pattern: "x".into(),
                replacement: "y".into(),
            }),
            r#"{"op":"file","file":"replace","paths":["/a"],"pattern":"x","replacement":"y"}"#,
        );
    }

    #[test]
    fn old_requests_get_defaults() {
        let cell: Request = serde_json::from_str(r#"{"op":"cell","code":"1"}"#).unwrap();
        let Request::Cell(cell) = cell else {
            panic!("{cell:?}")
        };
        assert_eq!(
            (cell.context.as_str(), cell.merge_output),
            ("default", false)
        );
    }
}
