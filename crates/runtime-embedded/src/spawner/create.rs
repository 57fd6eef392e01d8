//! Makes one sandbox, in a worker that does nothing else.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _, chown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::Mode,
    net::sockopt::{Timeout, set_socket_timeout},
    process::{Pid, Signal, pidfd_send_signal},
};
use sys::namespace::{Cloned, Side};

use super::{
    check::Wanted,
    host::Host,
    id_map::{self, Pending},
    init::{self, Luggage, Report},
    packet_pair,
};
use crate::{
    cgroup::{AgentFiles, Entrance},
    error::{At as _, Error, Step},
    image::Store,
    kept::{self, Ids},
    layout::{UPPER, WORK, open_folder},
    network::{self, DnsSockets},
    plan::{Plan, Wish, uid_base},
    process::Identity,
    record::{ImageWords, Record},
    wire::Handles,
};

/// How long the first process may take until it is the agent.
const READY_DEADLINE: Duration = Duration::from_secs(10);
/// Longest report of the first process, bytes.
const REPORT_BYTES_MAX: usize = 16 << 10;
/// Connections to an agent that wait to be accepted.
const BACKLOG: i32 = 256;

/// What the spawner has done before the worker exists.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) wanted: Wanted,
    pub(super) slot: u32,
    /// The sandbox's folder, locked.
    pub(super) lock: File,
    /// What was written down about one that is only started again.
    pub(super) again: Option<Record>,
}

/// A sandbox that runs.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) handles: Handles,
    /// Step and duration in microseconds.
    pub(super) steps: Vec<(String, u64)>,
}

/// Measures one step after the other.
struct Stopwatch {
    last: Instant,
    steps: Vec<(String, u64)>,
}

impl Stopwatch {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// What has passed since the last step belongs to `step`.
    fn lap(&mut self, step: &str) {
        let now = Instant::now();
        self.add(step, now - self.last);
        self.last = now;
    }

    fn add(&mut self, step: &str, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.steps.push((step.to_owned(), us));
    }
}

/// Everything on the host that the first process takes along.
struct Parts {
    plan: Plan,
    record: Record,
    folder: PathBuf,
    listener: OwnedFd,
    files: AgentFiles,
    entrance: Entrance,
    user_namespace: OwnedFd,
}

/// Makes the sandbox. On failure the caller removes what was made.
///
/// # Errors
/// The step that failed.
pub(super) fn run(host: &Host, prepared: Prepared) -> sandbox::Result<Made> {
    let mut watch = Stopwatch::new();
    // Modes in the plan are meant as they are written.
    rustix::process::umask(Mode::empty());
    let pending = id_map::begin(uid_base(prepared.slot))?;
    let parts = make_parts(host, &prepared, pending, &mut watch)?;
    let (socket, theirs) = packet_pair().at(Step::CloneProcess, "a connection")?;
    let birth = parts.entrance.birth.as_ref().map(|group| group.as_fd());
    let cloned = match sys::namespace::clone_into_namespaces(birth)
        .at(Step::CloneProcess, "new namespaces")?
    {
        Side::Parent(cloned) => cloned,
        Side::Child => {
            // The lock is the worker's; a copy here would outlive it.
            drop(prepared.lock);
            drop(socket);
            init::run(&Luggage {
                plan: &parts.plan,
                folder: &parts.folder,
                filter: &host.filter,
                agent: &host.agent,
                user_namespace: &parts.user_namespace,
                listener: &parts.listener,
                files: &parts.files,
                entrance: &parts.entrance,
                socket: &theirs,
            })
        }
    };
    drop(theirs);
    watch.lap("clone");
    let started = start(host, parts, &cloned, &socket, &mut watch);
    if started.is_err() {
        // It may be waiting for us; gone it is either way.
        let _ = pidfd_send_signal(&cloned.pidfd, Signal::KILL);
    }
    let dns = started?;
    Ok(Made {
        handles: Handles {
            pidfd: cloned.pidfd,
            dns,
        },
        steps: watch.steps,
    })
}

