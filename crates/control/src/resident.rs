//! What is shared about one living sandbox: between its owner, who alone
//! changes its life, and everybody who works in it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sandbox::{EndReason, Error, Id, Kind, Name, Result, Space, Spec, State, StepTime};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{Clock, Sandbox, Stop, agent::Pool, lease::Ages, lifecycle::Life};

/// Requests to the owner that may wait.
const MAILBOX_LENGTH: usize = 8;

/// A request to the owner that needs an answer.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) wanted: Wanted,
    pub(crate) answer: oneshot::Sender<Result<()>>,
}

/// What an owner can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Paused,
    Running,
}

/// How a creation went; the error in parts, since an error cannot be cloned.
pub(crate) type Outcome = std::result::Result<Vec<StepTime>, (Kind, String)>;

/// What can change about a sandbox while it lives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Details {
    pub(crate) spec: Spec,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Since when it has no processes, and what went wrong.
    pub(crate) stopped: Option<Stop>,
}

/// A sandbox that lives, is being made or is being removed.
pub(crate) struct Resident {
    pub(crate) id: Id,
    pub(crate) space: Space,
    pub(crate) name: Name,
    pub(crate) image_requested: String,
    pub(crate) created_ms: i64,
    details: RwLock<Details>,
    /// Held by whoever changes the details, from the store to the memory, so
    /// that both always have the same last word.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Idle connections to its agent.
    pub(crate) pool: Pool,
    /// How its creation went; absent while it is being made and after an adoption.
    pub(crate) outcome: OnceLock<Outcome>,
    pub(crate) mailbox: mpsc::Sender<Ask>,
    activity: Activity,
    life: watch::Sender<Life>,
    end_asked: watch::Sender<Option<EndReason>>,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident")
            .field("id", &self.id)
            .field("life", &*self.life.borrow())
            .finish_non_exhaustive()
    }
}

impl Resident {
    /// A resident beginning in `life`, and the mailbox of its owner.
    pub(crate) fn new(
        sandbox: Sandbox,
        life: Life,
        age: Duration,
    ) -> (Arc<Self>, mpsc::Receiver<Ask>) {
        let (mailbox, asks) = mpsc::channel(MAILBOX_LENGTH);
        let resident = Self {
            id: sandbox.id,
            space: sandbox.space,
            name: sandbox.name,
            image_requested: sandbox.image_requested,
            details: RwLock::new(Details {
                spec: sandbox.spec,
                labels: sandbox.labels,
                annotations: sandbox.annotations,
                stopped: sandbox.stopped,
            }),
            changing: tokio::sync::Mutex::default(),
            created_ms: sandbox.created_ms,
            pool: Pool::default(),
            outcome: OnceLock::new(),
            mailbox,
            activity: Activity::new(age),
            life: watch::Sender::new(life),
            end_asked: watch::Sender::new(None),
        };
        (Arc::new(resident), asks)
    }

    /// The sandbox as facades see it.
    pub(crate) fn view(&self, clock: &dyn Clock) -> Sandbox {
        let details = self.details().clone();
        let life = self.life.borrow();
        Sandbox {
            id: self.id.clone(),
            space: self.space.clone(),
            name: self.name.clone(),
            image_requested: self.image_requested.clone(),
            spec: details.spec,
            labels: details.labels,
            annotations: details.annotations,
            state: life.state(),
            created_ms: self.created_ms,
            active_ms: self.active_ms(clock),
            stopped: details.stopped,
            ending: life.reason().cloned(),
            tombstone: None,
        }
    }

