//! The server's side: asks the spawner, keeps descriptors, connects.
//!
//! It needs no privilege. What it knows about a sandbox is a descriptor of its
//! first process and the sockets of its name service; both can be had again from
//! the spawner after a restart.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sandbox::{
    AgentStream, Capabilities, Condition, Created, Ended, Error, Found, Id, Image, Leftovers,
    Limits, Result, Runtime, Spec, StepTime, Usage,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use crate::{
    Config, Spawner,
    cgroup::{self, Cgroups},
    doctor::LEAK_KINDS,
    error::{At as _, Step},
    image::Store,
    layout::Layout,
    network::{DnsForwarder, NetworkConfig},
    spawner::{CREATE_DEADLINE, DESTROY_DEADLINE, PACK_DEADLINE},
    wire::{
        Answer, AnswerReader, Create, Handles, Listed, REQUEST_BYTES_MAX, Request, kind_from_text,
    },
};

/// How long the spawner may take for what neither makes nor ends a sandbox.
/// Why no runtime class can be chosen.
const NO_CLASSES: &str = "the embedded runtime has one kind of walls for all sandboxes; classes need `server.runtime = \"docker\"`";
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);
/// How long cleaning up after crashes may take; files are removed later.
const SWEEP_DEADLINE: Duration = Duration::from_secs(120);
/// How long an image that was found counts as there.
const FOUND_IMAGE_TTL: Duration = Duration::from_secs(10);
/// How many found images are remembered.
const FOUND_IMAGES_MAX: usize = 64;
/// How long an agent may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How often a full queue of connections is tried again.
const CONNECT_RETRY: Duration = Duration::from_millis(2);
/// Bytes of an answer read at once.
const PIECE_BYTES: usize = 16 << 10;

/// Sandboxes made from Linux namespaces on this host.
#[derive(Debug)]
pub struct Embedded {
    layout: Layout,
    network: NetworkConfig,
    capabilities: Capabilities,
    cgroups: Box<dyn Cgroups>,
    spawner: AsyncFd<OwnedFd>,
    live: Mutex<HashMap<Id, Arc<Live>>>,
    /// Images that were found, and when: asking costs a worker process, and a
    /// creation looks again anyway.
    found_images: Mutex<HashMap<Image, Instant>>,
    /// More creations at once than processors only wait for each other.
    creating: Semaphore,
}

/// What the server holds of a running sandbox.
#[derive(Debug)]
struct Live {
    /// Readable when the first process has ended.
    pidfd: AsyncFd<OwnedFd>,
    /// Answers name lookups for as long as it is held.
    _names: Option<DnsForwarder>,
}

impl Embedded {
    /// Takes over the spawner, removes what earlier crashes have left, and finds
    /// the sandboxes of the scope that have gone on running.
    ///
    /// # Errors
    /// When the spawner does not answer or the host's control groups cannot be read.
    pub async fn start(config: Config, spawner: Spawner) -> Result<Self> {
        let layout = Layout::of(&config);
        let cgroups = cgroup::discover(&layout.cgroup_root())?;
        rustix::io::ioctl_fionbio(&spawner.socket, true).at(Step::AskSpawner, "its socket")?;
        let embedded = Self {
            layout,
            capabilities: Capabilities {
                runtime: "embedded",
                network_open: spawner.network,
                limits: cgroups.limits(),
                pause: cgroups.pause(),
                archive: Ok(()),
                runtime_classes: Err(NO_CLASSES.to_owned()),
            },
            network: config.network,
            cgroups,
            spawner: watch(spawner.socket, Interest::WRITABLE)
                .at(Step::AskSpawner, "its socket")?,
            live: Mutex::default(),
            found_images: Mutex::default(),
            creating: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
        };
        embedded.ask(&Request::Sweep, SWEEP_DEADLINE).await?;
        for found in embedded.list().await? {
            if found.condition == Condition::Alive
                && let Err(error) = embedded.live(&found.id).await
            {
                tracing::warn!(sandbox = %found.id, %error, "cannot take over a running sandbox");
            }
        }
        Ok(embedded)
    }

