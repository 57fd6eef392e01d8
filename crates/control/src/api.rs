//! What facades see of `control`: the types of requests and answers.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bytes::Bytes;
use sandbox::{
    EndReason, Id, Image, Limits, Name, NetworkMode, RuntimeClass, Space, Spec, State, StepTime,
};

pub use agent_protocol::{
    Cell, CellEnd, CellStatus, Command, Entry, EntryKind, Exec, Exit, KernelInfo, Match,
    MimeBundle, ProcessInfo, ReplaceOutcome, SessionInfo, Signal, TtySize,
};

/// How `control` behaves; validated by `server::config`.
#[derive(Clone, Debug)]
pub struct Config {
    /// File of the store; its folder exists.
    pub store: PathBuf,
    /// Whether the sandboxes of this scope end with the server.
    pub delete_on_shutdown: bool,
    /// What a sandbox gets when the request does not say.
    pub defaults: Defaults,
    /// Upper bounds of what a request may ask for.
    pub limits_max: Limits,
    /// How many sandboxes may have processes at once; stopped ones have a bound of their own.
    pub sandboxes_max: usize,
    /// How many sandboxes are made at once; more only adds latency.
    pub creations_at_once: usize,
    /// How long a creation may take.
    pub create_timeout: Duration,
    /// How long a tombstone is kept.
    pub tombstone_ttl: Duration,
    /// Other names of images: the left resolves to the right. A trailing `*` matches any rest.
    pub image_aliases: BTreeMap<String, Image>,
}

/// Defaults of a creation.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The image.
    pub image: Image,
    /// The limits.
    pub limits: Limits,
    /// What the sandbox can reach.
    pub network: NetworkMode,
    /// End after so long without an operation.
    pub idle_timeout: Option<Duration>,
    /// End so long after creation.
    pub lifetime_max: Option<Duration>,
}

/// A request for a sandbox. `None` takes the configured default.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// In which space.
    pub space: Space,
    /// Its name; made up when absent.
    pub name: Option<Name>,
    /// Image as asked for, before aliases.
    pub image: Option<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU in thousandths.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Network mode.
    pub network: Option<NetworkMode>,
    /// Runtime class.
    pub runtime_class: Option<RuntimeClass>,
    /// Idle timeout.
    pub idle_timeout: Option<Duration>,
    /// Maximum lifetime.
    pub lifetime_max: Option<Duration>,
    /// Stop after so long without an operation.
    pub stop_after_idle: Option<Duration>,
    /// Pause after so long without an operation.
    pub pause_after_idle: Option<Duration>,
    /// Archive so long after it was stopped.
    pub archive_after_stop: Option<Duration>,
    /// End so long after it was stopped.
    pub delete_after_stop: Option<Duration>,
    /// Labels of the caller's, to be filtered by.
    pub labels: BTreeMap<String, String>,
    /// What a facade remembers about it; never shown to callers as such.
    pub annotations: BTreeMap<String, String>,
    /// Its identity, when the caller has given it away already.
    pub id: Option<Id>,
    /// The same key with the same request makes one sandbox.
    pub idempotency_key: Option<String>,
}

/// A sandbox as facades see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its identity.
    pub id: Id,
    /// Its space.
    pub space: Space,
    /// Its name in that space.
    pub name: Name,
    /// The image as asked for (an alias stays as the caller wrote it).
    pub image_requested: String,
    /// What it is, aliases resolved and defaults filled in.
    pub spec: Spec,
    /// Labels of the caller's.
    pub labels: BTreeMap<String, String>,
    /// What a facade remembers about it.
    pub annotations: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: State,
    /// When it was created, milliseconds since the epoch.
    pub created_ms: i64,
    /// When an operation last began or ended, milliseconds since the epoch.
    pub active_ms: i64,
    /// Since when it has no processes, for one that was stopped.
    pub stopped: Option<Stop>,
    /// Why it is being removed, while it is.
    pub ending: Option<EndReason>,
    /// How it ended, for tombstones.
    pub tombstone: Option<Tombstone>,
}

/// How a sandbox came to be without processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// What went wrong, when nobody had asked for it.
    pub fault: Option<String>,
}

/// What is remembered of a sandbox that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Why.
    pub reason: EndReason,
    /// When, milliseconds since the epoch.
    pub ended_ms: i64,
}

/// A creation's answer: the sandbox and where the time went.
#[derive(Clone, Debug)]
pub struct CreatedSandbox {
    /// The sandbox, running.
    pub sandbox: Sandbox,
    /// The phases, in order.
    pub steps: Vec<StepTime>,
    /// Whether an earlier request with the same idempotency key had made it.
    pub replayed: bool,
}

/// Something that happened to a sandbox, for its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Counts up per store.
    pub sequence: i64,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// One word, e.g. `created`, `deleted`, `kernel_died`.
    pub event: String,
    /// More, for people.
    pub detail: Option<String>,
}

/// One piece of a running command or cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Standard output, or both outputs when merged.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// A rich result or display of a cell.
    Display {
        /// Representations by MIME type.
        data: MimeBundle,
        /// Whether it is the value of the last expression.
        is_result: bool,
    },
    /// The command ended. Last piece.
    Exited(Exit),
    /// The cell ended. Last piece.
    CellEnded(CellEnd),
    /// A part of a longer answer ended without a result of its own. Last piece.
    Done,
}

/// A file's metadata and its content as it comes.
pub struct FileRead {
    /// Metadata at opening.
    pub entry: Entry,
    /// The content; dropping it ends the read.
    pub content: PieceStream<Bytes>,
}

impl std::fmt::Debug for FileRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileRead")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

/// A bounded stream of pieces; dropping it cancels what produces it.
pub type PieceStream<T> =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = sandbox::Result<T>> + Send>>;

/// A listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// Whether there are more than the limit.
    pub truncated: bool,
}

/// A change of state, for whoever watches.
#[derive(Clone, Debug, PartialEq)]
pub struct StateChange {
    /// The sandbox after the change; with its tombstone when it has ended.
    pub sandbox: Sandbox,
    /// The state before; `None` for a new one.
    pub from: Option<State>,
}

/// New limits of a sandbox; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU in thousandths.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// A connection to a port inside a sandbox. It counts as an operation while it is open.
pub type PortStream = sandbox::AgentStream;

/// Where things are inside a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The image's working directory.
    pub workdir: String,
    /// The home directory of the user that commands run as.
    pub home: String,
}

/// Size and use of a sandbox's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUse {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// What is in use, bytes.
    pub used_bytes: u64,
}
