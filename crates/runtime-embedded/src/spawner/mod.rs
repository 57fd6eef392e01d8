//! The small privileged process: receives requests, forks a worker for each.
//!
//! It is single-threaded, holds no state that is not on disk, and lives as long
//! as its server. What it does itself, before a worker exists, is what must have
//! an order between requests: making the sandbox's folder, locking it, and
//! taking a slot. So a request to destroy can never overtake the one to create.

mod check;
mod create;
mod host;
mod id_map;
mod images;
mod init;
mod keep;
mod mounts;
mod nodes;
mod probe;
mod sweep;
mod teardown;
mod worker;

use std::{
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    mount::{MountPropagationFlags, mount_change},
    net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt},
};
use serde_json::json;
use sys::namespace::Side;

use crate::{
    Config,
    config::SpawnerConfig,
    error::{At as _, Error, Step},
    process::Identity,
    wire::{Answer, REQUEST_BYTES_MAX, Request, kind_from_text},
};
use host::Host;

pub(crate) use keep::PACK_DEADLINE;
pub(crate) use probe::{Probe, probe};
pub(crate) use teardown::DESTROY_DEADLINE;
pub(crate) use worker::CREATE_DEADLINE;

/// How long the spawner may take to get ready.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(15);
/// Workers at once; the next request waits.
const WORKERS_MAX: usize = 64;
/// How long a worker may hold up the next request, or the end of the spawner.
const WORKER_DEADLINE: Duration = Duration::from_secs(60);
/// Longest path of a socket, without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A running spawner, as its server holds it.
#[derive(Debug)]
pub struct Spawner {
    pub(crate) socket: OwnedFd,
    process_id: u32,
    /// Whether sandboxes can have a network, asked while the server is still root.
    pub(crate) network: Result<(), String>,
}

impl Spawner {
    /// The spawner's process, for logs.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Starts the spawner and waits until it is ready. Blocks; to be called
    /// before the server has threads and before it gives up its privileges.
    ///
    /// # Errors
    /// The step at which it failed; also what the spawner itself could not do.
    pub fn launch(config: &Config) -> Result<Self, Error> {
        let program = config.spawner.program.display();
        let example = crate::layout::Layout::of(config).socket("abcdefghijkmnpqrstuvwxyz23");
        if example.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename)).at(
                Step::LaunchSpawner,
                format_args!(
                    "because the run folder's path is too long for sockets: {}",
                    config.run_dir.display()
                ),
            );
        }
        let (ours, theirs) = packet_pair().at(Step::LaunchSpawner, &program)?;
        let agent = sealed_copy(config.agent).at(Step::LaunchSpawner, "a copy of the agent")?;
        let process_id = Command::new(&config.spawner.program)
            .args(&config.spawner.args)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .at(Step::LaunchSpawner, &program)?
            .id();
        let message = serde_json::to_vec(&SpawnerConfig::from(config))
            .expect("strings, numbers and paths of the configuration serialize");
        sys::socket::send(&ours, &message, &[agent.as_fd()]).at(Step::LaunchSpawner, &program)?;
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(LAUNCH_DEADLINE))
            .at(Step::LaunchSpawner, &program)?;
        let mut buffer = vec![0; REQUEST_BYTES_MAX];
        let received =
            sys::socket::receive(&ours, &mut buffer).at(Step::LaunchSpawner, &program)?;
        match serde_json::from_slice(&buffer[..received.bytes]) {
            Ok(Answer::Done) => Ok(Self {
                socket: ours,
                process_id,
                network: crate::network::capability(),
            }),
            Ok(Answer::Failed { kind, message }) => {
                let error = sandbox::Error::new(kind_from_text(&kind), message);
                Err(io::Error::other(error)).at(Step::LaunchSpawner, &program)
            }
            _ => {
                Err(io::Error::from(io::ErrorKind::UnexpectedEof)).at(Step::LaunchSpawner, &program)
            }
        }
    }
}

/// The body of the spawner's program. Its standard input is the socket that
/// [`Spawner::launch`] has made; everything else comes through it.
#[must_use]
pub fn spawner_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whether complaints are JSON, as the server's log.
static JSON_LOG: AtomicBool = AtomicBool::new(false);

/// The spawner has no logger; its words go where the server's errors go.
fn complain(error: &dyn std::error::Error) {
    let line = match JSON_LOG.load(Ordering::Relaxed) {
        true => json!({
            "timestamp": jiff::Timestamp::now().to_string(),
            "level": "WARN",
            "message": error.to_string(),
            "target": "spawner",
        })
        .to_string(),
        false => format!("spawner: {error}"),
    };
    // Nobody is left to be told when this fails too.
    let _ = writeln!(io::stderr(), "{line}");
}

fn serve() -> Result<(), Error> {
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)
        .at(Step::LaunchSpawner, "standard input")?;
    let prepared = receive_config(&socket).and_then(|(config, agent)| {
        JSON_LOG.store(config.json_log, Ordering::Relaxed);
        detach_from_terminal()?;
        let host = Host::new(config, agent)?;
        // Children of earlier steps are waited for; those from here on reap themselves.
        sys::namespace::ignore_signals(&[libc::SIGCHLD]).at(Step::LaunchSpawner, "signals")?;
        Ok(host)
    });
    let answer = match &prepared {
        Ok(_) => Answer::Done,
        Err(error) => Answer::Failed {
            kind: sandbox::Kind::Internal.as_str().to_owned(),
            message: error.to_string(),
        },
    };
    let message = serde_json::to_vec(&answer).expect("strings always serialize");
    sys::socket::send(&socket, &message, &[]).at(Step::LaunchSpawner, "the server")?;
    let mut host = prepared?;
    let mut workers = Workers::default();
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    while let Some(incoming) = next_request(&socket, &mut buffer)? {
        dispatch(&mut host, &mut workers, incoming);
    }
    workers.wait_for(0);
    if host.config.ephemeral {
        teardown::destroy_owned(&host, host.server);
    }
    Ok(())
}