/// Makes what the sandbox needs on the host, from the record on.
fn make_parts(
    host: &Host,
    prepared: &Prepared,
    pending: Pending,
    watch: &mut Stopwatch,
) -> sandbox::Result<Parts> {
    let (wanted, slot) = (&prepared.wanted, prepared.slot);
    let id = wanted.id.as_str();
    let folder = host.layout.sandbox(id);
    let (record, image) = match &prepared.again {
        Some(earlier) => again(host, prepared, earlier, &folder)?,
        None => anew(host, prepared, &folder, watch)?,
    };
    let plan = Plan::new(&Wish {
        id: &wanted.id,
        slot,
        limits: wanted.limits,
        network: wanted.network,
        env: &wanted.env,
        layers: &record.layers,
        image_env: &image.env,
        workdir: &image.workdir,
        ca_layer: host.ca_layer.as_deref(),
    });
    watch.lap("record");
    prepare_upper(&plan, &folder, prepared.again.is_none())?;
    watch.lap("files");
    host.cgroups.create(id, &plan.cgroup)?;
    let files = host.cgroups.open_for_agent(id)?;
    let entrance = host.cgroups.entrance(id)?;
    watch.lap("cgroup");
    let listener = listen(host, id)?;
    let user_namespace = pending.finish()?;
    watch.lap("idmap");
    Ok(Parts {
        plan,
        record,
        folder,
        listener,
        files,
        entrance,
        user_namespace,
    })
}

/// Writes down a sandbox that is to be made.
fn anew(
    host: &Host,
    prepared: &Prepared,
    folder: &Path,
    watch: &mut Stopwatch,
) -> sandbox::Result<(Record, ImageWords)> {
    let store = Store::open(host.layout.state())?;
    // Until it is written down that they are used, no layer may go.
    let hold = store.hold()?;
    let image = store.resolve(&prepared.wanted.image)?;
    watch.lap("image");
    let words = ImageWords {
        env: image.env,
        workdir: image.workdir,
    };
    let record = Record {
        scope: host.config.scope.clone(),
        owner: host.config.ephemeral.then_some(host.server),
        slot: prepared.slot,
        open_network: prepared.wanted.network == sandbox::NetworkMode::Open,
        layers: image.layers,
        boot_id: host.boot_id.clone(),
        worker: Identity::own().at(Step::WriteRecord, "the worker's identity")?,
        init: None,
        image: Some(words.clone()),
        kept: None,
        files_slot: None,
    };
    record.write(folder)?;
    drop(hold);
    Ok((record, words))
}

/// Writes down a sandbox that is to be started on its kept files, and gives them to
/// the ids of its slot, should that be another one than before.
fn again(
    host: &Host,
    prepared: &Prepared,
    earlier: &Record,
    folder: &Path,
) -> sandbox::Result<(Record, ImageWords)> {
    let words = match &earlier.image {
        Some(words) => words.clone(),
        // Made before this was written down: the image of the same name must do.
        None => {
            let image = Store::open(host.layout.state())?.resolve(&prepared.wanted.image)?;
            ImageWords {
                env: image.env,
                workdir: image.workdir,
            }
        }
    };
    let slot = prepared.slot;
    let files_slot = earlier.files_slot.unwrap_or(earlier.slot);
    let mut record = Record {
        owner: host.config.ephemeral.then_some(host.server),
        slot,
        open_network: prepared.wanted.network == sandbox::NetworkMode::Open,
        boot_id: host.boot_id.clone(),
        worker: Identity::own().at(Step::WriteRecord, "the worker's identity")?,
        init: None,
        kept: None,
        files_slot: (files_slot != slot).then_some(files_slot),
        ..earlier.clone()
    };
    record.write(folder)?;
    if let Some(files_slot) = record.files_slot {
        let upper = folder.join(UPPER);
        let upper = open_folder(&upper).at(Step::ShiftOwners, upper.display())?;
        kept::shift(&upper.into(), Ids::of(files_slot), Ids::of(slot))?;
        record.files_slot = None;
        record.write(folder)?;
    }
    Ok((record, words))
}

/// Makes the writable layer, still empty; or lets the one that is there be mounted
/// again, for which overlayfs wants a new folder of its own.
fn prepare_upper(plan: &Plan, folder: &Path, is_new: bool) -> Result<(), Error> {
    let at = Step::PrepareUpper;
    let (upper, work) = (folder.join(UPPER), folder.join(WORK));
    if !is_new {
        let name = CString::new(WORK).at(at, work.display())?;
        open_folder(folder)
            .and_then(|folder| sys::tree::remove(folder, &name))
            .at(at, work.display())?;
    }
    DirBuilder::new()
        .mode(0o700)
        .create(&work)
        .at(at, work.display())?;
    if !is_new {
        return Ok(());
    }
    DirBuilder::new()
        .mode(0o755)
        .create(&upper)
        .at(at, upper.display())?;
    chown(&upper, Some(plan.uid_base), Some(plan.uid_base)).at(at, upper.display())
}

