//! Background processes: started, listed, read, fed and signalled by id.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use agent_protocol::{Exec, Exit, Failure, FailureKind, ProcessInfo, Reply, Signal, TtySize};
use rustix::process::Signal as OsSignal;

mod command;
mod follow;
mod input;
mod start;
mod streams;

pub(crate) use self::{command::Held, follow::Extent};
use self::{
    command::Turn,
    start::shortened,
    streams::{Stdin, Streams},
};
use crate::{
    collector::Source,
    connection::Connection,
    context::Context,
    failure::{Stop, failure, invalid, limit_reached},
    reaper::ExitWaiter,
    spawn::Child,
    terminal,
};

/// Most background processes that run, or whose output others hold open, at once.
const RUNNING_MAX: usize = 64;

/// How many ended ones are remembered.
const ENDED_MAX: usize = 256;

/// Longest tag, in bytes.
const TAG_BYTES_MAX: usize = 256;

/// What runs as a background process.
#[derive(Debug)]
enum Subject {
    /// A program of its own.
    Program(Child),
    /// A command of a shell session.
    Command(Turn),
}

impl Subject {
    fn exit(&self) -> &ExitWaiter {
        match self {
            Self::Program(child) => &child.exit,
            Self::Command(turn) => turn.exit(),
        }
    }

    /// Its process id; 0 when it has not begun.
    fn pid(&self) -> u32 {
        let pid = match self {
            Self::Program(child) => Some(child.pid),
            Self::Command(turn) => turn.pid(),
        };
        pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs())
    }
}

/// One background process.
#[derive(Debug)]
pub(crate) struct Process {
    context: Arc<Context>,
    id: u64,
    command: String,
    tag: Option<String>,
    started_ms: u64,
    subject: Subject,
    /// The count of processes killed for lack of memory when it was started.
    killed_before: u64,
    exit: OnceLock<Exit>,
    /// Taken while somebody writes to it.
    stdin: Mutex<Stdin>,
    streams: Mutex<Streams>,
    /// Size of its terminal, if it has one.
    tty: Mutex<Option<TtySize>>,
}

impl Process {
    fn lock_streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_stdin(&self) -> MutexGuard<'_, Stdin> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, if it has.
    fn exit(&self) -> Option<Exit> {
        let status = self.subject.exit().status()?;
        let exit = self.exit.get_or_init(|| Exit {
            out_of_memory: self.context.out_of_memory.count() > self.killed_before,
            ..Exit::from(status)
        });
        Some(exit.clone())
    }

    fn exit_with_truncation(&self) -> Option<Exit> {
        let truncated = self.lock_streams().kept.is_truncated();
        self.exit().map(|exit| Exit { truncated, ..exit })
    }

    pub(crate) fn info(&self) -> ProcessInfo {
        ProcessInfo {
            process: self.id,
            pid: self.subject.pid(),
            command: self.command.clone(),
            started_ms: self.started_ms,
            exit: self.exit_with_truncation(),
            tag: self.tag.clone(),
            tty: *self.tty.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// For the collector: the pipes to wait for.
    pub(crate) fn open_pipes(&self) -> Vec<Arc<OwnedFd>> {
        self.lock_streams()
            .pipes
            .iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// For the collector: the end to wait for, until it is known.
    pub(crate) fn awaited_exit(&self) -> Option<BorrowedFd<'_>> {
        self.exit
            .get()
            .is_none()
            .then(|| self.subject.exit().as_fd())
    }

    /// For the collector: takes what came; whether nothing more can come.
    pub(crate) fn collect(&self) -> bool {
        let has_ended = self.exit().is_some();
        let mut streams = self.lock_streams();
        streams.take_available();
        has_ended && streams.pipes.iter().all(Option::is_none)
    }

    fn is_active(&self) -> bool {
        self.exit().is_none() || self.lock_streams().pipes.iter().any(Option::is_some)
    }
}

/// All background processes.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    /// In order of their ids.
    processes: Vec<Arc<Process>>,
    last_id: u64,
    /// Being started: ids and tags.
    starting: Vec<(u64, Option<String>)>,
}

impl All {
    /// Room for one more.
    fn reserve(&mut self, tag: Option<&str>) -> Result<u64, Failure> {
        self.forget();
        let running: Vec<_> = self.processes.iter().filter(|p| p.is_active()).collect();
        if running.len() + self.starting.len() >= RUNNING_MAX {
            return Err(limit_reached(format!(
                "{RUNNING_MAX} background processes are running; end one of them first"
            )));
        }
        if let Some(tag) = tag {
            let has_tag = |process: &&Arc<Process>| process.tag.as_deref() == Some(tag);
            let is_taken = running
                .into_iter()
                .any(|p| has_tag(&p) && p.exit().is_none())
                || self
                    .starting
                    .iter()
                    .any(|(_, other)| other.as_deref() == Some(tag));
            if is_taken {
                let message = format!(
                    "a background process with the tag {tag:?} is running; use another tag, or end that process first"
                );
                return Err(failure(FailureKind::AlreadyExists, message));
            }
        }
        self.last_id += 1;
        self.starting.push((self.last_id, tag.map(str::to_owned)));
        Ok(self.last_id)
    }

