//! What changes a sandbox as a whole and keeps it: stopping and starting,
//! archiving, new limits, labels and leases.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use sandbox::{EndReason, Error, Lease, Limits, Name, Result, Space};
use tokio::sync::broadcast;

use crate::{
    Control, CreatedSandbox, Resize, Sandbox, StateChange,
    lifecycle::{Life, PACK_TIME_MAX, Wanted},
    request,
    resident::{Details, Resident},
    store::Change,
};

/// How long a stop may take, all its attempts included.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);

impl Control {
    /// A living sandbox by its id or its name.
    ///
    /// # Errors
    /// `NotFound`, with when and why it ended if that is remembered.
    pub fn find(&self, space: &Space, id_or_name: &str) -> Result<Sandbox> {
        let resident = self.core.registry.find_any(space, id_or_name)?;
        Ok(resident.view(&*self.core.clock))
    }

    /// Whether a sandbox of this id has ended and is remembered.
    #[must_use]
    pub fn remembers(&self, space: &Space, id: &str) -> bool {
        self.core.registry.remembers(space, id)
    }

    /// Ends the processes of a sandbox and keeps its files; one that is stopped
    /// stays so. One whose lease ends what is stopped ends, and is told with its
    /// tombstone. Requests at the same time join.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when its state does not allow it, or the failed step.
    pub async fn stop(&self, space: &Space, name: &Name) -> Result<Sandbox> {
        self.measured("stop", async {
            let core = &self.core;
            let resident = core.registry.find(space, name)?;
            if resident.details().spec.lease.ends_on_stop() {
                resident.ask_end(EndReason::Stopped);
                tokio::time::timeout(STOP_TIME_MAX, resident.gone())
                    .await
                    .map_err(|_| too_long(name))?;
                let tombstone = core.registry.tombstone(space, name);
                return tombstone
                    .filter(|tombstone| tombstone.id == resident.id)
                    .map(|tombstone| Sandbox::clone(&tombstone))
                    .ok_or_else(|| Error::not_found(format!("sandbox `{name}` has ended")));
            }
            self.wish(&resident, Wanted::Stopped, STOP_TIME_MAX).await?;
            Ok(resident.view(&*core.clock))
        })
        .await
    }

    /// Starts a stopped or archived sandbox with its files; resumes a paused one;
    /// one that runs goes on so. Waits until it is ready. Requests at the same
    /// time join.
    ///
    /// # Errors
    /// As [`Control::stop`]; `LimitReached` when as many run as may.
    pub async fn start_again(&self, space: &Space, name: &Name) -> Result<CreatedSandbox> {
        self.measured("start", async {
            let core = &self.core;
            let resident = core.registry.find(space, name)?;
            let unpack_time_max = match resident.life() {
                Life::Archiving | Life::Archived | Life::Restoring { .. } => PACK_TIME_MAX,
                _ => Duration::ZERO,
            };
            let time_max = unpack_time_max + core.config.create_timeout + STOP_TIME_MAX;
            self.wish(&resident, Wanted::Started, time_max).await?;
            let steps = resident.start_steps.lock();
            let steps = steps.unwrap_or_else(PoisonError::into_inner).clone();
            Ok(CreatedSandbox {
                sandbox: resident.view(&*core.clock),
                steps,
                replayed: false,
            })
        })
        .await
    }

    /// Begins to pack the files of a stopped sandbox and to free their space.
    ///
    /// # Errors
    /// As [`Control::stop`].
    pub async fn archive(&self, space: &Space, name: &Name) -> Result<Sandbox> {
        self.measured("archive", async {
            let resident = self.core.registry.find(space, name)?;
            if let Err(why) = &self.core.capabilities.archive {
                return Err(Error::conflict(why.clone()));
            }
            self.wish(&resident, Wanted::Archived, STOP_TIME_MAX)
                .await?;
            Ok(resident.view(&*self.core.clock))
        })
        .await
    }

    /// Changes the limits of a sandbox, running or not.
    ///
    /// # Errors
    /// `InvalidRequest` naming the field; `Conflict` when it uses more memory than
    /// it shall have; or as [`Control::stop`].
    pub async fn resize(&self, space: &Space, name: &Name, resize: Resize) -> Result<Sandbox> {
        self.measured("resize", async {
            let core = &self.core;
            let resident = core.registry.find(space, name)?;
            let _turn = resident.changing.lock().await;
            let spec = resident.details().spec.clone();
            let limits = request::resized(spec.limits, &resize, &core.config.limits_max)?;
            // A start that is under way holds the turn until it is over.
            match resident.life() {
                Life::Running | Life::Paused => {
                    let resized = core.runtime.resize(&resident.id, &limits);
                    self.look("changing the limits", resized).await?;
                }
                Life::Stopped | Life::Archiving | Life::Archived => {}
                life if life.reason().is_some() => return Err(resident.lost(life.reason())),
                life => {
                    return Err(Error::conflict(format!(
                        "sandbox `{name}` is just {}; try again in a moment",
                        life.state()
                    )));
                }
            }
            self.respecify(&resident, spec.lease, limits).await
        })
        .await
    }

    /// Records another lease or other limits, then lets them count.
    async fn respecify(
        &self,
        resident: &Resident,
        lease: Lease,
        limits: Limits,
    ) -> Result<Sandbox> {
        let id = resident.id.clone();
        let respecified = Change::Respecified { id, lease, limits };
        self.core.store.write(respecified).await?;
        resident.change(|details| {
            details.spec.lease = lease;
            details.spec.limits = limits;
        });
        Ok(resident.view(&*self.core.clock))
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
    pub async fn set_lease(&self, space: &Space, name: &Name, lease: Lease) -> Result<Sandbox> {
        let mut lease = request::check_lease(lease)?;
        if self.core.capabilities.archive.is_err() {
            // It stays stopped then, which keeps its files as well.
            lease.archive_after_stop = None;
        }
        let resident = self.core.registry.find(space, name)?;
        resident.settled().await;
        let _turn = resident.changing.lock().await;
        let limits = resident.details().spec.limits;
        resident.touch();
        let sandbox = self.respecify(&resident, lease, limits).await?;
        resident.lease_changed.notify_one();
        Ok(sandbox)
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

fn too_long(name: &Name) -> Error {
    Error::timeout(format!(
        "sandbox `{name}` is not stopped completely after {STOP_TIME_MAX:?}; that goes on, and the log says what hinders it"
    ))
}

#[cfg(test)]
mod tests;
