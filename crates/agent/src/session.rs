//! Shell sessions: a shell each, which keeps its state from command to command.
//!
//! How the commands get into the shell and their results out of it is told in
//! [`shell`]; why so, in `docs/decisions/0005-sessions.md`. One thread watches
//! all sessions: commands end by events, and then the next one begins.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_protocol::{Failure, FailureKind, Reply, SessionInfo};
use rustix::process::Signal;

use self::{folder::Folder, shell::Shell, state::State, watcher::Watcher};
use crate::{
    context::Context,
    environment,
    failure::{Stop, failure, invalid, limit_reached},
    output::Stream,
    process::{Process, Processes, now_ms},
    reaper::ExitStatus,
    spawn::Child,
};

mod folder;
mod leftover;
mod shell;
mod state;
mod watcher;

/// Most sessions at once.
const SESSIONS_MAX: usize = 64;

/// Longest name of a session, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Longest command.
const COMMAND_BYTES_MAX: usize = 1 << 20;

/// How many commands may wait for the one that runs.
const WAITING_MAX: usize = 32;

/// How long killed processes may take to be gone before a session is forgotten.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    context: Arc<Context>,
    all: Mutex<All>,
    watcher: Watcher,
}

#[derive(Debug, Default)]
struct All {
    /// In order of their opening.
    sessions: Vec<Arc<Session>>,
    last_number: u64,
}

/// One session.
#[derive(Debug)]
struct Session {
    context: Arc<Context>,
    /// Never used again, unlike its name.
    number: u64,
    name: String,
    opened_ms: u64,
    /// What each of its shells starts with.
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    folder: Folder,
    state: Mutex<State>,
}

