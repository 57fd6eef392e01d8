//! The first process of a sandbox, from its making until it is the agent.
//!
//! It begins as a copy of the worker, root on the host, alone in its new
//! namespaces, and gives up one thing after another; what needs the host's root
//! comes first. The order matters and each step says so when it fails.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::OpenOptions,
    io,
    os::fd::{AsFd, IntoRawFd as _, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::Mode,
    io::fcntl_dupfd_cloexec,
    process::{Rlimit, getrlimit, setrlimit},
};
use serde::{Deserialize, Serialize};

use super::mounts;
use crate::{
    cgroup::{AgentFiles, Entrance},
    error::{At as _, Error, Step},
    init_contract,
    plan::Plan,
    seccomp::Filter,
};

/// Descriptors are set aside above this number while the lower ones are placed.
const ASIDE: i32 = 64;

/// What the child says to the worker. After `Ready` the end of the
/// connection means that the agent has been started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Ready {
        mounts: Duration,
        identity: Duration,
    },
    Failed {
        step: Step,
        object: String,
        errno: i32,
    },
}

impl Report {
    /// What has failed, as far as it can be sent.
    pub(super) fn failed(error: &Error) -> Self {
        Self::Failed {
            step: error.step,
            object: error.object.clone(),
            errno: error.source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// What the child takes along.
#[derive(Debug)]
pub(super) struct Luggage<'a> {
    pub(super) plan: &'a Plan,
    /// The sandbox's folder.
    pub(super) folder: &'a Path,
    pub(super) filter: &'a Filter,
    pub(super) agent: &'a OwnedFd,
    pub(super) user_namespace: &'a OwnedFd,
    pub(super) listener: &'a OwnedFd,
    pub(super) files: &'a AgentFiles,
    pub(super) entrance: &'a Entrance,
    /// To the worker.
    pub(super) socket: &'a OwnedFd,
}

/// Becomes the agent, or says why not and ends.
pub(super) fn run(luggage: &Luggage<'_>) -> ! {
    let Err(error) = become_agent(luggage);
    // A worker that is gone needs no report; the sandbox is swept then.
    let _ = send(luggage.socket, &Report::failed(&error));
    sys::namespace::exit_now(1)
}

pub(super) fn send(socket: impl AsFd, report: &Report) -> io::Result<()> {
    let message = serde_json::to_vec(report).expect("strings and numbers always serialize");
    sys::socket::send(socket, &message, &[]).map(|_| ())
}

fn become_agent(luggage: &Luggage<'_>) -> Result<Infallible, Error> {
    let plan = luggage.plan;
    let started = Instant::now();
    mounts::enter(plan, luggage.folder, luggage.user_namespace.as_fd())?;
    let mounts = started.elapsed();
    set_limits(plan)?;
    await_worker(luggage.socket)?;
    let started = Instant::now();
    enter_groups(luggage.entrance)?;
    become_user(luggage.user_namespace)?;
    enter_workdir(&plan.workdir)?;
    sys::credential::limit_capabilities(plan.capabilities)
        .at(Step::DropCapabilities, "capabilities")?;
    let (agent, socket) = place_descriptors(luggage)?;
    let (arguments, environment) = command(plan, luggage.files)?;
    let identity = started.elapsed();
    send(&socket, &Report::Ready { mounts, identity }).at(Step::AwaitProcess, "the worker")?;
    // From here on only what is allowed works.
    let failed = luggage
        .filter
        .install()
        .at(Step::InstallFilter, "the system call filter")
        .and_then(|()| {
            sys::namespace::execute(&agent, &arguments, &environment)
                .at(Step::ExecuteAgent, "from memory")
        });
    failed.inspect_err(|error| {
        let _ = send(&socket, &Report::failed(error));
        sys::namespace::exit_now(1)
    })
}

/// What is set once and inherited by every process of the sandbox.
fn set_limits(plan: &Plan) -> Result<(), Error> {
    let at = Step::SetLimits;
    rustix::system::sethostname(plan.host_name.as_bytes()).at(at, "the host name")?;
    for limit in plan.resources {
        // Raising needs a capability that not every host's root has.
        let present = getrlimit(limit.resource);
        let at_most =
            |wanted: u64, present: Option<u64>| present.map_or(wanted, |max| wanted.min(max));
        let hard = at_most(limit.hard, present.maximum);
        let wanted = Rlimit {
            current: Some(limit.soft.min(hard)),
            maximum: Some(hard),
        };
        setrlimit(limit.resource, wanted)
            .at(at, format_args!("the limit of {:?}", limit.resource))?;
    }
    rustix::process::setsid().at(at, "a session")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    sys::namespace::restore_default_signals().at(at, "the signals")
}

/// The worker has connected the network, when it says so with one byte.
fn await_worker(socket: &OwnedFd) -> Result<(), Error> {
    let received = sys::socket::receive(socket, &mut [0]).at(Step::AwaitProcess, "the worker")?;
    if received.bytes == 1 {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::UnexpectedEof)).at(Step::AwaitProcess, "the worker")
    }
}