    /// What can change about it.
    pub(crate) fn details(&self) -> RwLockReadGuard<'_, Details> {
        self.details.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the details; the caller has recorded the change.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Details)) {
        let details = self.details.write();
        change(&mut details.unwrap_or_else(PoisonError::into_inner));
    }

    /// When something last happened, milliseconds since the epoch.
    pub(crate) fn active_ms(&self, clock: &dyn Clock) -> i64 {
        let idle_ms = i64::try_from(self.ages().idle.as_millis()).unwrap_or(i64::MAX);
        let active_ms = clock.now_ms().saturating_sub(idle_ms);
        active_ms.max(self.created_ms)
    }

    pub(crate) fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    /// For the owner alone: makes a new life known.
    pub(crate) fn publish(&self, life: Life) {
        self.life.send_replace(life);
    }

    /// Hears of every change of life.
    pub(crate) fn watch(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// Asks for the end; the first reason counts.
    pub(crate) fn ask_end(&self, reason: EndReason) {
        self.end_asked.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(reason);
            first
        });
    }

    /// Hears of the first request for the end.
    pub(crate) fn watch_end_asked(&self) -> watch::Receiver<Option<EndReason>> {
        self.end_asked.subscribe()
    }

    /// Waits until it is no longer being made.
    pub(crate) async fn settled(&self) -> Life {
        wait(self.watch(), |life| *life != Life::Creating).await
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn gone(&self) {
        wait(self.watch(), Life::is_final).await;
    }

    /// Ages for its lease.
    pub(crate) fn ages(&self) -> Ages {
        self.activity.ages()
    }

    /// Counts as activity.
    pub(crate) fn touch(&self) {
        self.activity.touch();
    }

    /// Begins an operation: it counts as activity until it is dropped.
    pub(crate) fn operate(self: &Arc<Self>) -> Operation {
        self.activity.touch();
        self.activity.operations.fetch_add(1, Ordering::Relaxed);
        Operation(Arc::clone(self))
    }

    /// Whether work can be done in it now.
    ///
    /// # Errors
    /// `Unavailable` while it is being made, `Conflict` while it is paused,
    /// `SandboxLost` when it ends.
    pub(crate) fn must_run(&self) -> Result<()> {
        let life = self.life.borrow();
        match life.state() {
            State::Running => Ok(()),
            State::Creating => Err(Error::unavailable(format!(
                "sandbox `{}` is still being made; try again when its creation has answered",
                self.name
            ))),
            State::Paused => Err(Error::conflict(format!(
                "sandbox `{}` is paused; resume it first",
                self.name
            ))),
            State::Stopped
            | State::Starting
            | State::Archiving
            | State::Archived
            | State::Restoring => Err(Error::conflict(format!(
                "sandbox `{}` is {}; start it first",
                self.name,
                life.state()
            ))),
            State::Stopping | State::Gone | State::Failed => Err(self.lost(life.reason())),
        }
    }

    /// The error of work in a sandbox that ends.
    pub(crate) fn lost(&self, reason: Option<&EndReason>) -> Error {
        Error::lost(match reason {
            Some(reason) => format!("sandbox `{}` has ended: {reason}", self.name),
            None => format!("sandbox `{}` has ended", self.name),
        })
    }
}

/// Waits until a life is as wanted. The sender lives in the resident that the
/// caller holds, so the wait ends with the life last seen if ever it is gone.
async fn wait(mut life: watch::Receiver<Life>, wanted: impl FnMut(&Life) -> bool) -> Life {
    let seen = life.wait_for(wanted).await.map(|life| life.clone());
    seen.unwrap_or_else(|_| life.borrow().clone())
}

/// Waits until a sandbox ends, and tells why.
pub(crate) async fn ending(life: &mut watch::Receiver<Life>) -> Option<EndReason> {
    match life.wait_for(|life| life.reason().is_some()).await {
        Ok(life) => life.reason().cloned(),
        Err(_) => None,
    }
}

/// An operation under way; its begin and its end are activity.
#[derive(Debug)]
pub(crate) struct Operation(pub(crate) Arc<Resident>);

impl Drop for Operation {
    fn drop(&mut self) {
        self.0.activity.touch();
        self.0.activity.operations.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When something last happened, cheap enough to be told on every operation.
struct Activity {
    began: Instant,
    /// Its age when `began` was taken: more than nothing after an adoption.
    age_at_begin: Duration,
    /// Microseconds from `began` to the last touch.
    touched_us: AtomicU64,
    operations: AtomicUsize,
}

impl Activity {
    fn new(age_at_begin: Duration) -> Self {
        Self {
            began: Instant::now(),
            age_at_begin,
            touched_us: AtomicU64::new(0),
            operations: AtomicUsize::new(0),
        }
    }

    fn touch(&self) {
        let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.touched_us.fetch_max(now_us, Ordering::Relaxed);
    }

    fn ages(&self) -> Ages {
        let operations = self.operations.load(Ordering::Relaxed);
        let since = self.began.elapsed();
        let touched = Duration::from_micros(self.touched_us.load(Ordering::Relaxed));
        let idle = match operations {
            0 => since.saturating_sub(touched),
            _ => Duration::ZERO,
        };
        Ages {
            age: self.age_at_begin + since,
            idle,
            operations,
        }
    }
}
