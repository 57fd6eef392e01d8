//! One shell of a session.
//!
//! The shell reads from a pipe, its script, and writes to another one, its
//! status. For each command the agent puts its text into a file and makes three
//! named pipes ([`super::folder`]); then two lines go to the script:
//!
//! ```text
//! { \command printf '%s begun\n' TOKEN
//!   \command . FILE 1>|FILE.out 2>|FILE.err; } 0<FILE.in
//! \command printf '%s %s\n' TOKEN "$?"
//! ```
//!
//! The `.` runs the text in the shell itself, so that its state is kept, with a
//! grammar of its own, so that an unfinished quote ends with the file. While it
//! runs, the shell has put its own standard output, the status, away under a
//! high number that no other program inherits. So when the status falls silent,
//! with the process alive, the shell has become another program by `exec`.

use std::{ffi::OsString, os::fd::OwnedFd, path::Path, sync::Arc};

use agent_protocol::{Failure, FailureKind};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    rand::{GetRandomFlags, getrandom},
};

use crate::{
    context::Context,
    failure::failure,
    program::best_shell,
    reaper::ExitStatus,
    spawn::{Child, SpawnSpec},
};

/// How much of what the shell itself prints is kept: what a trap says at its end.
const SAID_BYTES_MAX: usize = 64 << 10;

/// A shell.
#[derive(Debug)]
pub(super) struct Shell {
    child: Arc<Child>,
    script: OwnedFd,
    status: Arc<OwnedFd>,
    /// What was read from the status and not yet understood.
    said: Vec<u8>,
    /// What our words in the status begin with.
    token: String,
}

/// What is new about a shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// The command has opened its standard input.
    Begun,
    /// The command ended with this code.
    Ended(i32),
    /// The shell ended.
    Exited(ExitStatus),
    /// Nobody has the status open any more, and the shell has not ended yet.
    Silence,
}

impl Shell {
    /// Starts a shell.
    pub(super) fn start(
        context: &Context,
        env: &[(OsString, OsString)],
        cwd: &Path,
    ) -> Result<Self, Failure> {
        let (token, [script_reader, script, status, status_writer]) =
            prepare().map_err(|error| {
                let message = format!("no pipes can be made for the session's shell: {error}");
                failure(FailureKind::LimitReached, message)
            })?;
        let child = context.spawner.spawn(SpawnSpec {
            argv: vec![best_shell(env)],
            env: env.to_vec(),
            cwd: cwd.to_owned(),
            stdin: Some(script_reader),
            stdout: Some(status_writer),
            ..SpawnSpec::default()
        })?;
        Ok(Self {
            child: Arc::new(child),
            script,
            status: Arc::new(status),
            said: Vec::new(),
            token,
        })
    }

    pub(super) fn child(&self) -> &Arc<Child> {
        &self.child
    }

    pub(super) fn status(&self) -> &Arc<OwnedFd> {
        &self.status
    }

    /// Gives it lines to execute; `false` when it takes none any more.
    pub(super) fn order(&self, lines: impl Fn(&str) -> String) -> bool {
        let lines = lines(&self.token);
        // It has read all earlier lines, so these few fit into the pipe at once.
        self.child.exit.status().is_none()
            && rustix::io::write(&self.script, lines.as_bytes()) == Ok(lines.len())
    }

    /// What is new.
    pub(super) fn hear(&mut self) -> Heard {
        // Asked first: what it said before its end is in the pipe then.
        let exited = self.child.exit.status();
        loop {
            if let Some(heard) = self.next_word() {
                return heard;
            }
            let mut buffer = [0; 4096];
            match rustix::io::read(&*self.status, &mut buffer) {
                Ok(count @ 1..) => self.said.extend(&buffer[..count]),
                Err(Errno::INTR) => {}
                Ok(0) if exited.is_none() => return Heard::Silence,
                Ok(0) | Err(_) => return exited.map_or(Heard::Nothing, Heard::Exited),
            }
        }
    }

    /// What it said that are no words of ours.
    pub(super) fn take_last_words(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.said)
    }

    /// Our next word in what it said; what was printed before it is dropped.
    fn next_word(&mut self) -> Option<Heard> {
        let found = find_word(&self.said, self.token.as_bytes());
        let Some((end, heard)) = found else {
            let excess = self.said.len().saturating_sub(SAID_BYTES_MAX);
            self.said.drain(..excess);
            return None;
        };
        self.said.drain(..end);
        Some(heard)
    }
}

/// The token and the ends of the two pipes of a shell.
fn prepare() -> Result<(String, [OwnedFd; 4]), Errno> {
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let token = format!("sandboxai-{:016x}", u64::from_ne_bytes(random));
    let (script_reader, script) = pipe_with(PipeFlags::CLOEXEC)?;
    let (status, status_writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&script, true)?;
    rustix::io::ioctl_fionbio(&status, true)?;
    Ok((token, [script_reader, script, status, status_writer]))
}

/// The first line `TOKEN begun` or `TOKEN CODE`, and where it ends. A trap may
/// have printed something without an end of line before it.
fn find_word(said: &[u8], token: &[u8]) -> Option<(usize, Heard)> {
    let mut from = 0;
    loop {
        let start = from + position(&said[from..], token)?;
        let after = start + token.len();
        let length = said[after..].iter().position(|byte| *byte == b'\n')?;
        let word = std::str::from_utf8(&said[after..after + length]).unwrap_or_default();
        let end = after + length + 1;
        match word.strip_prefix(' ') {
            Some("begun") => return Some((end, Heard::Begun)),
            Some(code) if let Ok(code) = code.parse() => return Some((end, Heard::Ended(code))),
            _ => from = after,
        }
    }
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_found_among_others() {
        let find = |said: &str| find_word(said.as_bytes(), b"T");
        assert_eq!(find("T begun\nT 3\n"), Some((8, Heard::Begun)));
        assert_eq!(find("trap says T 3\nmore"), Some((14, Heard::Ended(3))));
        assert_eq!(find("T huh\nT 0\n"), Some((10, Heard::Ended(0))));
        for none in ["", "T", "T 3", "T begu", "3\n"] {
            assert_eq!(find(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_a_word_or_none(said in "[T 0-9\nbegun]{0,40}") {
            if let Some((end, _)) = find_word(said.as_bytes(), b"T") {
                prop_assert!(end <= said.len() && said.as_bytes()[end - 1] == b'\n');
            }
        }
    }
}
