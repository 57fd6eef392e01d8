//! Commands of shell sessions as background processes: their end is known from
//! the session, and until their turn comes they have no process at all.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use agent_protocol::{Failure, ProcessInfo};
use rustix::process::{Pid, Signal};

use super::{Process, Processes, Stdin, Subject, now_ms, shortened, streams::Streams};
use crate::{
    collector::Source,
    context::Context,
    failure::{Stop, invalid, limit_reached},
    output::{Output, Stream},
    program::Pipes,
    reaper::{ExitStatus, ExitWaiter},
    spawn::Child,
};

/// A command's turn in its session.
#[derive(Debug)]
pub(crate) struct Turn {
    session: u64,
    exit: ExitWaiter,
    /// The shell that runs it, once it has begun.
    shell: OnceLock<Arc<Child>>,
    held: Mutex<Held>,
}

/// Ends of pipes that the agent keeps open for the command meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Until the command has opened its standard input.
    pub(crate) until_begun: Vec<OwnedFd>,
    /// Until it has ended.
    pub(crate) until_ended: Vec<OwnedFd>,
}

impl Turn {
    pub(super) fn exit(&self) -> &ExitWaiter {
        &self.exit
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.shell.get().map(|shell| shell.pid)
    }

    /// Sends a signal to the shell and what it runs; `false` when the command has ended.
    pub(super) fn kill_group(&self, id: u64, signal: Signal) -> Result<bool, Failure> {
        if self.exit.status().is_some() {
            return Ok(false);
        }
        let shell = self.shell.get().ok_or_else(|| {
            invalid(format!(
                "background process {id} has not begun: it waits for those before it in its session; end them or the session"
            ))
        })?;
        Ok(shell.kill_group(signal))
    }
}

impl Processes {
    /// Takes in a command of a session, with the streams that `make` gives to its id.
    pub(crate) fn add_command(
        &self,
        context: &Arc<Context>,
        session: u64,
        text: &str,
        make: impl FnOnce(u64) -> Result<(Pipes, Held), Failure>,
    ) -> Result<Arc<Process>, Stop> {
        self.add(None, |id| {
            let (pipes, held) = make(id)?;
            let exit = ExitWaiter::new().map_err(|error| {
                limit_reached(format!("the command cannot be watched: {error}; try again"))
            })?;
            let (streams, stdin) = Streams::new(pipes, Output::sharing(&context.kept));
            Ok(Process {
                context: Arc::clone(context),
                id,
                command: shortened(text),
                tag: None,
                started_ms: now_ms(),
                subject: Subject::Command(Turn {
                    session,
                    exit,
                    shell: OnceLock::new(),
                    held: Mutex::new(held),
                }),
                killed_before: context.out_of_memory.count(),
                exit: OnceLock::new(),
                stdin: Mutex::new(stdin),
                streams: Mutex::new(streams),
                tty: Mutex::new(None),
            })
        })
    }

    /// The commands of a session that are remembered, in order.
    pub(crate) fn of_session(&self, session: u64) -> Vec<ProcessInfo> {
        let processes = self.lock().processes.clone();
        let own = processes.iter().filter(|process| process.is_of(session));
        own.map(|process| process.info()).collect()
    }

    /// Forgets the commands of a session, which have ended. What they left
    /// behind can go on writing.
    pub(crate) fn forget_session(&self, session: u64) {
        let mut forgotten = Vec::new();
        self.lock().processes.retain(|process| {
            let is_own = process.is_of(session);
            if is_own {
                forgotten.push(Arc::clone(process));
            }
            !is_own
        });
        for process in forgotten {
            let pipes = std::mem::take(&mut process.lock_streams().pipes);
            for pipe in pipes.into_iter().flatten() {
                process.context.collector.add(Source::Discarded(pipe));
            }
        }
    }
}

impl Process {
    fn turn(&self) -> Option<&Turn> {
        match &self.subject {
            Subject::Command(turn) => Some(turn),
            Subject::Program(_) => None,
        }
    }

    fn is_of(&self, session: u64) -> bool {
        self.turn().is_some_and(|turn| turn.session == session)
    }

    /// Its id.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// It is its turn in this shell.
    pub(crate) fn begin_in(&self, shell: &Arc<Child>) {
        if let Some(turn) = self.turn() {
            turn.shell.get_or_init(|| Arc::clone(shell));
        }
    }

    /// It has opened its standard input.
    pub(crate) fn has_begun(&self) {
        if let Some(turn) = self.turn() {
            turn.held().until_begun.clear();
        }
    }

    /// It has ended, after these last words. What it wrote is in its pipes.
    pub(crate) fn end(&self, status: ExitStatus, stream: Stream, last_words: &[u8]) {
        let Some(turn) = self.turn() else { return };
        *self.lock_stdin() = Stdin::Closed;
        *turn.held() = Held::default();
        if !last_words.is_empty() {
            let mut streams = self.lock_streams();
            streams.take_available();
            streams.kept.push(stream, last_words);
        }
        turn.exit.set(status);
    }
}

impl Turn {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
