//! The one thing that facades talk to: sandboxes as a whole. Work inside them
//! is in [`crate::work`].

use std::{sync::Arc, time::Duration};

use sandbox::{
    Capabilities, EndReason, Error, Id, Name, Result, Runtime, Space, Spec, State, Usage,
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Clock, Config, Create, CreatedSandbox, EventRecord, Sandbox, activity,
    core::Core,
    lifecycle::{Life, Wanted},
    owner::{Start, own},
    recover,
    registry::{self, KeyUse, closed},
    request::{self, Plan},
    resident::{Ask, Resident},
    store::Store,
};

/// How long the runtime may take to look at an image or at a sandbox.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a deletion waits until nothing of the sandbox is left.
const DELETE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a failed creation waits until nothing of the sandbox is left.
const CLEAN_UP_TIME_MAX: Duration = Duration::from_secs(5);
/// How long pausing and resuming may take, a failed attempt undone included.
const PAUSE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long owners may take to end when the server does.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);
/// Entries of a log in one answer.
const EVENTS_MAX: usize = 1000;

/// Keeps sandboxes. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Control {
    pub(crate) core: Arc<Core>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// Asks for the end of a sandbox whose creator went away before the answer.
struct Abandoned<'a>(Option<&'a Resident>);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(resident) = self.0 {
            resident.ask_end(EndReason::FailedToStart(
                "its client went away before it was ready, and nobody else knows its name"
                    .to_owned(),
            ));
        }
    }
}

impl Control {
    /// Opens the store, takes over what an earlier server left, and begins to keep sandboxes.
    ///
    /// # Errors
    /// When the store cannot be used (`Conflict` when another server has it), or
    /// the runtime cannot tell which sandboxes it has.
    pub async fn start(
        config: Config,
        runtime: Arc<dyn Runtime>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (store, memory) = Store::open(&config.store).await?;
        let core = Core::new(config, runtime, clock, store);
        Self::recovered(core, memory).await
    }

    pub(crate) async fn recovered(core: Arc<Core>, memory: crate::store::Memory) -> Result<Self> {
        recover::recover(&core, memory).await?;
        core.tasks.spawn(recover::keep_tidy(Arc::clone(&core)));
        core.tasks
            .spawn(activity::keep_recording(Arc::clone(&core)));
        Ok(Self { core })
    }

