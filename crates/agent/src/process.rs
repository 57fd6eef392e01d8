//! Background processes: started, listed, read, fed and signalled by id.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use agent_protocol::{Command, Exec, Exit, FailureKind, ProcessInfo, Reply, Signal};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd},
    io::Errno,
    process::Signal as OsSignal,
};

mod input;

use crate::{
    collector::Source,
    connection::Connection,
    context::Context,
    exec::{self, PIECE_BYTES, poll_until},
    failure::{Stop, failure, invalid, limit_reached},
    output::{Output, Stream},
    spawn::Child,
};

/// Most background processes that run, or whose output others hold open, at once.
const RUNNING_MAX: usize = 64;

/// How many ended ones are remembered.
const ENDED_MAX: usize = 256;

/// How much of a command line is told in listings.
const SHOWN_CHARS_MAX: usize = 200;

/// One background process.
#[derive(Debug)]
pub(crate) struct Process {
    context: Arc<Context>,
    id: u64,
    command: String,
    started_ms: u64,
    child: Child,
    /// The count of processes killed for lack of memory when it was started.
    killed_before: u64,
    exit: OnceLock<Exit>,
    /// Taken while somebody writes to it.
    stdin: Mutex<Stdin>,
    streams: Mutex<Streams>,
}

#[derive(Debug)]
enum Stdin {
    Open(OwnedFd),
    /// In the hands of another request.
    Busy,
    Closed,
}

#[derive(Debug)]
struct Streams {
    /// With their ends still open.
    pipes: [Option<Arc<OwnedFd>>; 2],
    kept: Output,
    /// Whom to tell about news; at most one per thread.
    followers: Vec<Arc<OwnedFd>>,
}

impl Streams {
    /// Takes what is in the pipes now, and no more, however fast others write.
    fn take_available(&mut self) {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut is_news = false;
        for (pipe, stream) in self.pipes.iter_mut().zip([Stream::Output, Stream::Error]) {
            let Some(open) = pipe else { continue };
            let mut left = rustix::io::ioctl_fionread(&**open).unwrap_or(0);
            loop {
                match rustix::io::read(&**open, &mut *buffer) {
                    Ok(count @ 1..) => {
                        is_news = true;
                        self.kept.push(stream, &buffer[..count]);
                        left = left.saturating_sub(count as u64);
                        if left == 0 {
                            break;
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Ok(0) | Err(_) => {
                        is_news = true;
                        *pipe = None;
                        break;
                    }
                }
            }
        }
        // Followers read too: telling them of nothing would never end.
        if !is_news {
            return;
        }
        for follower in &self.followers {
            let _ = rustix::io::write(&**follower, &1_u64.to_ne_bytes());
        }
    }
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
        let status = self.child.exit.status()?;
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

    fn info(&self) -> ProcessInfo {
        ProcessInfo {
            process: self.id,
            pid: self.child.pid.as_raw_nonzero().get().unsigned_abs(),
            command: self.command.clone(),
            started_ms: self.started_ms,
            exit: self.exit_with_truncation(),
            tag: None,
            tty: None,
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
        self.exit.get().is_none().then(|| self.child.exit.as_fd())
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
    /// Being started.
    starting: usize,
}

impl All {
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
        let id = {
            let mut all = self.lock();
            all.forget();
            let running = all.processes.iter().filter(|p| p.is_active()).count();
            if running + all.starting >= RUNNING_MAX {
                let message = format!(
                    "{RUNNING_MAX} background processes are running; end one of them first"
                );
                return Err(limit_reached(message).into());
            }
            all.starting += 1;
            all.last_id += 1;
            all.last_id
        };
        let started = start(context, exec, id);
        let mut all = self.lock();
        all.starting -= 1;
        let process = started?;
        let at = all.processes.partition_point(|other| other.id < id);
        all.processes.insert(at, Arc::clone(&process));
        drop(all);
        let info = process.info();
        context.collector.add(Source::Process(process));
        Ok(Reply::Started(info))
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
        if process.child.kill_group(os_signal(signal)) {
            return Ok(Reply::Done { truncated: false });
        }
        Err(invalid(format!("background process {id} has already ended")).into())
    }

    /// Sends the output of a process, with `follow` until it has ended.
    pub(crate) fn output(
        &self,
        id: u64,
        follow: bool,
        connection: &mut Connection,
    ) -> Result<Reply, Stop> {
        let process = self.find(id)?;
        let news = Arc::new(
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| {
                limit_reached(format!("cannot follow background process {id}: {error}"))
            })?,
        );
        let follower = Arc::clone(&news);
        process.lock_streams().followers.push(Arc::clone(&news));
        let result = send_output(&process, follow, &news, connection);
        let mut streams = process.lock_streams();
        streams
            .followers
            .retain(|other| !Arc::ptr_eq(other, &follower));
        result
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

fn start(context: &Arc<Context>, exec: &Exec, id: u64) -> Result<Arc<Process>, Stop> {
    let mut spec = exec::spec(context, exec);
    let pipes = exec::make_pipes(exec, &mut spec)
        .map_err(|error| limit_reached(format!("cannot make pipes for the command: {error}")))?;
    let killed_before = context.out_of_memory.count();
    let child = context
        .spawner
        .spawn(spec)
        .map_err(agent_protocol::Failure::from)?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let streams = Streams {
        pipes: [pipes.stdout.map(Arc::new), pipes.stderr.map(Arc::new)],
        kept: Output::default(),
        followers: Vec::new(),
    };
    Ok(Arc::new(Process {
        context: Arc::clone(context),
        id,
        command: shown(&exec.command),
        started_ms: since_epoch.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }),
        child,
        killed_before,
        exit: OnceLock::new(),
        stdin: Mutex::new(pipes.stdin.map_or(Stdin::Closed, Stdin::Open)),
        streams: Mutex::new(streams),
    }))
}

/// A command as listings show it.
fn shown(command: &Command) -> String {
    let text = match command {
        Command::Shell(line) | Command::Script(line) => line.clone(),
        Command::Argv(argv) => argv.join(" "),
    };
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn send_output(
    process: &Process,
    follow: bool,
    news: &OwnedFd,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    let mut position = 0;
    loop {
        // Asked before the pipes are read: what it wrote is in them then.
        let exit = process.exit();
        process.lock_streams().take_available();
        let _ = rustix::io::read(news, &mut [0; 8]);
        loop {
            let piece = process.lock_streams().kept.piece(position, PIECE_BYTES);
            let Some((stream, bytes, after)) = piece else {
                break;
            };
            position = after;
            match stream {
                Stream::Output => connection.send_output(&bytes)?,
                Stream::Error => connection.send_error(&bytes)?,
            }
        }
        let truncated = process.lock_streams().kept.is_truncated();
        if let Some(exit) = exit {
            return Ok(Reply::Exited(Exit { truncated, ..exit }));
        }
        if !follow {
            return Ok(Reply::Done { truncated });
        }
        // Without a deadline: following ends with the process or the connection.
        let mut polled = [
            PollFd::new(news, PollFlags::IN),
            PollFd::from_borrowed_fd(process.child.exit.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::RDHUP),
        ];
        poll_until(&mut polled, None)?;
        if !polled[2].revents().is_empty() {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
    }
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
