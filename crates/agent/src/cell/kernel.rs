//! A kernel: the process that runs the cells of one context.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use agent_protocol::{Failure, FailureKind};
use rustix::{
    event::{PollFd, PollFlags},
    fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create},
    io::{Errno, ioctl_fionread},
    pipe::{PipeFlags, pipe_with},
    process::Signal,
};

use super::{
    channel::{Channel, ChannelError, Message},
    poll_until,
    turn::{Turn, wish},
};
use crate::{
    context::{Context, OutOfMemory},
    failure::{failure, limit_reached},
    reaper::ExitStatus,
    spawn::{Child, SpawnError, SpawnSpec},
};

/// The program of the kernel process.
const DRIVER: &str = include_str!("driver.py");

/// Loads [`DRIVER`] from the descriptor and runs it on the channel.
const BOOTSTRAP: &str = include_str!("bootstrap.py");

/// Numbers of the channel and of the driver's source, as `bootstrap.py` knows them.
const CHANNEL_NUMBER: i32 = 3;
const DRIVER_NUMBER: i32 = 4;

/// How long the start may take: a cold disk and a busy machine make it slow.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How much a kernel's error output may add to the message that it did not start.
const START_OUTPUT_BYTES_MAX: usize = 4 << 10;

/// How much of what is printed between cells is kept for the next one, by stream.
const BACKLOG_BYTES_MAX: usize = 64 << 10;

/// How much is read from a pipe at once. A buffer of this size is quickly had:
/// larger ones are mapped anew each time.
pub(super) const READ_BYTES: usize = 16 << 10;

/// How much the watcher takes from a pipe in one go, so that a flood in one
/// context does not keep it from the others.
const IDLE_READ_BYTES_MAX: usize = 1 << 20;

/// The reading end of an output of the kernel.
#[derive(Debug)]
pub(super) struct Output {
    /// Absent when nobody can write any more.
    pipe: Option<OwnedFd>,
    /// What came between cells, the oldest dropped.
    backlog: VecDeque<u8>,
    dropped: u64,
}

/// A kernel; see the module. Dropped, its process group is killed.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) child: Child,
    pub(super) channel: Channel,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    /// A signal was sent that the driver may not have seen yet.
    pub(super) needs_synchronization: bool,
    /// Whether the watcher knows it.
    pub(super) is_watched: bool,
    /// How many processes had been killed for lack of memory before the last cell.
    out_of_memory_before: u64,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.child.kill_group(Signal::KILL);
    }
}

impl Kernel {
    /// Starts a kernel and waits until it is ready.
    ///
    /// # Errors
    /// With what is missing in the sandbox, or why it did not start.
    pub(super) fn start(context: &Context, cwd: &Path, turn: &Turn) -> Result<Self, Failure> {
        let mut kernel = Self::spawn(context, cwd)?;
        let deadline = Instant::now() + START_TIMEOUT;
        let (mut ready, mut interrupted) = (None, false);
        while ready.is_none() {
            if Instant::now() >= deadline {
                return Err(failure(
                    FailureKind::Timeout,
                    format!(
                        "the Python kernel was not ready within {} s; the sandbox may lack processor time or memory",
                        START_TIMEOUT.as_secs()
                    ),
                ));
            }
            kernel.wait_for_start(turn, deadline)?;
            let wishes = turn.take_wishes();
            interrupted |= wishes & wish::INTERRUPT != 0;
            if wishes & wish::RESTART != 0 {
                return Err(failure(
                    FailureKind::Internal,
                    "the Python kernel was restarted while it started; run the cell again",
                ));
            }
            kernel.stdout.keep(READ_BYTES);
            kernel.stderr.keep(READ_BYTES);
            ready = match kernel.channel.receive() {
                Ok(None) if kernel.child.exit.status().is_some() => {
                    return Err(kernel.not_started("it ended", &context.out_of_memory));
                }
                Ok(message) => message,
                Err(error) => return Err(kernel.not_started_by(&error, &context.out_of_memory)),
            };
        }
        if interrupted {
            // For the cell, which has not begun.
            turn.wish(wish::INTERRUPT);
        }
        match ready {
            Some(Message::Ready) => {
                kernel.stdout.forget();
                kernel.stderr.forget();
                Ok(kernel)
            }
            Some(Message::IPythonMissing) => Err(failure(
                FailureKind::Missing,
                "IPython, which Python cells need, is not installed for python3; run `pip install ipython` in the sandbox and try again, or add `ipython` to the Python packages in the recipe of the image",
            )),
            Some(Message::Failed(reason)) => Err(failure(
                FailureKind::Missing,
                format!("the Python kernel cannot start: {reason}"),
            )),
            _ => {
                Err(kernel.not_started("its first message makes no sense", &context.out_of_memory))
            }
        }
    }