    /// What works on this host.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.core.capabilities.clone()
    }

    /// Makes a sandbox and waits until it is ready.
    ///
    /// When the future is dropped, a sandbox with a name or an idempotency key
    /// is still made; one with neither is removed, since nobody could find it.
    ///
    /// # Errors
    /// `InvalidRequest` naming the field, `AlreadyExists`, `LimitReached`,
    /// `Conflict` over the idempotency key, `Timeout`, or the step that failed.
    /// After an error nothing of the sandbox is left but its tombstone.
    pub async fn create(&self, create: Create) -> Result<CreatedSandbox> {
        self.measured("create", async {
            let core = &self.core;
            if core.registry.is_closed() {
                return Err(closed());
            }
            let plan = request::plan(&create, &core.config, &core.capabilities)?;
            let fingerprint = request::fingerprint(&create);
            if let Some(key) = &create.idempotency_key
                && let Some(earlier) = core.registry.find_key(&create.space, key, &fingerprint)?
            {
                return self.ready(&earlier, true).await;
            }
            self.look("looking at the image", core.runtime.check(&plan.spec))
                .await?;
            let anonymous = create.name.is_none() && create.idempotency_key.is_none();
            let (resident, is_new) = self.reserve(create, plan, fingerprint)?;
            registry::note(&resident.id);
            let mut abandoned = Abandoned((is_new && anonymous).then_some(&*resident));
            let ready = self.ready(&resident, !is_new).await;
            abandoned.0 = None;
            ready
        })
        .await
    }

    /// Takes the name and begins the creation, or finds the one that the key began before.
    fn reserve(
        &self,
        create: Create,
        plan: Plan,
        fingerprint: [u8; 32],
    ) -> Result<(Arc<Resident>, bool)> {
        let core = &self.core;
        let now_ms = core.clock.now_ms();
        let sandbox = Sandbox {
            id: create.id.map_or_else(Id::random, Ok)?,
            space: create.space,
            name: create.name.map_or_else(Name::random, Ok)?,
            image_requested: plan.image_requested,
            spec: plan.spec,
            labels: create.labels,
            annotations: create.annotations,
            state: State::Creating,
            created_ms: now_ms,
            active_ms: now_ms,
            stopped: None,
            ending: None,
            tombstone: None,
        };
        let key = create.idempotency_key.map(|key| KeyUse {
            space: sandbox.space.clone(),
            key,
            fingerprint,
            id: sandbox.id.clone(),
            name: sandbox.name.clone(),
            created_ms: now_ms,
        });
        let (resident, mailbox) = Resident::new(sandbox.clone(), Life::Creating, now_ms);
        let sandboxes_max = core.config.sandboxes_max;
        if let Some(earlier) = core
            .registry
            .reserve(&resident, key.as_ref(), sandboxes_max)?
        {
            return Ok((earlier, false));
        }
        core.announce(&resident, None);
        let start = Start::Make {
            sandbox: Box::new(sandbox),
            key,
        };
        own(core, Arc::clone(&resident), mailbox, start);
        Ok((resident, true))
    }

    /// Waits for the end of a creation and tells how it went.
    async fn ready(&self, resident: &Arc<Resident>, replayed: bool) -> Result<CreatedSandbox> {
        let life = resident.settled().await;
        let failed = match (resident.outcome.get(), life.reason()) {
            (Some(Err((kind, message))), _) => Error::new(*kind, message.clone()),
            (_, Some(reason)) => resident.lost(Some(reason)),
            (outcome, None) => {
                let steps = outcome.and_then(|outcome| outcome.as_ref().ok());
                return Ok(CreatedSandbox {
                    sandbox: resident.view(&*self.core.clock),
                    steps: steps.cloned().unwrap_or_default(),
                    replayed,
                });
            }
        };
        // So that the name is free when the error is told; if not, later.
        let _soon = tokio::time::timeout(CLEAN_UP_TIME_MAX, resident.gone()).await;
        Err(failed)
    }

    /// A living sandbox.
    ///
    /// # Errors
    /// `NotFound`, with when and why it ended if that is remembered.
    pub async fn get(&self, space: &Space, name: &Name) -> Result<Sandbox> {
        let resident = self.core.registry.find(space, name)?;
        Ok(resident.view(&*self.core.clock))
    }

    /// The latest sandbox of this name that ended, while it is remembered; its
    /// `tombstone` is there.
    pub async fn find_tombstone(&self, space: &Space, name: &Name) -> Option<Sandbox> {
        let tombstone = self.core.registry.tombstone(space, name)?;
        Some(Sandbox::clone(&tombstone))
    }

    /// The living sandboxes of a space, the oldest first.
    ///
    /// # Errors
    /// None at present.
    pub async fn list(&self, space: &Space) -> Result<Vec<Sandbox>> {
        let residents = self.core.registry.living(Some(space));
        let views = residents
            .iter()
            .map(|resident| resident.view(&*self.core.clock));
        let mut sandboxes: Vec<Sandbox> = views.collect();
        sandboxes.sort_by(|a, b| (a.created_ms, &a.name).cmp(&(b.created_ms, &b.name)));
        Ok(sandboxes)
    }

    /// Ends a sandbox and waits until nothing of it is left. One that has ended
    /// already, for whatever reason, is a success while that is remembered.
    ///
    /// # Errors
    /// `NotFound` when there never was one, `Timeout` when it takes too long:
    /// the removal goes on then.
    pub async fn delete(&self, space: &Space, name: &Name) -> Result<()> {
        self.measured("delete", async {
        let resident = match self.core.registry.find(space, name) {
            Ok(resident) => resident,
            Err(_) if self.core.registry.tombstone(space, name).is_some() => return Ok(()),
            Err(error) => return Err(error),
        };
        resident.ask_end(EndReason::Deleted);
        tokio::time::timeout(DELETE_TIME_MAX, resident.gone())
            .await
            .map_err(|_| {
                Error::timeout(format!(
                    "sandbox `{name}` is not removed completely after {DELETE_TIME_MAX:?}; its removal goes on, and the log says what hinders it"
                ))
            })
        })
        .await
    }

    /// Freezes a sandbox; one that is frozen stays so.
    ///
    /// # Errors
    /// `Conflict` when this host cannot or the state does not allow it,
    /// `NotFound`, or the step that failed: it runs on then.
    pub async fn pause(&self, space: &Space, name: &Name) -> Result<Sandbox> {
        self.measured("pause", self.bring(space, name, Wanted::Paused))
            .await
    }

    /// Lets a frozen sandbox run on; one that runs goes on so.
    ///
    /// # Errors
    /// As [`Control::pause`].
    pub async fn resume(&self, space: &Space, name: &Name) -> Result<Sandbox> {
        self.measured("resume", self.bring(space, name, Wanted::Resumed))
            .await
    }

    async fn bring(&self, space: &Space, name: &Name, wanted: Wanted) -> Result<Sandbox> {
        let resident = self.core.registry.find(space, name)?;
        if let Err(why) = &self.core.capabilities.pause {
            return Err(Error::conflict(format!(
                "sandboxes cannot be paused on this host: {why}"
            )));
        }
        self.wish(&resident, wanted, PAUSE_TIME_MAX).await?;
        Ok(resident.view(&*self.core.clock))
    }

    /// Asks the owner for something and waits until it is so.
    pub(crate) async fn wish(
        &self,
        resident: &Arc<Resident>,
        wanted: Wanted,
        time_max: Duration,
    ) -> Result<()> {
        let _operation = resident.operate();
        let (answer, answered) = oneshot::channel();
        let ask = async {
            // Either end fails only when the owner has ended, and with it the
            // sandbox, or the server.
            let lost = || match self.core.registry.is_closed() {
                true => closed(),
                false => resident.lost(resident.life().reason()),
            };
            let sent = resident.mailbox.send(Ask { wanted, answer }).await;
            sent.map_err(|_| lost())?;
            answered.await.map_err(|_| lost())?
        };
        tokio::time::timeout(time_max, ask).await.map_err(|_| {
            Error::timeout(format!(
                "sandbox `{}` did not change within {time_max:?}",
                resident.name
            ))
        })?
    }

    /// What a sandbox uses: nothing while it has no processes.
    ///
    /// # Errors
    /// `NotFound`, or what hinders the runtime.
    pub async fn usage(&self, space: &Space, name: &Name) -> Result<Usage> {
        let resident = self.core.registry.find(space, name)?;
        let life = resident.life();
        if life.ends_work() && life.reason().is_none() {
            return Ok(Usage::default());
        }
        let usage = self.core.runtime.usage(&resident.id);
        self.look("measuring the sandbox", usage).await
    }

    /// The log of a sandbox, also of one that ended and is remembered, from the
    /// entry after `after` on; at most `limit` and 1000 entries.
    ///
    /// # Errors
    /// `NotFound`, or when the store cannot be read.
    pub async fn events(
        &self,
        space: &Space,
        name: &Name,
        after: i64,
        limit: usize,
    ) -> Result<Vec<EventRecord>> {
        let registry = &self.core.registry;
        let id = match registry.find(space, name) {
            Ok(resident) => resident.id.clone(),
            Err(error) => match registry.tombstone(space, name) {
                Some(tombstone) => tombstone.id.clone(),
                None => return Err(error),
            },
        };
        self.core
            .store
            .events(id, after, limit.min(EVENTS_MAX))
            .await
    }

    /// Ends the server's part. Nothing new is accepted; creations under way are
    /// waited for. With `delete_on_shutdown` every sandbox is removed, else they
    /// run on and the next server takes them over.
    ///
    /// # Errors
    /// `Timeout` when that takes longer than `grace`; the next server finishes it.
    pub async fn shutdown(&self, grace: Duration) -> Result<()> {
        let core = &self.core;
        let deadline = Instant::now() + grace;
        core.registry.close();
        let residents = core.registry.living(None);
        let mut late = 0usize;
        if core.config.delete_on_shutdown {
            for resident in &residents {
                resident.ask_end(EndReason::Shutdown);
            }
        }
        for resident in &residents {
            let settled = async {
                let life = resident.rested().await;
                if life.reason().is_some() || core.config.delete_on_shutdown {
                    resident.gone().await;
                }
            };
            if tokio::time::timeout_at(deadline, settled).await.is_err() {
                late += 1;
            }
        }
        activity::record(core).await;
        core.closing.send_replace(true);
        core.tasks.close();
        if tokio::time::timeout(CLOSE_TIME_MAX, core.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!("some tasks did not end");
        }
        core.store.close().await;
        match late {
            0 => Ok(()),
            late => Err(Error::timeout(format!(
                "{late} sandboxes were not made or removed completely within {grace:?}; the next start of the server finishes it"
            ))),
        }
    }

    /// Waits for a look of the runtime at something.
    pub(crate) async fn look<T>(
        &self,
        what: &str,
        look: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::time::timeout(LOOK_TIME_MAX, look)
            .await
            .map_err(|_| Error::timeout(format!("{what} took longer than {LOOK_TIME_MAX:?}")))?
    }

    /// What a request would make, without making it.
    ///
    /// # Errors
    /// `InvalidRequest` naming the field.
    pub fn plan(&self, create: &Create) -> Result<Spec> {
        let plan = request::plan(create, &self.core.config, &self.core.capabilities)?;
        Ok(plan.spec)
    }
}

#[cfg(test)]
mod tests;