impl Sessions {
    /// No sessions.
    pub(crate) fn new(context: Arc<Context>) -> io::Result<Self> {
        Ok(Self {
            context,
            all: Mutex::default(),
            watcher: Watcher::new()?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Result<Arc<Session>, Failure> {
        let all = self.lock();
        let found = all.sessions.iter().find(|session| session.name == name);
        found.cloned().ok_or_else(|| {
            let message = format!("there is no session {name:?}; open it first");
            failure(FailureKind::NotFound, message)
        })
    }

    /// Opens a session.
    pub(crate) fn open(
        &self,
        name: &str,
        cwd: Option<&str>,
        env: &BTreeMap<String, String>,
    ) -> Result<Reply, Stop> {
        check_name(name)?;
        environment::check(env)?;
        let session = {
            let mut all = self.lock();
            if all.sessions.iter().any(|session| session.name == name) {
                let message = format!("session {name:?} exists already; close it or use it");
                return Err(failure(FailureKind::AlreadyExists, message).into());
            }
            if all.sessions.len() >= SESSIONS_MAX {
                let message = format!("{SESSIONS_MAX} sessions are open; close one first");
                return Err(limit_reached(message).into());
            }
            let folder = Folder::create().map_err(|error| {
                limit_reached(format!(
                    "no folder for the session's files can be made in /dev/shm or /tmp: {error}"
                ))
            })?;
            all.last_number += 1;
            let session = Arc::new(Session {
                context: Arc::clone(&self.context),
                number: all.last_number,
                name: name.to_owned(),
                opened_ms: now_ms(),
                env: self.context.env_with(env),
                cwd: self.context.absolute(cwd.unwrap_or_default()),
                folder,
                state: Mutex::default(),
            });
            all.sessions.push(Arc::clone(&session));
            session
        };
        // At once, so that the caller hears what is wrong with it.
        let started = session.lock().start_shell(&session);
        let watched = started.and_then(|()| self.watcher.watch(&session));
        if let Err(failure) = watched {
            self.forget(&session);
            session.end();
            return Err(failure.into());
        }
        Ok(Reply::Done { truncated: false })
    }

    /// Runs a command in a session, after those before it.
    pub(crate) fn run(
        &self,
        name: &str,
        command: &str,
        processes: &Processes,
    ) -> Result<Reply, Stop> {
        check_command(command)?;
        let session = self.find(name)?;
        if session.lock().waiting.len() >= WAITING_MAX {
            let message = format!(
                "{WAITING_MAX} commands wait in session {name:?} already; wait for them, or use another session"
            );
            return Err(limit_reached(message).into());
        }
        let (context, number) = (&self.context, session.number);
        let process = processes.add_command(context, number, command, |id| {
            session.folder.make_command(id, command).map_err(|error| {
                limit_reached(format!("the command's pipes cannot be made: {error}"))
            })
        })?;
        let mut state = session.lock();
        if state.is_closed {
            drop(state);
            session.finish(&process, killed(), Stream::Error, b"");
            processes.forget_session(number);
            let message = format!("session {name:?} was closed meanwhile");
            return Err(failure(FailureKind::NotFound, message).into());
        }
        state.waiting.push_back(Arc::clone(&process));
        state.advance(&session);
        drop(state);
        self.watcher.wake();
        Ok(Reply::Started(process.info()))
    }

    /// All sessions and their commands.
    pub(crate) fn list(&self, processes: &Processes) -> Reply {
        let sessions = self.lock().sessions.clone();
        let info = |session: &Arc<Session>| SessionInfo {
            session: session.name.clone(),
            opened_ms: session.opened_ms,
            commands: processes.of_session(session.number),
        };
        Reply::Sessions {
            sessions: sessions.iter().map(info).collect(),
        }
    }

    /// Ends the processes of a session and forgets it.
    pub(crate) fn close(&self, name: &str, processes: &Processes) -> Result<Reply, Stop> {
        let session = self.find(name)?;
        self.forget(&session);
        session.end();
        processes.forget_session(session.number);
        Ok(Reply::Done { truncated: false })
    }

    fn forget(&self, session: &Arc<Session>) {
        let mut all = self.lock();
        all.sessions.retain(|other| !Arc::ptr_eq(other, session));
        drop(all);
        self.watcher.forget(session);
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(invalid(format!(
            "field `session`: a name has 1 to {NAME_BYTES_MAX} bytes and no control characters"
        )));
    }
    Ok(())
}

fn check_command(command: &str) -> Result<(), Failure> {
    if command.len() > COMMAND_BYTES_MAX {
        return Err(invalid(format!(
            "field `command`: {} bytes are over the limit of {COMMAND_BYTES_MAX}; write it to a file and run that",
            command.len()
        )));
    }
    if command.contains('\0') {
        return Err(invalid("field `command`: contains a NUL byte"));
    }
    Ok(())
}

fn killed() -> ExitStatus {
    let signal = Signal::KILL.as_raw();
    ExitStatus {
        code: 128 + signal,
        signal: Some(signal),
    }
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command has ended: its files are not needed any more.
    fn finish(&self, process: &Process, status: ExitStatus, stream: Stream, last_words: &[u8]) {
        process.end(status, stream, last_words);
        self.folder.remove_command(process.id());
    }

    /// For the watcher: looks what has happened.
    fn look(self: &Arc<Self>) {
        self.lock().advance(self);
    }

    /// Kills everything of it but what has made a session of its own.
    fn end(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let shell = state.shell.take();
        let running = state.running.take();
        let waiting = std::mem::take(&mut state.waiting);
        let replaced = std::mem::take(&mut state.replaced);
        let past = std::mem::take(&mut state.past);
        drop(state);
        let current = shell.iter().map(Shell::child);
        let current: Vec<&Arc<Child>> = current
            .chain(replaced.iter().map(|one| &one.child))
            .collect();
        for child in &current {
            child.kill_group(Signal::KILL);
        }
        let leaders: Vec<_> = current.iter().map(|child| child.pid).collect();
        leftover::kill(&leaders, past.iter().copied());
        for child in &current {
            child.exit.wait(KILL_TIMEOUT);
        }
        for one in &replaced {
            let status = one.child.exit.status().unwrap_or_else(killed);
            self.finish(&one.process, status, Stream::Error, b"");
        }
        for process in running.iter().chain(&waiting) {
            self.finish(process, killed(), Stream::Error, b"");
        }
    }
}
