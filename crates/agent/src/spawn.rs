//! Starting programs in the sandbox.
//!
//! A program must run in the cgroup of the workload, not in the agent's. Moving
//! a new process there costs milliseconds (the kernel waits for a grace period
//! of RCU), so it is done once: for the *spawner*, a second process of this
//! program that lives in the workload's cgroup and starts programs on request.
//! They are born there, and as children of the agent (`CLONE_PARENT`).
//!
//! ```text
//!  agent ──spec, descriptors──► spawner ──clone──► program
//!   │ ▲ ▲                        │                  ▲ │
//!   │ │ └──────── error ─────────┘                  │ │
//!   │ └─────────── process id ──────────────────────│─┘
//!   └───────────── is the parent of ────────────────┘
//! ```
//!
//! The spawner is at the mercy of the workload: it may be killed or stopped at
//! any time. It knows nothing worth taking, every wait for it has a deadline,
//! and a new one is started when it is gone.
//!
//! Where the workload has no cgroup of its own (in a container, which has one for
//! everything inside), there is no spawner: the agent starts programs itself. This
//! also spares `CLONE_PARENT`, which gVisor does not have.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd, RawFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_protocol::{Failure, FailureKind};
use rustix::process::{Pid, Signal};
use sys::process::SpawnStep;

use self::{server::Parent, socket::Answer};
use crate::{
    account::User,
    reaper::{ExitWaiter, Reaper},
};

pub(crate) mod server;
mod socket;
mod wire;

/// How long the spawner may take for one program. A sandbox that thrashes
/// for lack of memory is slow, so this is generous.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Most descriptors of one program besides the standard streams.
pub(crate) const EXTRA_DESCRIPTORS_MAX: usize = 8;

/// A program to start.
#[derive(Debug, Default)]
pub(crate) struct SpawnSpec {
    /// The program (looked up in the `PATH` of `env` unless it has a slash) and its arguments.
    pub(crate) argv: Vec<OsString>,
    /// Its whole environment.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Its working directory, absolute.
    pub(crate) cwd: PathBuf,
    /// Standard input; `/dev/null` when absent.
    pub(crate) stdin: Option<OwnedFd>,
    /// Standard output; `/dev/null` when absent.
    pub(crate) stdout: Option<OwnedFd>,
    /// Standard error; `/dev/null` when absent.
    pub(crate) stderr: Option<OwnedFd>,
    /// More descriptors, with the numbers they get (3 and up).
    pub(crate) extra_fds: Vec<(OwnedFd, RawFd)>,
    /// Whom it runs as; as the agent when absent.
    pub(crate) user: Option<User>,
    /// Whether standard input is to be its controlling terminal.
    pub(crate) terminal: bool,
}

/// A program that was started: the leader of a session and process group of its own.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its process id.
    pub(crate) pid: Pid,
    /// Its end.
    pub(crate) exit: Arc<ExitWaiter>,
    reaper: Arc<Reaper>,
}

impl Child {
    /// Sends a signal to its process group; `false` when the program has ended
    /// (what it left behind is not signalled).
    pub(crate) fn kill_group(&self, signal: Signal) -> bool {
        self.reaper.kill_group(self.pid, signal)
    }
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// Something that is not possible in a command line or an environment.
    #[error("{0}")]
    Invalid(String),
    /// The program, or the interpreter its first line names, does not exist.
    #[error("{program}: not found; give a path, or install it (PATH is {path})")]
    ProgramNotFound { program: String, path: String },
    /// The file is there but cannot be executed.
    #[error("{program}: cannot be executed: {source}")]
    NotExecutable { program: String, source: io::Error },
    /// The command line with the environment is over the kernel's limit.
    #[error(
        "the command and its environment are too long for the kernel; write the data to a file or send it by standard input"
    )]
    TooLong,
    /// The working directory cannot be entered.
    #[error("working directory {directory}: {source}")]
    Directory {
        directory: String,
        source: io::Error,
    },
    /// No process could be made.
    #[error(
        "no process can be started: {0}; the limit of processes or of memory of this sandbox is reached"
    )]
    LimitReached(io::Error),
    /// A step that does not depend on the request.
    #[error("cannot {step}: {source}")]
    Step { step: SpawnStep, source: io::Error },
    /// The spawner did not answer in time.
    #[error(
        "the program did not start within {} s; the sandbox is out of memory or its processes stopped the spawner; try again",
        SPAWN_TIMEOUT.as_secs()
    )]
    TimedOut,
    /// The spawner ended while it worked on this.
    #[error("the process that starts programs was lost: {0}; try again")]
    SpawnerLost(io::Error),
    /// The spawner could not be started.
    #[error("the process that starts programs cannot be started: {0}")]
    SpawnerNotStarted(io::Error),
}

