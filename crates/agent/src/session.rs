//! Shell sessions: a shell each, which keeps its state from command to command.
//!
//! How the commands get into the shell and their results out of it is told in
//! [`shell`]; why so, in `docs/decisions/0005-sessions.md`. One thread watches
//! all sessions: commands end by events, and then the next one begins.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_protocol::{Failure, FailureKind, Reply, SessionInfo};
use rustix::process::Signal;

use self::{
    folder::Folder,
    shell::{Heard, Shell},
    watcher::Watcher,
};
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
mod watcher;

/// Most sessions at once.
const SESSIONS_MAX: usize = 64;

/// Longest name of a session, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Longest command.
const COMMAND_BYTES_MAX: usize = 1 << 20;

/// How many commands may wait for the one that runs.
const WAITING_MAX: usize = 32;

/// How many shells that ended are remembered for what they left behind.
const PAST_MAX: usize = 64;

/// How long killed processes may take to be gone before a session is forgotten.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The exit code of a command that was never begun, as of programs that cannot be executed.
const NOT_BEGUN_CODE: i32 = 126;

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

#[derive(Debug, Default)]
struct State {
    shell: Option<Shell>,
    /// The command that the shell runs.
    running: Option<Arc<Process>>,
    waiting: VecDeque<Arc<Process>>,
    /// Shells that became another program, and the commands that did it.
    replaced: Vec<(Arc<Child>, Arc<Process>)>,
    /// Shells that ended; programs may be left of their sessions.
    past: VecDeque<rustix::process::Pid>,
    is_closed: bool,
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
        let current: Vec<&Arc<Child>> = current.chain(replaced.iter().map(|(c, _)| c)).collect();
        for child in &current {
            child.kill_group(Signal::KILL);
        }
        let leaders: Vec<_> = current.iter().map(|child| child.pid).collect();
        leftover::kill(&leaders, past.iter().copied());
        for child in &current {
            child.exit.wait(KILL_TIMEOUT);
        }
        for (child, process) in &replaced {
            let status = child.exit.status().unwrap_or_else(killed);
            self.finish(process, status, Stream::Error, b"");
        }
        for process in running.iter().chain(&waiting) {
            self.finish(process, killed(), Stream::Error, b"");
        }
    }
}

impl State {
    fn start_shell(&mut self, session: &Session) -> Result<(), Failure> {
        let shell = Shell::start(&session.context, &session.env, &session.cwd)?;
        self.shell = Some(shell);
        Ok(())
    }

    /// Takes in what has happened, and begins the next command if it can.
    fn advance(&mut self, session: &Session) {
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
                    self.let_go();
                    if let Some(process) = self.running.take() {
                        process.has_begun();
                        self.replaced.push((child, process));
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
        self.replaced.retain(|(child, process)| {
            let Some(status) = child.exit.status() else {
                return true;
            };
            session.finish(process, status, Stream::Output, b"");
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