    /// Sends a request and waits for the answer, both within `deadline`.
    async fn ask(&self, request: &Request, deadline: Duration) -> Result<(Answer, Vec<OwnedFd>)> {
        self.ask_with(request, None, deadline).await
    }

    /// As [`Embedded::ask`], with a descriptor beside the request.
    pub(crate) async fn ask_with(
        &self,
        request: &Request,
        attached: Option<BorrowedFd<'_>>,
        deadline: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        match timeout(deadline, self.exchange(request, attached)).await {
            Ok(Ok((Answer::Failed { kind, message }, _))) => {
                Err(Error::new(kind_from_text(&kind), message))
            }
            Ok(result) => result,
            Err(_) => Err(Error::timeout(format!(
                "the spawner has not answered within {} s; see the server's log",
                deadline.as_secs()
            ))),
        }
    }

    async fn exchange(
        &self,
        request: &Request,
        attached: Option<BorrowedFd<'_>>,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        let at = Step::AskSpawner;
        let message = serde_json::to_vec(request).expect("strings and numbers always serialize");
        if message.len() > REQUEST_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the environment and other words of the request are together longer than {REQUEST_BYTES_MAX} bytes"
            )));
        }
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .at(at, "a new connection")?;
        rustix::io::ioctl_fionbio(&ours, true).at(at, "a new connection")?;
        let ours = watch(ours, Interest::READABLE).at(at, "a new connection")?;
        let mut descriptors = vec![theirs.as_fd()];
        descriptors.extend(attached);
        self.spawner
            .async_io(Interest::WRITABLE, |spawner| {
                sys::socket::send(spawner, &message, &descriptors)
            })
            .await
            .at(at, "because it has ended")?;
        drop(descriptors);
        drop(theirs);
        let mut reader = AnswerReader::default();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let received = ours
                .async_io(Interest::READABLE, |socket| {
                    sys::socket::receive(socket, &mut buffer)
                })
                .await
                .at(at, "its answer")?;
            if received.bytes == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof))
                    .at(at, "because its worker has ended")
                    .map_err(Error::from);
            }
            let whole = reader
                .push(&buffer[..received.bytes], received.descriptors)
                .at(at, "its answer")?;
            if let Some(whole) = whole {
                return Ok(whole);
            }
        }
    }

    /// Asks for something whose answer carries nothing.
    async fn order(&self, request: Request, deadline: Duration) -> Result<()> {
        match self.ask(&request, deadline).await? {
            (Answer::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Keeps the descriptors of a running sandbox.
    fn keep(&self, id: &Id, descriptors: Vec<OwnedFd>, dns: bool) -> Result<Arc<Live>> {
        let handles = Handles::from_descriptors(descriptors, dns)
            .ok_or_else(|| Error::internal("the spawner's answer lacks descriptors"))?;
        let names = handles.dns.and_then(|sockets| {
            tracing::info_span!("name_service", sandbox = %id)
                .in_scope(|| DnsForwarder::spawn(sockets, &self.network))
                .inspect_err(
                    |error| tracing::warn!(sandbox = %id, %error, "the sandbox has no name service"),
                )
                .ok()
        });
        let live = Arc::new(Live {
            pidfd: watch(handles.pidfd, Interest::READABLE)
                .at(Step::AskSpawner, "the first process")?,
            _names: names,
        });
        self.lock().insert(id.clone(), Arc::clone(&live));
        Ok(live)
    }

    /// The running sandbox, taken over from the spawner if it is not known yet.
    async fn live(&self, id: &Id) -> Result<Arc<Live>> {
        if let Some(live) = self.lock().get(id) {
            return Ok(Arc::clone(live));
        }
        let request = Request::Adopt { id: id.to_string() };
        match self.ask(&request, REQUEST_DEADLINE).await? {
            (Answer::Adopted { dns }, descriptors) => self.keep(id, descriptors, dns),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Asks for something that ends with a running sandbox.
    async fn make(&self, id: &Id, request: &Request) -> Result<Created> {
        let (answer, descriptors) = self.ask(request, CREATE_DEADLINE).await?;
        let Answer::Created { steps, dns } = answer else {
            return Err(unexpected(&answer));
        };
        self.keep(id, descriptors, dns)?;
        let steps = steps
            .into_iter()
            .map(|(step, us)| StepTime {
                step,
                duration: Duration::from_micros(us),
            })
            .collect();
        Ok(Created { steps })
    }

    /// Whether the image was there a moment ago.
    fn was_found(&self, image: &Image) -> bool {
        let found = self.found_images.lock();
        let found = found.unwrap_or_else(PoisonError::into_inner);
        found
            .get(image)
            .is_some_and(|since| since.elapsed() < FOUND_IMAGE_TTL)
    }

    /// The next creation looks again whether the image is there.
    pub(crate) fn forget(&self, image: &Image) {
        let found = self.found_images.lock();
        found.unwrap_or_else(PoisonError::into_inner).remove(image);
    }

    fn remember(&self, image: &Image) {
        let found = self.found_images.lock();
        let mut found = found.unwrap_or_else(PoisonError::into_inner);
        if found.len() >= FOUND_IMAGES_MAX {
            found.clear();
        }
        found.insert(image.clone(), Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Arc<Live>>> {
        // The map is whole after every statement that holds the lock.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sandbox as the spawner is asked for it.
fn wanted(id: &Id, spec: &Spec) -> Create {
    Create {
        id: id.to_string(),
        image: spec.image.to_string(),
        env: spec.env.clone(),
        memory_bytes: spec.limits.memory_bytes,
        cpu_millis: spec.limits.cpu_millis,
        pids: spec.limits.pids,
        network: spec.network.as_str().to_owned(),
    }
}

/// What a list says about one sandbox.
fn condition(listed: &Listed) -> Condition {
    match (listed.kept.as_deref(), listed.alive) {
        (Some("pack"), _) => Condition::Archived,
        (Some(_), _) => Condition::Stopped,
        (None, true) => Condition::Alive,
        (None, false) => Condition::Dead,
    }
}

/// Has the kernel tell when `descriptor` is ready.
fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "unsound for types whose descriptor may change; that of an OwnedFd cannot"
    )]
    AsyncFd::with_interest(descriptor, interest)
}

pub(crate) fn unexpected(answer: &Answer) -> Error {
    Error::internal(format!("the spawner's answer does not fit: {answer:?}"))
}

#[async_trait]
impl Runtime for Embedded {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn check(&self, spec: &Spec) -> Result<()> {
        // Images belong to root. Looking at them oneself is faster where one may.
        if rustix::process::geteuid().is_root() {
            Store::open(self.layout.state())?.resolve(&spec.image)?;
            return Ok(());
        }
        if self.was_found(&spec.image) {
            return Ok(());
        }
        let image = spec.image.to_string();
        self.order(Request::Check { image }, REQUEST_DEADLINE)
            .await?;
        self.remember(&spec.image);
        Ok(())
    }

    async fn create(&self, id: &Id, spec: &Spec) -> Result<Created> {
        let _turn = self
            .creating
            .acquire()
            .await
            .map_err(|_closed| Error::unavailable("the runtime is shutting down"))?;
        let request = Request::Create(wanted(id, spec));
        self.make(id, &request).await
    }

    async fn connect(&self, id: &Id) -> Result<AgentStream> {
        let path = self.layout.socket(id.as_str());
        let end = Instant::now() + CONNECT_DEADLINE;
        loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => return Ok(Box::new(stream)),
                // Its queue is full: the agent is behind, or stopped.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= end {
                        return Err(Error::timeout(format!(
                            "the agent of sandbox {id} does not accept connections"
                        )));
                    }
                    sleep(CONNECT_RETRY).await;
                }
                Err(error) => {
                    return Err(
                        Error::lost(format!("sandbox {id} is not running")).with_source(error)
                    );
                }
            }
        }
    }

    async fn ended(&self, id: &Id) -> Result<Ended> {
        let live = match self.live(id).await {
            Ok(live) => live,
            Err(error) if error.kind == sandbox::Kind::SandboxLost => {
                return Ok(Ended {
                    out_of_memory: self.cgroups.agent_oom_kills(id.as_str()) > 0,
                    detail: "its first process ended while no server was watching".to_owned(),
                });
            }
            Err(error) => return Err(error),
        };
        let _ready = live
            .pidfd
            .readable()
            .await
            .at(Step::AwaitProcess, "by its descriptor")?;
        let detail = match sys::pidfd::exit(live.pidfd.get_ref()) {
            Some(sys::pidfd::Exit::Status(status)) => format!("it exited with status {status}"),
            Some(sys::pidfd::Exit::Signal(signal)) => format!("it was killed by signal {signal}"),
            None => "it ended; this kernel does not tell how".to_owned(),
        };
        Ok(Ended {
            out_of_memory: self.cgroups.agent_oom_kills(id.as_str()) > 0,
            detail,
        })
    }

    async fn pause(&self, id: &Id) -> Result<()> {
        let id = id.to_string();
        self.order(Request::Pause { id }, REQUEST_DEADLINE).await
    }

    async fn resume(&self, id: &Id) -> Result<()> {
        let id = id.to_string();
        self.order(Request::Resume { id }, REQUEST_DEADLINE).await
    }

    async fn stop(&self, id: &Id) -> Result<()> {
        let request = Request::Stop { id: id.to_string() };
        // As for a removal.
        drop(self.lock().remove(id));
        self.order(request, DESTROY_DEADLINE).await
    }

    async fn start(&self, id: &Id, spec: &Spec) -> Result<Created> {
        let _turn = self
            .creating
            .acquire()
            .await
            .map_err(|_closed| Error::unavailable("the runtime is shutting down"))?;
        self.make(id, &Request::Start(wanted(id, spec))).await
    }

    async fn archive(&self, id: &Id) -> Result<()> {
        let id = id.to_string();
        self.order(Request::Archive { id }, PACK_DEADLINE).await
    }

    async fn restore(&self, id: &Id) -> Result<()> {
        let id = id.to_string();
        self.order(Request::Restore { id }, PACK_DEADLINE).await
    }

    async fn resize(&self, id: &Id, limits: &Limits) -> Result<()> {
        let request = Request::Resize {
            id: id.to_string(),
            memory_bytes: limits.memory_bytes,
            cpu_millis: limits.cpu_millis,
            pids: limits.pids,
        };
        self.order(request, REQUEST_DEADLINE).await
    }

    async fn destroy(&self, id: &Id) -> Result<()> {
        let request = Request::Destroy { id: id.to_string() };
        // The sockets of the name service keep the network alive. They close here,
        // unless somebody still waits for the end, which comes right away.
        drop(self.lock().remove(id));
        self.order(request, DESTROY_DEADLINE).await
    }

    async fn list(&self) -> Result<Vec<Found>> {
        match self.ask(&Request::List, REQUEST_DEADLINE).await? {
            (Answer::List { sandboxes }, _) => sandboxes
                .into_iter()
                .map(|listed| {
                    Ok(Found {
                        id: listed.id.parse()?,
                        condition: condition(&listed),
                        host_restarted: listed.host_restarted,
                    })
                })
                .collect(),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn usage(&self, id: &Id) -> Result<Usage> {
        self.cgroups
            .usage(id.as_str())?
            .ok_or_else(|| Error::not_found(format!("there is no sandbox {id}")))
    }

    async fn leftovers(&self) -> Result<Vec<Leftovers>> {
        let leaks = match self.ask(&Request::Leaks, REQUEST_DEADLINE).await? {
            (Answer::Leaks { leaks }, _) => leaks,
            (other, _) => return Err(unexpected(&other)),
        };
        let of = |kind: &str| Leftovers {
            kind: kind.replace(' ', "_"),
            objects: leaks
                .iter()
                .filter(|(of_kind, _)| of_kind == kind)
                .map(|(_, object)| object.clone())
                .collect(),
        };
        Ok(LEAK_KINDS.map(of).to_vec())
    }

    fn images(&self) -> Option<&dyn sandbox::Images> {
        Some(self)
    }
}