/// Makes the workload's groups the visible roots, then moves to the agent's.
fn enter_groups(entrance: &Entrance) -> Result<(), Error> {
    let join = |group: &OwnedFd, whose: &str| {
        rustix::io::write(group, b"0")
            .map(|_| ())
            .at(Step::JoinCgroup, whose)
    };
    let mut user = entrance.user.iter();
    user.try_for_each(|group| join(group, "of the workload"))?;
    sys::namespace::unshare_cgroup().at(Step::HideCgroups, "control groups")?;
    let mut agent = entrance.agent.iter();
    agent.try_for_each(|group| join(group, "of the agent"))
}

/// Enters the sandbox's user namespace and becomes its root.
fn become_user(user_namespace: &OwnedFd) -> Result<(), Error> {
    sys::namespace::enter_user(user_namespace)
        .and_then(|()| sys::credential::set_ids(0, 0))
        .at(Step::BecomeUser, "the sandbox's root")
}

/// As the sandbox's own root, who can make what the image lacks and nothing else.
fn enter_workdir(workdir: &str) -> Result<(), Error> {
    let at = Step::EnterWorkdir;
    std::fs::create_dir_all(workdir).at(at, workdir)?;
    rustix::process::chdir(workdir).at(at, workdir)?;
    // A directory outside of the root has a name that does not begin with a slash.
    let now = rustix::process::getcwd(Vec::new()).at(at, workdir)?;
    if now.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::PermissionDenied)).at(at, workdir)
    }
}

/// Puts the agent's descriptors where it expects them and marks all others to be
/// closed. Returns what is still needed: the agent, and the worker's socket.
fn place_descriptors(luggage: &Luggage<'_>) -> Result<(OwnedFd, OwnedFd), Error> {
    let at = Step::PlaceDescriptors;
    let aside = |descriptor: &OwnedFd| fcntl_dupfd_cloexec(descriptor, ASIDE);
    let agent = aside(luggage.agent).at(at, "the agent")?;
    let socket = aside(luggage.socket).at(at, "the worker's socket")?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
        .at(at, "/dev/null")?;
    let mut sources = Vec::new();
    for descriptor in [&null, &null, &null, luggage.listener]
        .into_iter()
        .chain(&luggage.files.join)
        .chain(&luggage.files.oom)
    {
        sources.push(aside(descriptor).at(at, "a descriptor set aside")?);
    }
    let mut next = 0;
    for source in &sources {
        sys::namespace::place_descriptor(source, next).at(at, next)?;
        next += 1;
    }
    sys::namespace::close_on_execute_from(next).at(at, "all others")?;
    // Its number may be one of those just placed: it must not be closed. All other
    // owners of low numbers live in callers, which are never returned to.
    let _ = null.into_raw_fd();
    Ok((agent, socket))
}

/// The agent's arguments and environment, as the kernel takes them.
fn command(plan: &Plan, files: &AgentFiles) -> Result<(Vec<CString>, Vec<CString>), Error> {
    let arguments = init_contract::arguments(files.join.len(), files.oom.is_some(), &plan.workdir);
    let texts = |lines: &[String]| -> Result<Vec<CString>, Error> {
        lines
            .iter()
            .map(|line| CString::new(line.as_str()))
            .collect::<Result<_, _>>()
            .at(Step::ExecuteAgent, "with a zero byte in its environment")
    };
    Ok((texts(&arguments)?, texts(&plan.environment)?))
}
