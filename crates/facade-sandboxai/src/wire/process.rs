//! Background processes.

use std::collections::BTreeMap;

use control::{ProcessInfo, Signal};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{check, result, time_of_day};
use crate::error::ApiError;

/// A command to run in the background.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartProcessRequest {
    /// Run by `/bin/sh -c`.
    #[schema(example = "python3 -m http.server")]
    command: Option<String>,
    /// Instead of `command`: program and arguments, run without a shell.
    argv: Option<Vec<String>>,
    /// Environment on top of the sandbox's.
    env: Option<BTreeMap<String, String>>,
    /// Working directory.
    cwd: Option<String>,
    /// Keep its standard input open for `…/input`; else it is empty.
    stdin: Option<bool>,
}

impl StartProcessRequest {
    /// The operation that this asks for.
    pub(crate) fn into_exec(self) -> Result<control::Exec, ApiError> {
        Ok(control::Exec {
            command: check::command(self.command, self.argv)?,
            env: check::environment("env", self.env)?,
            cwd: self.cwd.map(|cwd| check::path("cwd", cwd)).transpose()?,
            timeout_ms: None,
            merge_output: false,
            stdin: self.stdin.unwrap_or(false),
            ..control::Exec::default()
        })
    }
}

/// A background process.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Process)]
pub(crate) struct ProcessBody {
    /// Its id in this API, never reused in a sandbox.
    id: u64,
    /// Its process id inside the sandbox.
    pid: u32,
    /// The command as given, shortened.
    command: String,
    /// When it was started, RFC 3339.
    started_at: String,
    /// How it ended; null while it runs.
    exit: Option<ProcessExit>,
}

/// How a background process ended.
#[derive(Debug, Serialize, ToSchema)]
struct ProcessExit {
    /// The exit code; 128 plus the signal when a signal ended it.
    exit_code: i32,
    /// The signal that ended it.
    signal: Option<i32>,
    /// The kernel killed something in the sandbox for lack of memory meanwhile.
    out_of_memory: bool,
}

impl From<&control::Exit> for ProcessExit {
    fn from(exit: &control::Exit) -> Self {
        Self {
            exit_code: result::exit_code(exit),
            signal: exit.signal,
            out_of_memory: exit.out_of_memory,
        }
    }
}

impl From<ProcessInfo> for ProcessBody {
    fn from(process: ProcessInfo) -> Self {
        Self {
            id: process.process,
            pid: process.pid,
            command: process.command,
            started_at: time_of_day(i64::try_from(process.started_ms).unwrap_or(i64::MAX)),
            exit: process.exit.as_ref().map(ProcessExit::from),
        }
    }
}

/// The background processes of a sandbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProcessList {
    /// In order of their ids, running and ended.
    pub(crate) processes: Vec<ProcessBody>,
}

/// Which output.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OutputQuery {
    /// Also what comes later, until it ends.
    #[serde(default)]
    pub(crate) follow: bool,
}

/// The last event of a process's output.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProcessOutputEnd {
    /// How the process ended; null while it runs.
    exit: Option<ProcessExit>,
    /// Whether the beginning of its output was left out, because only the end is kept.
    truncated: bool,
}

impl ProcessOutputEnd {
    /// The end of the output of a process that has ended, or that still runs.
    pub(crate) fn new(exit: Option<&control::Exit>) -> Self {
        Self {
            exit: exit.map(ProcessExit::from),
            truncated: exit.is_some_and(|exit| exit.truncated),
        }
    }
}

/// How to give input.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct InputQuery {
    /// Close the process's standard input afterwards.
    #[serde(default)]
    pub(crate) close: bool,
}

/// A signal for a background process and its children.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalRequest {
    /// Its name, with or without `SIG`.
    #[schema(example = "SIGTERM")]
    signal: String,
}

impl SignalRequest {
    /// The signal.
    pub(crate) fn signal(&self) -> Result<Signal, ApiError> {
        const SIGNALS: [(&str, Signal); 9] = [
            ("HUP", Signal::Sighup),
            ("INT", Signal::Sigint),
            ("QUIT", Signal::Sigquit),
            ("KILL", Signal::Sigkill),
            ("USR1", Signal::Sigusr1),
            ("USR2", Signal::Sigusr2),
            ("TERM", Signal::Sigterm),
            ("STOP", Signal::Sigstop),
            ("CONT", Signal::Sigcont),
        ];
        let wanted = self.signal.to_ascii_uppercase();
        let wanted = wanted.strip_prefix("SIG").unwrap_or(&wanted);
        let found = SIGNALS.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, signal)| *signal).ok_or_else(|| {
            let names: Vec<String> = SIGNALS
                .iter()
                .map(|(name, _)| format!("SIG{name}"))
                .collect();
            let shown: String = self.signal.chars().take(20).collect();
            ApiError::field(
                "signal",
                format_args!(
                    "{shown:?} is not a signal that can be sent; use one of {}",
                    names.join(", ")
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_both_names() {
        let signal = |text: &str| {
            SignalRequest {
                signal: text.into(),
            }
            .signal()
        };
        assert_eq!(signal("SIGTERM").unwrap(), Signal::Sigterm);
        assert_eq!(signal("kill").unwrap(), Signal::Sigkill);
        let message = signal("SIGSEGV").unwrap_err().body("r", None).message;
        assert!(message.contains("SIGUSR1"), "{message}");
    }
}