/// Binds the agent's socket, which only the server may connect to.
fn listen(host: &Host, id: &str) -> Result<OwnedFd, Error> {
    let path = host.layout.socket(id);
    let bind = || -> io::Result<OwnedFd> {
        let listener = UnixListener::bind(&path)?;
        rustix::net::listen(&listener, BACKLOG)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        chown(
            &path,
            Some(host.config.server_uid),
            Some(host.config.server_gid),
        )?;
        Ok(listener.into())
    };
    bind().at(Step::BindSocket, path.display())
}

/// Does for the first process what it cannot do itself, while it mounts its
/// file system, and waits until it is the agent.
fn start(
    host: &Host,
    parts: Parts,
    cloned: &Cloned,
    socket: &OwnedFd,
    watch: &mut Stopwatch,
) -> sandbox::Result<Option<DnsSockets>> {
    let mut record = parts.record;
    record.init = Some(Identity::of(cloned.pid).at(Step::WriteRecord, "the first process")?);
    record.write(&parts.folder)?;
    set_oom_score(cloned.pid, parts.plan.oom_score);
    watch.lap("init");
    let dns = connect_network(host, &parts.plan, cloned.pid)?;
    watch.lap("network");
    sys::socket::send(socket, b"g", &[]).at(Step::AwaitProcess, "a failed start")?;
    let (mounts, identity) = await_agent(socket)?;
    watch.lap("ready");
    watch.add("mounts", mounts);
    watch.add("identity", identity);
    Ok(dns)
}

/// Lowering the score needs a capability that not every host's root has, and the
/// agent runs without it too.
fn set_oom_score(pid: Pid, score: i32) {
    let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
    let _ = fs::write(path, score.to_string());
}

fn connect_network(host: &Host, plan: &Plan, pid: Pid) -> sandbox::Result<Option<DnsSockets>> {
    let at = Step::ConnectNetwork;
    let number = pid.as_raw_nonzero().get();
    let path = format!("/proc/{number}/ns/net");
    let namespace = File::open(&path).at(at, &path)?;
    network::connect(
        &host.config.network,
        plan.network,
        plan.slot,
        number.unsigned_abs(),
        namespace.as_fd(),
    )
    .map_err(|error| {
        let kind = match error {
            network::NetworkError::Unavailable { .. } => sandbox::Kind::InvalidRequest,
            network::NetworkError::PoolTooSmall { .. } => sandbox::Kind::LimitReached,
            _ => sandbox::Kind::Internal,
        };
        sandbox::Error::new(kind, error.to_string())
    })
}

/// Reads the reports of the first process until it has become the agent.
fn await_agent(socket: &OwnedFd) -> Result<(Duration, Duration), Error> {
    let at = Step::AwaitProcess;
    let mut times = None;
    let mut buffer = vec![0; REPORT_BYTES_MAX];
    let end = Instant::now() + READY_DEADLINE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // Zero would mean to wait for ever.
        let left = left.max(Duration::from_millis(1));
        set_socket_timeout(socket, Timeout::Recv, Some(left)).at(at, "its connection")?;
        let received = match sys::socket::receive(socket, &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::from(io::ErrorKind::TimedOut)).at(at, "in time");
            }
            // Told once, before its last words, by a process that ended without
            // having read ours.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
            received => received.at(at, "its connection")?,
        };
        if received.bytes == 0 {
            // The connection closed by `execve`, or by a process killed on the way.
            return times
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
                .at(at, "before it was ready; was it killed for lack of memory?");
        }
        match serde_json::from_slice(&buffer[..received.bytes]).at(at, "in known words")? {
            Report::Ready { mounts, identity } => times = Some((mounts, identity)),
            Report::Failed {
                step,
                object,
                errno,
            } => return Err(io::Error::from_raw_os_error(errno)).at(step, object),
        }
    }
}