    fn spawn(context: &Context, cwd: &Path) -> Result<Self, Failure> {
        let (channel, theirs) = Channel::pair().map_err(no_descriptors)?;
        let (stdout, stdout_writer) = Output::new().map_err(no_descriptors)?;
        let (stderr, stderr_writer) = Output::new().map_err(no_descriptors)?;
        let driver = driver_file().map_err(no_descriptors)?;
        let spec = SpawnSpec {
            argv: ["python3", "-c", BOOTSTRAP.trim_end()]
                .map(Into::into)
                .into(),
            env: context.env_with(&BTreeMap::new()),
            cwd: cwd.to_owned(),
            stdin: None,
            stdout: Some(stdout_writer),
            stderr: Some(stderr_writer),
            extra_fds: vec![(theirs, CHANNEL_NUMBER), (driver, DRIVER_NUMBER)],
            ..SpawnSpec::default()
        };
        let out_of_memory_before = context.out_of_memory.count();
        let child = context.spawner.spawn(spec).map_err(|error| match error {
            SpawnError::ProgramNotFound { path, .. } => failure(
                FailureKind::Missing,
                format!(
                    "python3, which Python cells need, was not found (PATH is {path}); install Python 3.9 or newer in the sandbox (`apt-get update && apt-get install -y python3 python3-pip`), then `pip install ipython`, or use an image that has them"
                ),
            ),
            error => error.into(),
        })?;
        Ok(Self {
            child,
            channel,
            stdout,
            stderr,
            needs_synchronization: false,
            is_watched: false,
            out_of_memory_before,
        })
    }

    fn wait_for_start(&self, turn: &Turn, deadline: Instant) -> Result<(), Failure> {
        let mut sources = vec![
            PollFd::new(&self.channel, PollFlags::IN),
            PollFd::new(&*self.child.exit, PollFlags::IN),
            PollFd::new(turn, PollFlags::IN),
        ];
        let pipes = [self.stdout.pipe(), self.stderr.pipe()];
        for pipe in pipes.iter().flatten() {
            sources.push(PollFd::new(pipe, PollFlags::IN));
        }
        poll_until(&mut sources, Some(deadline)).map_err(no_descriptors)
    }

    fn not_started_by(&mut self, error: &ChannelError, out_of_memory: &OutOfMemory) -> Failure {
        // A process that ends closes its files first: its end says more.
        self.child.exit.wait(Duration::from_secs(1));
        self.not_started(&format!("its control channel: {error}"), out_of_memory)
    }

    fn not_started(&mut self, reason: &str, out_of_memory: &OutOfMemory) -> Failure {
        let reason = match self.child.exit.status() {
            Some(status) => self.describe_end(status, out_of_memory),
            None => reason.to_owned(),
        };
        self.stderr.keep(READ_BYTES);
        let output = self.stderr.take_backlog();
        let tail = &output[output.len().saturating_sub(START_OUTPUT_BYTES_MAX)..];
        let tail = String::from_utf8_lossy(tail);
        let said = if tail.trim().is_empty() {
            ""
        } else {
            "; it said: "
        };
        let message = format!(
            "the Python kernel did not start: {reason}{said}{}",
            tail.trim()
        );
        failure(FailureKind::Internal, message)
    }

    /// To be called before each cell.
    pub(super) fn begin(&mut self, out_of_memory: &OutOfMemory) {
        self.out_of_memory_before = out_of_memory.count();
    }

