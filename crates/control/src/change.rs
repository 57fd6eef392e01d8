//! What changes a sandbox as a whole and keeps it: stopping and starting,
//! archiving, new limits, labels and leases.

use std::collections::BTreeMap;

use sandbox::{Error, Lease, Name, Result, Space};
use tokio::sync::broadcast;

use crate::{
    Control, CreatedSandbox, Resize, Sandbox, StateChange, request, resident::Details,
    store::Change,
};

impl Control {
    /// A living sandbox by its id or its name.
    ///
    /// # Errors
    /// `NotFound`, with when and why it ended if that is remembered.
    pub fn find(&self, space: &Space, id_or_name: &str) -> Result<Sandbox> {
        let resident = self.core.registry.find_any(space, id_or_name)?;
        Ok(resident.view(&*self.core.clock))
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
        space: &Space,
        name: &Name,
        labels: BTreeMap<String, String>,
    ) -> Result<Sandbox> {
        request::check_labels("labels", &labels)?;
        self.describe(space, name, |details| details.labels = labels)
            .await
    }

    /// Sets annotations of a sandbox; `None` removes one, others stay.
    ///
    /// # Errors
    /// `NotFound`, `InvalidRequest`.
    pub async fn annotate(
        &self,
        space: &Space,
        name: &Name,
        changes: BTreeMap<String, Option<String>>,
    ) -> Result<Sandbox> {
        let apply = |details: &mut Details| {
            for (key, value) in changes {
                match value {
                    Some(value) => details.annotations.insert(key, value),
                    None => details.annotations.remove(&key),
                };
            }
        };
        self.describe(space, name, apply).await
    }

    /// Changes what is remembered about a sandbox, first in the store.
    async fn describe(
        &self,
        space: &Space,
        name: &Name,
        change: impl FnOnce(&mut Details),
    ) -> Result<Sandbox> {
        let core = &self.core;
        let resident = core.registry.find(space, name)?;
        // Before that its row may not be there yet.
        resident.settled().await;
        let _turn = resident.changing.lock().await;
        let mut next = resident.details().clone();
        change(&mut next);
        request::check_labels("annotations", &next.annotations)?;
        let described = Change::Described {
            id: resident.id.clone(),
            labels: next.labels.clone(),
            annotations: next.annotations.clone(),
        };
        core.store.write(described).await?;
        resident.change(|details| {
            details.labels = next.labels;
            details.annotations = next.annotations;
        });
        Ok(resident.view(&*core.clock))
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
    pub fn touch(&self, space: &Space, name: &Name) -> Result<()> {
        self.core.registry.find(space, name)?.touch();
        Ok(())
    }

    /// Changes of state from now on, the first and the last of a sandbox's life
    /// included. Who reads too slowly misses some and is told so.
    #[must_use]
    pub fn watch_changes(&self) -> broadcast::Receiver<StateChange> {
        self.core.changes.subscribe()
    }
}

fn not_yet() -> Error {
    Error::unavailable("not yet")
}

#[cfg(test)]
mod tests;