impl From<SpawnError> for Failure {
    fn from(error: SpawnError) -> Self {
        let kind = match &error {
            SpawnError::Invalid(_) | SpawnError::TooLong => FailureKind::InvalidRequest,
            SpawnError::ProgramNotFound { .. } => FailureKind::NotFound,
            SpawnError::NotExecutable { .. } => FailureKind::PermissionDenied,
            SpawnError::Directory { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => FailureKind::NotFound,
                io::ErrorKind::PermissionDenied => FailureKind::PermissionDenied,
                _ => FailureKind::InvalidRequest,
            },
            SpawnError::LimitReached(_) => FailureKind::LimitReached,
            SpawnError::TimedOut => FailureKind::Timeout,
            SpawnError::Step { .. }
            | SpawnError::SpawnerLost(_)
            | SpawnError::SpawnerNotStarted(_) => FailureKind::Internal,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

/// Starts programs; see the module.
#[derive(Debug)]
pub(crate) struct Spawner {
    reaper: Arc<Reaper>,
    /// The workload's `cgroup.procs` files.
    cgroups: Vec<OwnedFd>,
    /// How many files programs may have open; as the agent when absent.
    open_files: Option<u64>,
    /// Whether the agent starts programs itself.
    is_direct: bool,
    /// The spawner's process, when there is one.
    server: Mutex<Option<Server>>,
}

/// The spawner's process, seen from the agent.
#[derive(Debug)]
struct Server {
    socket: OwnedFd,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be stopped or hostile by now: not asked, but killed.
        self.child.kill_group(Signal::KILL);
    }
}

impl Spawner {
    /// A spawner whose programs belong to these cgroups (none: to the agent's own) and may have so
    /// many files open.
    /// Its process is started on first use or by [`Spawner::warm_up`].
    pub(crate) fn new(reaper: Arc<Reaper>, cgroups: Vec<OwnedFd>, open_files: Option<u64>) -> Self {
        Self {
            reaper,
            cgroups,
            open_files,
            is_direct: false,
            server: Mutex::new(None),
        }
    }

    /// One without a process of its own: programs are like the agent's other children.
    pub(crate) fn direct(reaper: Arc<Reaper>, open_files: Option<u64>) -> Self {
        Self {
            is_direct: true,
            ..Self::new(reaper, Vec::new(), open_files)
        }
    }

    /// Starts the spawner's process, so that the first program need not wait for it.
    pub(crate) fn warm_up(&self) -> Result<(), SpawnError> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_none() && !self.is_direct {
            *server = Some(self.start_server()?);
        }
        Ok(())
    }

    /// Starts a program.
    ///
    /// # Errors
    /// With what is wrong with the program, or which limit is reached.
    pub(crate) fn spawn(&self, spec: SpawnSpec) -> Result<Child, SpawnError> {
        let message = wire::encode(&spec)?;
        if self.is_direct {
            return self.spawn_directly(&spec, &message);
        }
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let descriptors = spec.descriptors();
        loop {
            let (current, is_new) = match server.take() {
                Some(current) => (current, false),
                None => (self.start_server()?, true),
            };
            // From here on a process that ends is not taken for a stranger's.
            let spawning = self.reaper.begin();
            match socket::send(&current.socket, &message, &descriptors) {
                Ok(()) => {}
                // It was killed before this request: nothing has happened yet.
                Err(_) if !is_new => continue,
                Err(error) => return Err(SpawnError::SpawnerLost(error)),
            }
            let (pid, is_usable) = match socket::receive_answer(&current.socket) {
                Ok(Answer::Started(pid)) => (pid, true),
                Ok(Answer::StartedLast(pid)) => (pid, false),
                Ok(Answer::Failed(step, source)) => {
                    *server = Some(current);
                    return Err(classify(&spec, step, source));
                }
                // A socket closed with something unread is reset: it was killed
                // before it saw this request, and nothing has happened yet.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !is_new => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(SpawnError::TimedOut);
                }
                Err(error) => return Err(SpawnError::SpawnerLost(error)),
            };
            // The spawner is not to be believed.
            if !sys::process::is_child(pid) {
                return Err(SpawnError::SpawnerLost(io::ErrorKind::InvalidData.into()));
            }
            let exit = spawning.register(pid).map_err(SpawnError::SpawnerLost)?;
            *server = is_usable.then_some(current);
            let reaper = Arc::clone(&self.reaper);
            return Ok(Child { pid, exit, reaper });
        }
    }

