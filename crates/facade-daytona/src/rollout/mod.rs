//! New sandboxes are divided between this server and the upstream: a share of
//! them is made here. Each sandbox stays where it was made.
//!
//! What both sides do is measured, side by side. When this side exceeds a limit
//! of failures or durations, the share goes back to 0 by itself; the sandboxes
//! that are here go on. Only a new share, set by somebody, ends that.
//!
//! ```text
//! POST /sandbox ─► choice (place of a label, or turn) ─► here, or the upstream
//! every answer  ─► measure ─► core (window, limits) ──► share 0
//! ```
//!
//! [`Core`] decides and knows neither clock nor files; [`Rollout`] has both.

mod choice;
mod core;
mod course;
mod limits;
mod measure;
mod metrics;
mod operation;
mod share;
mod state_file;
mod status;
mod window;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use jiff::Timestamp;
use prometheus_client::registry::Registry;

pub(crate) use self::{
    choice::Choice,
    measure::{Goes, measure},
};
use self::{
    choice::Reason,
    core::Core,
    course::Course,
    metrics::Metrics,
    operation::{Operation, Outcome},
    share::Place,
    state_file::StateFile,
    window::Measured,
};
pub use self::{
    course::Change,
    limits::Limits,
    share::Share,
    state_file::StateError,
    status::{LimitsStatus, SideStatus, Sides, Status},
};
use crate::side::Side;

/// How a rollout behaves; validated by `server::config`.
#[derive(Clone, Debug)]
pub struct RolloutConfig {
    /// URL of the upstream's API, to be shown.
    pub upstream: String,
    /// The share that counts until somebody or a rollback changes it.
    pub share: Share,
    /// Sandboxes with the same value of this label get the same side.
    pub sticky_label: String,
    /// Whether a sandbox that cannot be made here, for a fault of ours, is made at
    /// the upstream instead.
    pub fallback: bool,
    /// How far back failures and durations count.
    pub window: Duration,
    /// What makes the share go back to 0.
    pub limits: Limits,
    /// Where changes of the share are kept, in a folder that exists.
    pub state_file: PathBuf,
}

/// The rollout. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Rollout(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: RolloutConfig,
    started: Instant,
    core: Mutex<Core>,
    /// Locked while a change is made and written, before `core`: what is written
    /// last is what is in force.
    file: Mutex<StateFile>,
    metrics: Metrics,
}

impl Rollout {
    /// Goes on with the share of the state file or, if there is none, begins
    /// with the configured one.
    ///
    /// # Errors
    /// When the state file cannot be read, or holds something else.
    pub fn open(config: RolloutConfig) -> Result<Self, StateError> {
        let file = StateFile::new(config.state_file.clone());
        let course = file.read()?.unwrap_or_else(|| {
            Course::begin(Change::new(Timestamp::now(), config.share, "configured"))
        });
        let current = course.current();
        tracing::info!(
            upstream = config.upstream,
            share = current.share.percent(),
            since = %current.at,
            reason = current.reason,
            configured = config.share.percent(),
            "new sandboxes are divided between this server and the upstream"
        );
        let metrics = Metrics::new();
        metrics.set_share(current.share);
        let core = Core::new(config.limits, config.window, course);
        Ok(Self(Arc::new(Inner {
            config,
            started: Instant::now(),
            core: Mutex::new(core),
            file: Mutex::new(file),
            metrics,
        })))
    }

    /// Adds the metrics of the rollout to those of the server.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// The share, and both sides side by side.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = &*self.0;
        let now = inner.started.elapsed();
        let config = &inner.config;
        Status::of(
            &config.upstream,
            &config.limits,
            config.window,
            &mut self.core(),
            now,
        )
    }

    /// Sets the share, with a fresh window unless it is 0. It is in force once
    /// this returns, and on the disk. Blocks for that.
    ///
    /// # Errors
    /// When it cannot be written: then nothing has changed.
    pub fn set(&self, share: Share, reason: &str) -> Result<Status, StateError> {
        let file = self.file();
        let change = Change::new(Timestamp::now(), share, reason);
        let mut course = self.core().course.clone();
        course.change(change.clone());
        file.write(&course)?;
        self.core().change(change);
        self.0.metrics.set_share(share);
        drop(file);
        tracing::info!(share = share.percent(), reason, "the share was set");
        Ok(self.status())
    }

    /// Whether everything is made here.
    pub(crate) fn takes_all(&self) -> bool {
        self.core().share() == Share::ALL
    }

    /// The label that keeps sandboxes together.
    pub(crate) fn sticky_label(&self) -> &str {
        &self.0.config.sticky_label
    }

    /// Whether a creation that failed here so is to be tried at the upstream. If
    /// so, it is counted as failed here: the answer will be of the other side.
    pub(crate) fn falls_back(&self, status: StatusCode, duration: Duration) -> bool {
        let outcome = Outcome::of(Operation::Create, status);
        let falls_back = self.0.config.fallback && outcome == Some(Outcome::Failure);
        if falls_back {
            self.creation_failed(duration);
        }
        falls_back
    }

    /// Takes in a creation here whose failure no answer tells.
    pub(crate) fn creation_failed(&self, duration: Duration) {
        let measured = Measured {
            operation: Operation::Create,
            outcome: Outcome::Failure,
            duration,
        };
        self.take_in(Side::SandboxAi, &measured);
    }

    /// The side of a new sandbox with these labels, by the share.
    pub(crate) fn choose(&self, labels: &BTreeMap<String, String>) -> Choice {
        let place = labels
            .get(&self.0.config.sticky_label)
            .filter(|value| !value.is_empty())
            .map(|value| Place::of(value));
        let mut core = self.core();
        let share = core.share();
        Choice {
            side: core.choose(place),
            reason: match place {
                Some(place) => Reason::Place { place, share },
                None => Reason::Turn { share },
            },
        }
    }

    /// Takes in a request that has just ended, and rolls back if that is due. A
    /// rollback, which is rare, blocks until it is on the disk.
    pub(crate) fn take_in(&self, side: Side, measured: &Measured) {
        let inner = &*self.0;
        inner.metrics.count(side, measured);
        let now = inner.started.elapsed();
        let at = Timestamp::now();
        let change = self.core().take_in(side, measured, now, at);
        if let Some(change) = change {
            self.rolled_back(&change);
        }
    }

    fn rolled_back(&self, change: &Change) {
        self.0.metrics.rolled_back();
        tracing::warn!(
            reason = change.reason,
            "new sandboxes go to the upstream; those that are here go on"
        );
        let file = self.file();
        // It may have been changed again meanwhile.
        let core = self.core();
        let course = core.course.clone();
        self.0.metrics.set_share(core.share());
        drop(core);
        if let Err(error) = file.write(&course) {
            tracing::error!(%error, "the rollback is in force, and would be lost by a restart");
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // Every change is whole even after a panic.
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> MutexGuard<'_, StateFile> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
