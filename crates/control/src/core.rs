//! What the parts of `control` share.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use sandbox::{Capabilities, Fetch, Runtime, State};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::task::TaskTracker;

use crate::{
    Clock, Config, Sandbox, StateChange, image::Jobs, leak::Leaks, metrics::Metrics,
    registry::Registry, resident::Resident, store::Store,
};

/// Changes of state that a slow watcher may be behind.
const CHANGES_KEPT: usize = 1024;

/// Everything that owners and operations need.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) capabilities: Capabilities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    /// Pulls and builds.
    pub(crate) image_jobs: Jobs,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// What nobody needs, as far as it was seen.
    pub(crate) leaks: Leaks,
    /// What gets images from registries; unset when nothing may be fetched.
    pub(crate) fetch: OnceLock<Arc<dyn Fetch>>,
    /// Lets so many creations happen at once.
    pub(crate) creations: Semaphore,
    /// Tells every change of state.
    pub(crate) changes: broadcast::Sender<StateChange>,
    /// Turns true when owners shall leave everything as it is and end.
    pub(crate) closing: watch::Sender<bool>,
    /// The tasks that own a sandbox, and the one that tidies up.
    pub(crate) tasks: TaskTracker,
}

impl Core {
    pub(crate) fn new(
        config: Config,
        runtime: Arc<dyn Runtime>,
        clock: Arc<dyn Clock>,
        store: Store,
    ) -> Arc<Self> {
        let capabilities = runtime.capabilities();
        let creations = Semaphore::new(config.creations_at_once.max(1));
        Arc::new(Self {
            config,
            runtime,
            capabilities,
            clock,
            store,
            registry: Registry::default(),
            image_jobs: Jobs::default(),
            metrics: Arc::new(Metrics::new()),
            leaks: Leaks::default(),
            fetch: OnceLock::new(),
            creations,
            changes: broadcast::Sender::new(CHANGES_KEPT),
            closing: watch::Sender::new(false),
            tasks: TaskTracker::new(),
        })
    }

    /// Tells watchers that a sandbox came into another state than `from`.
    pub(crate) fn announce(&self, resident: &Resident, from: Option<State>) {
        if self.changes.receiver_count() > 0 {
            self.announce_as(resident.view(&*self.clock), from);
        }
    }

    /// The same, with the sandbox as it shall be seen.
    pub(crate) fn announce_as(&self, sandbox: Sandbox, from: Option<State>) {
        // Fails only when nobody watches.
        let _nobody = self.changes.send(StateChange { sandbox, from });
    }

    /// What began before this moment is forgotten.
    pub(crate) fn forget_before_ms(&self) -> i64 {
        let ttl: Duration = self.config.tombstone_ttl;
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.clock.now_ms().saturating_sub(ttl_ms)
    }
}