    /// Why it ended, for people.
    pub(super) fn describe_end(&self, status: ExitStatus, out_of_memory: &OutOfMemory) -> String {
        let killed = status.signal == Some(Signal::KILL.as_raw());
        if killed && out_of_memory.count() > self.out_of_memory_before {
            return "it was killed for lack of memory: the sandbox's memory limit was reached"
                .to_owned();
        }
        match status.signal {
            Some(number) => match signal_name(number) {
                Some(name) => format!("it was killed by signal {number} ({name})"),
                None => format!("it was killed by signal {number}"),
            },
            None => format!("its process exited with code {}", status.code),
        }
    }
}

impl Output {
    fn new() -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setfl(&reader, OFlags::NONBLOCK)?;
        let output = Self {
            pipe: Some(reader),
            backlog: VecDeque::new(),
            dropped: 0,
        };
        Ok((output, writer))
    }

    /// The pipe, while somebody can write to it.
    pub(super) fn pipe(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref()
    }

    /// How many bytes are in the pipe now.
    pub(super) fn available(&self) -> usize {
        let available = self
            .pipe
            .as_ref()
            .and_then(|pipe| ioctl_fionread(pipe).ok());
        available
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0)
    }

    /// Reads what is there; 0 when nothing is.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        match rustix::io::read(pipe, buffer) {
            Ok(count) if count > 0 => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Ok(_) | Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    /// Moves what is there to the backlog, at most about `limit` bytes.
    pub(super) fn keep(&mut self, limit: usize) {
        let mut buffer = vec![0; READ_BYTES];
        let mut taken = 0;
        while taken < limit {
            let count = self.read(&mut buffer);
            if count == 0 {
                break;
            }
            taken += count;
            self.backlog.extend(&buffer[..count]);
            let excess = self.backlog.len().saturating_sub(BACKLOG_BYTES_MAX);
            self.backlog.drain(..excess);
            self.dropped += u64::try_from(excess).unwrap_or(u64::MAX);
        }
    }

    /// What came between cells, with a word about what was dropped.
    pub(super) fn take_backlog(&mut self) -> Vec<u8> {
        let kept = std::mem::take(&mut self.backlog);
        let dropped = std::mem::take(&mut self.dropped);
        if dropped == 0 {
            return kept.into();
        }
        let mut bytes =
            format!("[{dropped} bytes printed between cells were dropped]\n").into_bytes();
        bytes.extend(kept);
        bytes
    }

    fn forget(&mut self) {
        self.take_backlog();
    }
}

/// Takes what came between cells; says so when the kernel has ended.
impl Kernel {
    pub(super) fn look_after(&mut self, out_of_memory: &OutOfMemory) -> Option<String> {
        self.stdout.keep(IDLE_READ_BYTES_MAX);
        self.stderr.keep(IDLE_READ_BYTES_MAX);
        let status = self.child.exit.status()?;
        Some(self.describe_end(status, out_of_memory))
    }
}

/// The driver's source as a file without a name.
fn driver_file() -> io::Result<OwnedFd> {
    let file = memfd_create("python-driver", MemfdFlags::CLOEXEC)?;
    let mut rest = DRIVER.as_bytes();
    while !rest.is_empty() {
        let written = rustix::io::write(file.as_fd(), rest)?;
        rest = &rest[written..];
    }
    Ok(file)
}

fn no_descriptors(error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    limit_reached(format!(
        "the agent has no files left for a Python kernel: {error}; end other work in this sandbox and try again"
    ))
}

fn signal_name(number: i32) -> Option<&'static str> {
    let names = [
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS, memory that a file no longer backs"),
        (Signal::FPE, "SIGFPE"),
        (Signal::HUP, "SIGHUP"),
        (Signal::ILL, "SIGILL, an instruction this processor lacks"),
        (Signal::INT, "SIGINT"),
        (Signal::KILL, "SIGKILL"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::SEGV, "SIGSEGV, a fault in compiled code"),
        (Signal::SYS, "SIGSYS, a forbidden system call"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
    ];
    let found = names.iter().find(|(signal, _)| signal.as_raw() == number);
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests;