/// The first message: configuration, and the agent as its descriptor.
fn receive_config(socket: &OwnedFd) -> Result<(SpawnerConfig, OwnedFd), Error> {
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    let mut received =
        sys::socket::receive(socket, &mut buffer).at(Step::LaunchSpawner, "the configuration")?;
    let config = serde_json::from_slice(&buffer[..received.bytes])
        .at(Step::LaunchSpawner, "the configuration")?;
    let agent = received
        .descriptors
        .pop()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        .at(Step::LaunchSpawner, "the agent")?;
    Ok((config, agent))
}

/// Out of the reach of the keyboard, of the mounts of others, and of the server's end.
fn detach_from_terminal() -> Result<(), Error> {
    let at = Step::LaunchSpawner;
    let null = std::fs::File::options()
        .read(true)
        .open("/dev/null")
        .at(at, "/dev/null")?;
    sys::namespace::place_descriptor(&null, 0).at(at, "standard input")?;
    // Fails for the leader of a group, who has no terminal to lose then.
    let _ = rustix::process::setsid();
    sys::namespace::ignore_signals(&[libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE])
        .at(at, "signals")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .at(at, "the reaper of orphans")?;
    sys::namespace::unshare_mount().at(at, "a mount namespace")?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .at(at, "a mount namespace")
}

/// A request as it came.
struct Incoming {
    request: Request,
    /// Where to send the answer.
    reply: OwnedFd,
    /// What else came with it.
    attached: Option<OwnedFd>,
}

/// The next request; `None` when the server has gone.
fn next_request(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<Incoming>, Error> {
    loop {
        let received = match sys::socket::receive(socket, buffer) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            // Too long, or too many descriptors: not from our server's code.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
            received => received.at(Step::AskSpawner, "the server")?,
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = received.descriptors.into_iter();
        let Some(reply) = descriptors.next() else {
            continue;
        };
        match serde_json::from_slice(&buffer[..received.bytes]) {
            Ok(request) => {
                return Ok(Some(Incoming {
                    request,
                    reply,
                    attached: descriptors.next(),
                }));
            }
            Err(error) => {
                let error = sandbox::Error::internal(format!("the request is malformed: {error}"));
                refuse(&reply, &error);
            }
        }
    }
}

/// Answers that something failed; if nobody listens there is nobody to tell.
fn refuse(reply: &OwnedFd, error: &sandbox::Error) {
    let _ = Answer::failed(error).send(reply, &[]);
}

/// Starts the worker for one request.
fn dispatch(host: &mut Host, workers: &mut Workers, incoming: Incoming) {
    let Incoming {
        request,
        reply,
        attached,
    } = incoming;
    let job = match worker::Job::prepare(host, request, attached) {
        Ok(job) => job,
        Err(error) => return refuse(&reply, &error),
    };
    workers.wait_for(WORKERS_MAX - 1);
    match sys::namespace::fork() {
        Ok(Side::Child) => {
            let status = worker::run(host, job, &reply);
            sys::namespace::exit_now(status)
        }
        Ok(Side::Parent(pid)) => workers.add(pid),
        Err(error) => {
            job.abandon(host);
            let error = Error {
                step: Step::AskSpawner,
                object: "a new worker".to_owned(),
                source: error,
            };
            refuse(&reply, &error.into());
        }
    }
}

/// The workers that may still be running.
#[derive(Debug, Default)]
struct Workers(Vec<OwnedFd>);

impl Workers {
    fn add(&mut self, pid: rustix::process::Pid) {
        use rustix::process::{PidfdFlags, pidfd_open};
        // A worker that has ended already needs no counting.
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            self.0.push(pidfd);
        }
    }

    /// Waits until at most `count` are left, or until they have had their time.
    fn wait_for(&mut self, count: usize) {
        self.0.retain(|pidfd| !has_ended(pidfd, Duration::ZERO));
        let end = Instant::now() + WORKER_DEADLINE;
        while self.0.len() > count {
            let left = end.saturating_duration_since(Instant::now());
            has_ended(&self.0[0], left);
            self.0.remove(0);
        }
    }
}

fn has_ended(pidfd: &OwnedFd, wait: Duration) -> bool {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    sys::pidfd::wait(pidfd, wait_ms).unwrap_or(true)
}

/// Two ends of a connection that keeps messages apart.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(io::Error::from)
}

/// The agent in memory, which nobody can change any more; all sandboxes share its pages.
fn sealed_copy(program: &[u8]) -> io::Result<OwnedFd> {
    const NAME: &str = "sandboxai-agent";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Without EXEC a hardened kernel makes it not executable; kernels before 6.3 do not know it.
    let memory =
        memfd_create(NAME, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(NAME, flags))?;
    let mut file = std::fs::File::from(memory);
    file.write_all(program)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// The process that holds the other end of a socket pair was our parent at start.
fn server_identity() -> io::Result<Identity> {
    rustix::process::getppid()
        .ok_or_else(|| io::ErrorKind::NotFound.into())
        .and_then(Identity::of)
}