    fn spawn_directly(&self, spec: &SpawnSpec, message: &[u8]) -> Result<Child, SpawnError> {
        let descriptors = spec.descriptors();
        let descriptors: Vec<_> = descriptors.iter().map(|(file, _)| file.as_fd()).collect();
        let spawning = self.reaper.begin();
        let pid = server::start(message, &descriptors, Parent::Caller, self.open_files)
            .map_err(|(step, errno)| classify(spec, step, io::Error::from_raw_os_error(errno)))?;
        let exit = spawning.register(pid).map_err(SpawnError::SpawnerLost)?;
        let reaper = Arc::clone(&self.reaper);
        Ok(Child { pid, exit, reaper })
    }

    fn start_server(&self) -> Result<Server, SpawnError> {
        let start = || -> io::Result<Server> {
            let (socket, theirs) = socket::pair(SPAWN_TIMEOUT)?;
            let cgroups: Vec<_> = self.cgroups.iter().map(AsFd::as_fd).collect();
            let spawning = self.reaper.begin();
            let program = server::program(theirs.as_fd(), &cgroups, self.open_files);
            let pid = sys::process::spawn(&program.borrow())
                .map_err(|error| io::Error::other(error.to_string()))?;
            let exit = spawning.register(pid)?;
            let reaper = Arc::clone(&self.reaper);
            let child = Child { pid, exit, reaper };
            Ok(Server { socket, child })
        };
        start().map_err(SpawnError::SpawnerNotStarted)
    }
}

impl SpawnSpec {
    /// Every descriptor to pass with the number it gets.
    fn descriptors(&self) -> Vec<(&OwnedFd, RawFd)> {
        let streams = [&self.stdin, &self.stdout, &self.stderr];
        let streams = streams.into_iter().zip(0..);
        streams
            .filter_map(|(stream, number)| Some((stream.as_ref()?, number)))
            .chain(self.extra_fds.iter().map(|(file, number)| (file, *number)))
            .collect()
    }

    /// The `PATH` the program is looked up in.
    fn path(&self) -> OsString {
        let found = self.env.iter().rev().find(|(name, _)| name == "PATH");
        found.map_or_else(|| DEFAULT_PATH.into(), |(_, value)| value.clone())
    }
}

/// Where programs are looked up when the environment has no `PATH`.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a failed step means for this program.
fn classify(spec: &SpawnSpec, step: SpawnStep, source: io::Error) -> SpawnError {
    let program = || {
        let name = spec.argv.first().cloned().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    match (
        step,
        source
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error),
    ) {
        (SpawnStep::Directory, _) => SpawnError::Directory {
            directory: spec.cwd.display().to_string(),
            source,
        },
        (_, Some(rustix::io::Errno::AGAIN | rustix::io::Errno::NOMEM)) => {
            SpawnError::LimitReached(source)
        }
        (SpawnStep::Execute, Some(rustix::io::Errno::TOOBIG)) => SpawnError::TooLong,
        (SpawnStep::Execute, Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR)) => {
            SpawnError::ProgramNotFound {
                program: program(),
                path: spec.path().to_string_lossy().into_owned(),
            }
        }
        (SpawnStep::Execute, _) => SpawnError::NotExecutable {
            program: program(),
            source,
        },
        (step, _) => SpawnError::Step { step, source },
    }
}
