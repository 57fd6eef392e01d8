//! What the parts of `control` share.

use std::{sync::Arc, time::Duration};

use sandbox::{Capabilities, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::{Clock, Config, registry::Registry, store::Store};

/// Everything that owners and operations need.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) capabilities: Capabilities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    /// Lets so many creations happen at once.
    pub(crate) creations: Semaphore,
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
            creations,
            closing: watch::Sender::new(false),
            tasks: TaskTracker::new(),
        })
    }

    /// What began before this moment is forgotten.
    pub(crate) fn forget_before_ms(&self) -> i64 {
        let ttl: Duration = self.config.tombstone_ttl;
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.clock.now_ms().saturating_sub(ttl_ms)
    }
}
