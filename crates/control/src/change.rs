//! What changes a sandbox as a whole and keeps it: stopping and starting,
//! archiving, new limits, labels and leases.

use std::collections::BTreeMap;

use sandbox::{Error, Lease, Name, Result, Space};
use tokio::sync::broadcast;

use crate::{Control, CreatedSandbox, Resize, Sandbox, StateChange};

impl Control {
    /// A living sandbox by its id or its name.
    ///
    /// # Errors
    /// `NotFound`, with when and why it ended if that is remembered.
    pub fn find(&self, _space: &Space, _id_or_name: &str) -> Result<Sandbox> {
        Err(not_yet())
    }

    /// Ends the processes of a sandbox and keeps its files; one that is stopped stays so.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when its state does not allow it, or the failed step.
    pub async fn stop(&self, _space: &Space, _name: &Name) -> Result<Sandbox> {
        Err(not_yet())
    }

    /// Starts a stopped or archived sandbox with its files; resumes a paused one;
    /// one that runs goes on so. Waits until it is ready.
    ///
    /// # Errors
    /// As [`Control::stop`].
    pub async fn start_again(&self, _space: &Space, _name: &Name) -> Result<CreatedSandbox> {
        Err(not_yet())
    }

    /// Begins to pack the files of a stopped sandbox and to free their space.
    ///
    /// # Errors
    /// As [`Control::stop`].
    pub async fn archive(&self, _space: &Space, _name: &Name) -> Result<Sandbox> {
        Err(not_yet())
    }

    /// Changes the limits of a sandbox, running or not.
    ///
    /// # Errors
    /// `InvalidRequest` naming the field, or as [`Control::stop`].
    pub async fn resize(&self, _space: &Space, _name: &Name, _resize: Resize) -> Result<Sandbox> {
        Err(not_yet())
    }

    /// Replaces the labels of a sandbox.
    ///
    /// # Errors
    /// `NotFound`, `InvalidRequest`.
    pub async fn set_labels(
        &self,
        _space: &Space,
        _name: &Name,
        _labels: BTreeMap<String, String>,
    ) -> Result<Sandbox> {
        Err(not_yet())
    }

    /// Sets annotations of a sandbox; `None` removes one, others stay.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn annotate(
        &self,
        _space: &Space,
        _name: &Name,
        _changes: BTreeMap<String, Option<String>>,
    ) -> Result<Sandbox> {
        Err(not_yet())
    }

    /// Replaces the lease of a sandbox; it counts from now on.
    ///
    /// # Errors
    /// `NotFound`, `InvalidRequest`.
    pub async fn set_lease(&self, _space: &Space, _name: &Name, _lease: Lease) -> Result<Sandbox> {
        Err(not_yet())
    }

    /// Counts as activity of a sandbox.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn touch(&self, _space: &Space, _name: &Name) -> Result<()> {
        Err(not_yet())
    }

    /// Changes of state from now on. Who reads too slowly misses some and is told so.
    #[must_use]
    pub fn watch_changes(&self) -> broadcast::Receiver<StateChange> {
        broadcast::channel(1).1
    }
}

fn not_yet() -> Error {
    Error::unavailable("not yet")
}
