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
    },
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
    /// Something about files.
    File(FileRequest),
}

/// A command as a shell line or as an argument vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Run by `/bin/sh -c`.
    Shell(String),
    /// Program (looked up in `PATH`) and arguments, no shell.
    Argv(Vec<String>),
}

/// A command and how to run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
