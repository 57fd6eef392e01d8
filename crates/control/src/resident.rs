//! What is shared about one living sandbox: between its owner, who alone
//! changes its life, and everybody who works in it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use sandbox::{EndReason, Error, Id, Kind, Name, Result, Space, Spec, State, StepTime};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    Clock, Sandbox, Stop,
    activity::Activity,
    agent::Pool,
    lease::Ages,
    lifecycle::{Life, Wanted},
};

/// Requests to the owner that may wait.
const MAILBOX_LENGTH: usize = 8;

/// A request to the owner that needs an answer.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) wanted: Wanted,
    pub(crate) answer: oneshot::Sender<Result<()>>,
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
    pub(crate) activity: Activity,
    /// Wakes the owner when the lease is another one.
    pub(crate) lease_changed: Notify,
    /// Where the time of its last start went.
    pub(crate) start_steps: Mutex<Vec<StepTime>>,
    /// When it was stopped, and how long that had been by then.
    stopped_since: Mutex<Option<(Instant, Duration)>>,
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
    /// A resident beginning in `life` at `now_ms`, and the mailbox of its owner.
    pub(crate) fn new(
        sandbox: Sandbox,
        life: Life,
        now_ms: i64,
    ) -> (Arc<Self>, mpsc::Receiver<Ask>) {
        let (mailbox, asks) = mpsc::channel(MAILBOX_LENGTH);
        let since = |ms: i64| {
            let since_ms = u64::try_from(now_ms.saturating_sub(ms)).unwrap_or(0);
            Duration::from_millis(since_ms)
        };
        let stopped_since = sandbox.stopped.as_ref();
        let stopped_since = stopped_since.map(|stop| (Instant::now(), since(stop.at_ms)));
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
            activity: Activity::new(since(sandbox.created_ms), since(sandbox.active_ms)),
            lease_changed: Notify::new(),
            start_steps: Mutex::default(),
            stopped_since: Mutex::new(stopped_since),
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

    /// For the owner alone: its processes are being ended.
    pub(crate) fn mark_stopped(&self, stop: Stop) {
        self.change(|details| details.stopped = Some(stop));
        *self.stopped_since() = Some((Instant::now(), Duration::ZERO));
    }

    /// For the owner alone: it runs again.
    pub(crate) fn mark_started(&self) {
        self.change(|details| details.stopped = None);
        *self.stopped_since() = None;
    }

    fn stopped_since(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Duration)>> {
        let since = self.stopped_since.lock();
        since.unwrap_or_else(PoisonError::into_inner)
    }

    /// When something last happened, milliseconds since the epoch.
    pub(crate) fn active_ms(&self, clock: &dyn Clock) -> i64 {
        let idle_ms = i64::try_from(self.activity.idle().as_millis()).unwrap_or(i64::MAX);
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

    /// Waits until nothing is under way that is over soon.
    pub(crate) async fn rested(&self) -> Life {
        wait(self.watch(), |life| !life.is_short()).await
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn gone(&self) {
        wait(self.watch(), Life::is_final).await;
    }

    /// Ages for its lease.
    pub(crate) fn ages(&self) -> Ages {
        let stopped = self
            .stopped_since()
            .map(|(since, by_then)| by_then + since.elapsed());
        Ages {
            age: self.activity.age(),
            idle: self.activity.idle(),
            stopped: stopped.unwrap_or_default(),
            operations: self.activity.operations(),
        }
    }

    /// Counts as activity.
    pub(crate) fn touch(&self) {
        self.activity.touch();
    }

    /// Begins an operation: it counts as activity until it is dropped.
    pub(crate) fn operate(self: &Arc<Self>) -> Operation {
        self.activity.begin();
        Operation(Arc::clone(self), Counts(true))
    }

    /// Begins something of the server's own, which is no activity.
    pub(crate) fn visit(self: &Arc<Self>) -> Operation {
        Operation(Arc::clone(self), Counts(false))
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
            State::Starting | State::Restoring => Err(Error::conflict(format!(
                "sandbox `{}` is just being started; try again in a moment",
                self.name
            ))),
            State::Stopped
            | State::Archiving
            | State::Archived
            | State::Stopping
            | State::Gone
            | State::Failed => Err(self.over(&life)),
        }
    }

    /// The error of work in a sandbox that ends or was stopped.
    pub(crate) fn over(&self, life: &Life) -> Error {
        if life.reason().is_some() || !life.ends_work() {
            return self.lost(life.reason());
        }
        let name = &self.name;
        let details = self.details();
        let fault = details
            .stopped
            .as_ref()
            .and_then(|stop| stop.fault.as_ref());
        let why = fault.map_or_else(String::new, |fault| format!(" ({fault})"));
        Error::conflict(match life {
            Life::Archiving | Life::Archived => {
                format!("sandbox `{name}` is archived{why}; start it first")
            }
            Life::Stopping { .. } => {
                format!("sandbox `{name}` is being stopped{why}; start it again when it is")
            }
            _ => format!("sandbox `{name}` is stopped{why}; start it first"),
        })
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

/// Waits until a sandbox is stopped or ends, and tells its life then.
pub(crate) async fn ending(life: &mut watch::Receiver<Life>) -> Life {
    // As above, the sender is there for as long as the caller is.
    let _ended = life.wait_for(Life::ends_work).await.map(drop);
    life.borrow().clone()
}

/// An operation under way; its begin and its end are activity.
#[derive(Debug)]
pub(crate) struct Operation(pub(crate) Arc<Resident>, Counts);

/// Whether an operation counts as activity.
#[derive(Debug)]
struct Counts(bool);

impl Drop for Operation {
    fn drop(&mut self) {
        if self.1.0 {
            self.0.activity.end();
        }
    }
}
