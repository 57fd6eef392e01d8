//! Tries out whether a sandbox's file system can be mounted on this host.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    net::sockopt::{Timeout, set_socket_timeout},
    thread::CapabilitySet,
};
use sandbox::{Limits, NetworkMode};
use sys::namespace::Side;

use super::{id_map, init::Report, mounts, packet_pair};
use crate::{
    error::{At as _, Error, Step},
    layout::{Layout, UPPER, WORK, open_folder},
    plan::{CgroupPlan, Plan, SLOTS_MAX, uid_base},
};

/// How long the probe may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// The empty image and, beside it since it is mounted over, the sandbox's folder.
const LAYER: &str = "layer";
const SANDBOX: &str = "sandbox";
/// Longest report of the probing process, bytes.
const REPORT_BYTES_MAX: usize = 4096;

/// What the probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A sandbox's file system was mounted.
    Works,
    /// It could not be tried.
    NotTried(String),
}

/// Mounts an empty layer as a sandbox's file system, in a process of its own.
///
/// # Errors
/// The step that failed.
pub(crate) fn probe(layout: &Layout) -> Result<Probe, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Probe::NotTried("only root can try it".to_owned()));
    }
    let name = format!("probe-{}", std::process::id());
    let folder = layout.state().join(&name);
    let sandbox = folder.join(SANDBOX);
    for folder in [folder.join(LAYER), sandbox.join(UPPER), sandbox.join(WORK)] {
        fs::create_dir_all(&folder).at(Step::MakeFolder, folder.display())?;
    }
    let result = in_child(&folder);
    let removed = open_folder(layout.state())
        .and_then(|state| sys::tree::remove(state, &CString::new(name)?))
        .at(Step::RemoveFiles, folder.display());
    match result {
        Err(error) if error.source.kind() == io::ErrorKind::ResourceBusy => Ok(Probe::NotTried(
            "a program with threads cannot try it".to_owned(),
        )),
        result => result.and(removed).map(|()| Probe::Works),
    }
}

fn in_child(folder: &Path) -> Result<(), Error> {
    // A slot that is never given out.
    let owner = uid_base(SLOTS_MAX);
    let namespace = id_map::begin(owner)?.finish()?;
    let (socket, theirs) = packet_pair().at(Step::AwaitProcess, "a connection")?;
    match sys::namespace::fork().at(Step::CloneProcess, "no new namespaces")? {
        Side::Child => {
            let report = match mount(folder, owner, &namespace) {
                Ok(()) => Report::Ready {
                    mounts: Duration::ZERO,
                    identity: Duration::ZERO,
                },
                Err(error) => Report::failed(&error),
            };
            let sent = super::init::send(&theirs, &report);
            sys::namespace::exit_now(i32::from(sent.is_err()))
        }
        Side::Parent(child) => {
            drop(theirs);
            let result = await_report(&socket);
            // Ended by now, or about to.
            let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
            result
        }
    }
}

fn mount(folder: &Path, owner: u32, namespace: &OwnedFd) -> Result<(), Error> {
    sys::namespace::unshare_mount().at(Step::MountOverlay, "a mount namespace")?;
    let plan = Plan {
        host_name: String::new(),
        uid_base: owner,
        slot: SLOTS_MAX,
        network: NetworkMode::None,
        layers: vec![folder.join(LAYER)],
        fresh: Vec::new(),
        mounts: Vec::new(),
        masked: &[],
        read_only: &[],
        cgroup: CgroupPlan {
            user: Limits::default(),
            agent_memory_bytes: 0,
            agent_pids: 0,
        },
        resources: &[],
        capabilities: CapabilitySet::empty(),
        oom_score: 0,
        workdir: "/".to_owned(),
        environment: Vec::new(),
    };
    mounts::enter(&plan, &folder.join(SANDBOX), namespace.as_fd())?;
    fs::write("/written", "by the probe").at(Step::MountOverlay, "a writable layer")
}

fn await_report(socket: &OwnedFd) -> Result<(), Error> {
    let at = Step::AwaitProcess;
    set_socket_timeout(socket, Timeout::Recv, Some(PROBE_DEADLINE)).at(at, "its connection")?;
    let mut buffer = vec![0; REPORT_BYTES_MAX];
    let received = sys::socket::receive(socket, &mut buffer).at(at, "in time")?;
    match serde_json::from_slice(&buffer[..received.bytes]).at(at, "in known words")? {
        Report::Ready { .. } => Ok(()),
        Report::Failed {
            step,
            object,
            errno,
        } => Err(io::Error::from_raw_os_error(errno)).at(step, object),
    }
}
