//! What a session is doing, and what it does next.

use std::{collections::VecDeque, sync::Arc};

use agent_protocol::{Failure, FailureKind};
use rustix::process::Pid;

use super::{
    Session,
    shell::{Heard, Shell},
};
use crate::{failure::failure, output::Stream, process::Process, reaper::ExitStatus, spawn::Child};

/// How many shells that ended are remembered for what they left behind.
const PAST_MAX: usize = 64;

/// The exit code of a command that was never begun, as of programs that cannot be executed.
const NOT_BEGUN_CODE: i32 = 126;

/// A shell whose status fell silent, with the command that did it.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) child: Arc<Child>,
    pub(super) process: Arc<Process>,
    /// What the shell itself printed at last: a trap at its exit, which closes
    /// the status a moment before its end is known.
    pub(super) last_words: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) shell: Option<Shell>,
    /// The command that the shell runs.
    pub(super) running: Option<Arc<Process>>,
    pub(super) waiting: VecDeque<Arc<Process>>,
    /// Shells that became another program, or are about to exit.
    pub(super) replaced: Vec<Replaced>,
    /// Shells that ended; programs may be left of their sessions.
    pub(super) past: VecDeque<Pid>,
    pub(super) is_closed: bool,
}

impl State {
    /// Starts a shell, in place of any other.
    pub(super) fn start_shell(&mut self, session: &Session) -> Result<(), Failure> {
        let shell = Shell::start(&session.context, &session.env, &session.cwd)?;
        self.shell = Some(shell);
        Ok(())
    }

    /// Takes in what has happened, and begins the next command if it can.
    pub(super) fn advance(&mut self, session: &Session) {
        self.hear(session);
        self.reap_replaced(session);
        while !self.is_closed && self.running.is_none() {
            let Some(process) = self.waiting.pop_front() else {
                return;
            };
            if let Err(failure) = self.begin(session, &process) {
                let status = ExitStatus {
                    code: NOT_BEGUN_CODE,
                    signal: None,
                };
                let why = format!("{}\n", failure.message);
                session.finish(&process, status, Stream::Error, why.as_bytes());
            }
        }
    }

    /// Takes in what the shell has said, or that it has ended.
    fn hear(&mut self, session: &Session) {
        while let Some(shell) = &mut self.shell {
            match shell.hear() {
                Heard::Nothing => return,
                Heard::Begun => {
                    if let Some(process) = &self.running {
                        process.has_begun();
                    }
                }
                Heard::Ended(code) => {
                    if let Some(process) = self.running.take() {
                        let status = ExitStatus { code, signal: None };
                        session.finish(&process, status, Stream::Output, b"");
                    }
                }
                Heard::Exited(status) => {
                    let last_words = shell.take_last_words();
                    self.let_go();
                    if let Some(process) = self.running.take() {
                        session.finish(&process, status, Stream::Output, &last_words);
                    }
                }
                Heard::Silence => {
                    // It became another program, or is about to exit.
                    let child = Arc::clone(shell.child());
                    let last_words = shell.take_last_words();
                    self.let_go();
                    if let Some(process) = self.running.take() {
                        process.has_begun();
                        self.replaced.push(Replaced {
                            child,
                            process,
                            last_words,
                        });
                    }
                }
            }
        }
    }

    fn let_go(&mut self) {
        if let Some(shell) = self.shell.take() {
            self.past.push_back(shell.child().pid);
            if self.past.len() > PAST_MAX {
                self.past.pop_front();
            }
        }
    }

    fn reap_replaced(&mut self, session: &Session) {
        self.replaced.retain(|replaced| {
            let Some(status) = replaced.child.exit.status() else {
                return true;
            };
            let last_words = &replaced.last_words;
            session.finish(&replaced.process, status, Stream::Output, last_words);
            false
        });
    }

    fn begin(&mut self, session: &Session, process: &Arc<Process>) -> Result<(), Failure> {
        let lines = |token: &str| session.folder.order(process.id(), token);
        let ordered = self.shell.as_ref().is_some_and(|shell| shell.order(lines));
        if !ordered {
            // None, or it has ended between two commands.
            self.let_go();
            self.start_shell(session)?;
        }
        let Some(shell) = &self.shell else {
            return Err(failure(FailureKind::Internal, "the session has no shell"));
        };
        if !ordered && !shell.order(lines) {
            return Err(failure(
                FailureKind::Internal,
                "the session's shell ended at once",
            ));
        }
        process.begin_in(shell.child());
        self.running = Some(Arc::clone(process));
        Ok(())
    }
}