    /// Forgets the oldest ended ones beyond the bound.
    fn forget(&mut self) {
        let ended = self.processes.iter().filter(|p| !p.is_active()).count();
        let mut excess = ended.saturating_sub(ENDED_MAX);
        self.processes.retain(|process| {
            let is_forgotten = excess > 0 && !process.is_active();
            excess -= usize::from(is_forgotten);
            !is_forgotten
        });
    }
}

impl Processes {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: u64) -> Result<Arc<Process>, Stop> {
        let all = self.lock();
        let found = all.processes.iter().find(|process| process.id == id);
        Ok(found.cloned().ok_or_else(|| {
            let message = format!(
                "there is no background process {id}; the list of processes tells the ids (the last {ENDED_MAX} ended ones are kept)"
            );
            failure(FailureKind::NotFound, message)
        })?)
    }

    /// Starts a process.
    pub(crate) fn start(&self, context: &Arc<Context>, exec: &Exec) -> Result<Reply, Stop> {
        let tag = exec.tag.as_deref();
        if tag.is_some_and(|tag| tag.is_empty() || tag.len() > TAG_BYTES_MAX) {
            let message = format!("field `tag`: must have 1 to {TAG_BYTES_MAX} bytes");
            return Err(invalid(message).into());
        }
        let process = self.add(tag, |id| start::start(context, exec, id))?;
        Ok(Reply::Started(process.info()))
    }

    /// Takes in a process that is made with the id it gets.
    fn add(
        &self,
        tag: Option<&str>,
        make: impl FnOnce(u64) -> Result<Process, Stop>,
    ) -> Result<Arc<Process>, Stop> {
        let id = self.lock().reserve(tag)?;
        let made = make(id);
        let mut all = self.lock();
        all.starting.retain(|(other, _)| *other != id);
        let process = Arc::new(made?);
        let at = all.processes.partition_point(|other| other.id < id);
        all.processes.insert(at, Arc::clone(&process));
        drop(all);
        let source = Source::Process(Arc::clone(&process));
        process.context.collector.add(source);
        Ok(process)
    }

    /// All that are remembered.
    pub(crate) fn list(&self) -> Reply {
        let mut all = self.lock();
        all.forget();
        let processes = all.processes.clone();
        drop(all);
        let processes = processes.iter().map(|process| process.info()).collect();
        Reply::Processes { processes }
    }

    /// Sends a signal to a process and those it started.
    pub(crate) fn signal(&self, id: u64, signal: Signal) -> Result<Reply, Stop> {
        let process = self.find(id)?;
        let signal = os_signal(signal);
        let is_sent = match &process.subject {
            Subject::Program(child) => child.kill_group(signal),
            Subject::Command(turn) => turn.kill_group(id, signal)?,
        };
        if is_sent {
            return Ok(Reply::Done { truncated: false });
        }
        Err(invalid(format!("background process {id} has already ended")).into())
    }

    /// Sends the output of a process.
    pub(crate) fn output(
        &self,
        id: u64,
        extent: Extent,
        connection: &mut Connection,
    ) -> Result<Reply, Stop> {
        follow::send(&*self.find(id)?, extent, connection)
    }

    /// Changes the size of a process's terminal.
    pub(crate) fn resize(&self, id: u64, size: TtySize) -> Result<Reply, Stop> {
        let process = self.find(id)?;
        let Stdin::Terminal(master) = &*process.lock_stdin() else {
            let message = format!("background process {id} has no terminal; start it with `tty`");
            return Err(invalid(message).into());
        };
        terminal::resize(master, size)?;
        *process.tty.lock().unwrap_or_else(PoisonError::into_inner) = Some(size);
        Ok(Reply::Done { truncated: false })
    }

    /// Writes input frames to a process's standard input.
    pub(crate) fn input(
        &self,
        id: u64,
        close: bool,
        connection: &mut Connection,
    ) -> Result<Reply, Stop> {
        let process = self.find(id)?;
        input::forward(&process, close, connection)?;
        Ok(Reply::Done { truncated: false })
    }
}

/// Now, in milliseconds since the epoch by the sandbox's clock.
pub(crate) fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn os_signal(signal: Signal) -> OsSignal {
    match signal {
        Signal::Sighup => OsSignal::HUP,
        Signal::Sigint => OsSignal::INT,
        Signal::Sigquit => OsSignal::QUIT,
        Signal::Sigkill => OsSignal::KILL,
        Signal::Sigusr1 => OsSignal::USR1,
        Signal::Sigusr2 => OsSignal::USR2,
        Signal::Sigterm => OsSignal::TERM,
        Signal::Sigstop => OsSignal::STOP,
        Signal::Sigcont => OsSignal::CONT,
    }
}
