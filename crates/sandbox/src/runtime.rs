//! The contract of everything that can make sandboxes.
//!
//! A runtime does not know what a command, a cell or a file is. It gives a
//! sandbox and byte streams to the program inside, and knows nothing else.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Id, Images, Limits, Result, RuntimeClass, Spec, Usage};

/// A byte stream in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// One connection to the agent of a sandbox.
pub type AgentStream = Box<dyn ByteStream>;

/// How long one step of a creation took, for `Server-Timing` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// The step as one lower-case word, e.g. `mounts`.
    pub step: String,
    /// How long it took.
    pub duration: Duration,
}

/// What a successful creation returns.
#[derive(Debug)]
pub struct Created {
    /// Where the time went.
    pub steps: Vec<StepTime>,
}

/// What is there of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its first process is alive.
    Alive,
    /// Its first process has ended, or it is half-made: it waits for
    /// [`Runtime::stop`] or [`Runtime::destroy`].
    Dead,
    /// It was stopped, and its files are kept.
    Stopped,
    /// It was archived.
    Archived,
}

/// A sandbox that the runtime still has, told on recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its identity.
    pub id: Id,
    /// What is there of it.
    pub condition: Condition,
    /// Whether it was made before the host's last restart.
    pub host_restarted: bool,
}

/// Things of one kind that a runtime has made and that no sandbox of it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers {
    /// What kind of thing, as lower-case words joined by `_`, e.g. `control_group`.
    pub kind: String,
    /// Which ones, in the words of the host.
    pub objects: Vec<String>,
}

/// How the first process of a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whether the kernel killed it for lack of memory.
    pub out_of_memory: bool,
    /// For people, e.g. `killed by signal 9`.
    pub detail: String,
}

/// What a runtime can do on this host, and with which strength.
#[derive(Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Name of the runtime, e.g. `embedded`.
    pub runtime: &'static str,
    /// Whether [`crate::NetworkMode::Open`] works, or why not.
    pub network_open: std::result::Result<(), String>,
    /// Whether limits are enforced, or why not.
    pub limits: std::result::Result<(), String>,
    /// Whether a sandbox can be paused, or why not.
    pub pause: std::result::Result<(), String>,
    /// Whether a stopped sandbox can be archived, or why not.
    pub archive: std::result::Result<(), String>,
    /// The runtime classes that may be chosen, or why none may.
    pub runtime_classes: std::result::Result<Vec<RuntimeClass>, String>,
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capabilities")
            .field("runtime", &self.runtime)
            .field("network_open", &self.network_open)
            .field("limits", &self.limits)
            .field("pause", &self.pause)
            .field("archive", &self.archive)
            .field("runtime_classes", &self.runtime_classes)
            .finish()
    }
}

/// Something that makes sandboxes.
///
/// Contract: every method may be called at any time for any id, also after the
/// server was killed and started again; every method returns within a deadline
/// of its own; `destroy` is idempotent and leaves nothing behind.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// What works on this host; asked once at start.
    fn capabilities(&self) -> Capabilities;

    /// Whether `spec.image` can be used, without making anything.
    ///
    /// # Errors
    /// `InvalidRequest` when there is no such image; the message lists what to do.
    async fn check(&self, spec: &Spec) -> Result<()>;

    /// Makes the sandbox and starts its agent. When it returns, [`Runtime::connect`] works.
    /// On failure, or when the future is dropped, nothing is left behind that
    /// [`Runtime::destroy`] would not remove.
    ///
    /// # Errors
    /// With the step that failed, its object and what to do.
    async fn create(&self, id: &Id, spec: &Spec) -> Result<Created>;

    /// A new byte stream to the agent. Any number may be open at once.
    ///
    /// # Errors
    /// `SandboxLost` when the sandbox is not alive.
    async fn connect(&self, id: &Id) -> Result<AgentStream>;

    /// Waits until the first process of the sandbox has ended; the one call without a deadline.
    ///
    /// # Errors
    /// `NotFound` when the runtime does not have the sandbox.
    async fn ended(&self, id: &Id) -> Result<Ended>;

    /// Freezes every process of the sandbox.
    ///
    /// # Errors
    /// `NotFound`, or the failed step.
    async fn pause(&self, id: &Id) -> Result<()>;

    /// Lets a paused sandbox run on.
    ///
    /// # Errors
    /// `NotFound`, or the failed step.
    async fn resume(&self, id: &Id) -> Result<()>;

    /// Ends every process of the sandbox and frees all that only they need;
    /// its files are kept. One that is dead becomes stopped too; stopping what is
    /// stopped or archived is a success.
    ///
    /// # Errors
    /// `NotFound`, or the failed step; calling again goes on where it stopped.
    async fn stop(&self, id: &Id) -> Result<()>;

    /// Starts a stopped sandbox: new processes with the limits and the
    /// environment of `spec` on the kept files. When it returns,
    /// [`Runtime::connect`] works. On failure, or when the future is dropped,
    /// [`Runtime::stop`] makes it stopped again.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it is not stopped, or the failed step.
    async fn start(&self, id: &Id, spec: &Spec) -> Result<Created>;

    /// Packs the files of a stopped sandbox and frees their space; archiving
    /// what is archived is a success. Whenever it ends, the files are there,
    /// packed or not.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it is not stopped, or the failed step.
    async fn archive(&self, id: &Id) -> Result<()>;

    /// Makes an archived sandbox a stopped one, and ends an archiving that is
    /// under way; restoring what is stopped is a success.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it is neither, or the failed step.
    async fn restore(&self, id: &Id) -> Result<()>;

    /// Changes the limits of a running or paused sandbox.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it uses more memory than the new limit;
    /// or the failed step.
    async fn resize(&self, id: &Id, limits: &Limits) -> Result<()>;

    /// Ends and removes the sandbox with all that belongs to it. Removing what
    /// does not exist is a success.
    ///
    /// # Errors
    /// The failed step; calling again goes on where it stopped.
    async fn destroy(&self, id: &Id) -> Result<()>;

    /// Everything this runtime still has in its scope, half-made sandboxes included.
    ///
    /// # Errors
    /// When the host's state cannot be read.
    async fn list(&self) -> Result<Vec<Found>>;

    /// What the sandbox uses.
    ///
    /// # Errors
    /// `NotFound` when the runtime does not have the sandbox.
    async fn usage(&self, id: &Id) -> Result<Usage>;

    /// What it has made on the host besides the sandboxes that it lists and all that
    /// is theirs: by kind, kinds of which there is nothing included. What is just
    /// being made or removed may be among it. Changes nothing.
    ///
    /// # Errors
    /// When the host's state cannot be read.
    async fn leftovers(&self) -> Result<Vec<Leftovers>> {
        Ok(Vec::new())
    }

    /// Its images; `None` when it leaves them to somebody else.
    fn images(&self) -> Option<&dyn Images> {
        None
    }
}
