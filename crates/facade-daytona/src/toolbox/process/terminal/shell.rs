//! The shell in a terminal: bash where the image has it, else `sh`, interactive.
//!
//! Whoever types before a shell with line editing is at its prompt sees the
//! typed text twice: once from the kernel, once from the shell. Programs that
//! drive terminals and count echoes are misled by that. So the shell says when
//! its first prompt is due ([`READY_MARK`]), and input waits for the prompt
//! that follows.

use std::collections::BTreeMap;

use control::{Command, Exec, TtySize};

/// What the shell writes right before its first prompt: an operating system
/// command that no terminal knows. It is taken out of the output.
pub(super) const READY_MARK: &str = "\u{1b}]7329;ready\u{7}";

/// Becomes the shell.
const START: &str = include_str!("shell.sh");
/// What bash reads at its start.
const BASH_START: &str = include_str!("rc.bash");

/// The type of terminal when the request does not say.
const TERM: &str = "xterm-256color";

/// A shell in a terminal.
pub(super) fn exec(
    tag: String,
    size: TtySize,
    cwd: Option<String>,
    envs: &BTreeMap<String, String>,
    user: Option<String>,
) -> Exec {
    let mut env = envs.clone();
    env.entry("TERM".to_owned())
        .or_insert_with(|| TERM.to_owned());
    let argv = ["/bin/sh", "-c", START, "sh", READY_MARK, BASH_START];
    Exec {
        command: Command::Argv(argv.map(str::to_owned).to_vec()),
        env,
        cwd,
        tty: Some(size),
        tag: Some(tag),
        user,
        ..Exec::default()
    }
}
