//! Makes the picture whole again: after a restart, and now and then.
//!
//! The server may be killed at any moment. What the store remembers and what
//! the runtime still has are then brought together: sandboxes that run go on
//! running, half-made and half-removed ones are removed, and so is everything
//! of which the store knows nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use sandbox::{Condition, EndReason, Error, Found, Id, Result, State};

use crate::{
    Stop, activity,
    core::Core,
    image::build_space,
    lifecycle::Life,
    owner::{Start, own},
    resident::Resident,
    store::{Change, Memory, Stored},
};

/// How long the runtime may take to tell what it has.
const LIST_TIME_MAX: Duration = Duration::from_secs(30);
/// How long one removal of something unknown may take.
const DESTROY_TIME_MAX: Duration = Duration::from_secs(30);
/// Removals of unknown sandboxes at once.
const DESTROYS_AT_ONCE: usize = 8;
/// How long the start waits for sandboxes that are to be removed; they go on
/// being removed afterwards.
const REMOVALS_TIME_MAX: Duration = Duration::from_secs(15);
/// How often old things are forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often leftovers are looked for, in turns of tidying.
const SWEEP_EVERY_TURNS: u32 = 10;

/// What becomes of a sandbox that the store remembers as living.
fn fate(stored: &Stored, found: Option<&Found>) -> Life {
    let end = |reason| Life::ending(reason);
    if let Some(reason) = &stored.ending {
        return end(reason.clone());
    }
    if stored.sandbox.space == build_space() {
        // Its build went with its server.
        return end(EndReason::Deleted);
    }
    let state = stored.sandbox.state;
    if state == State::Creating {
        return end(EndReason::FailedToStart(
            "its server was ended while it was being made".to_owned(),
        ));
    }
    let Some(found) = found else {
        return end(EndReason::AgentLost(
            "nothing was left of it when its server was started again".to_owned(),
        ));
    };
    match (state, found.condition) {
        (State::Running, Condition::Alive) => Life::Adopting,
        (State::Paused, Condition::Alive) => Life::Paused,
        (State::Running | State::Paused, _) => {
            let reason = match found.host_restarted {
                true => EndReason::HostRestarted,
                false => {
                    EndReason::AgentLost("it ended while its server was not running".to_owned())
                }
            };
            match stored.sandbox.spec.lease.keeps_files() {
                true => Life::stopping(Some(reason.to_string())),
                false => end(reason),
            }
        }
        (State::Stopped, Condition::Stopped) => Life::Stopped,
        (State::Archived, Condition::Archived) => Life::Archived,
        // Nobody waits for it, so it simply goes on.
        (State::Archiving | State::Archived, Condition::Stopped | Condition::Archived) => {
            Life::Archiving
        }
        (_, Condition::Stopped | Condition::Archived) => Life::Restoring { start: false },
        (State::Starting, _) => Life::stopping(Some(
            "its server was ended while it was being started".to_owned(),
        )),
        _ => Life::stopping(None),
    }
}

/// Brings the store's memory and the runtime's sandboxes together.
///
/// # Errors
/// When the runtime cannot tell what it has: nothing may be decided then.
pub(crate) async fn recover(core: &Arc<Core>, memory: Memory) -> Result<()> {
    let found = list(core).await?;
    let forget_before_ms = core.forget_before_ms();
    let (ended, living): (Vec<Stored>, Vec<Stored>) = memory
        .sandboxes
        .into_iter()
        .partition(|stored| stored.sandbox.tombstone.is_some());
    let tombstones = ended.into_iter().map(|stored| stored.sandbox).collect();
    core.registry.recall(tombstones, memory.keys);
    core.registry.prune(forget_before_ms);

    let known: HashSet<Id> = living
        .iter()
        .map(|stored| stored.sandbox.id.clone())
        .collect();
    let found: HashMap<Id, Found> = found
        .into_iter()
        .map(|found| (found.id.clone(), found))
        .collect();
    let mut fates: Vec<(Stored, Life)> = living
        .into_iter()
        .map(|stored| {
            let life = fate(&stored, found.get(&stored.sandbox.id));
            (stored, life)
        })
        .collect();
    // Those that go on come first, so that no name is taken by one that does not.
    fates.sort_by_key(|(_, life)| life.reason().is_some());
    let mut removed = Vec::new();
    let mut adopted = 0;
    for (stored, life) in fates {
        let is_removed = life.reason().is_some();
        let resident = take_over(core, stored, life);
        if is_removed {
            removed.push(resident);
        } else {
            adopted += 1;
        }
    }
    let strangers: Vec<Id> = found.into_keys().filter(|id| !known.contains(id)).collect();
    tracing::info!(
        adopted,
        removed = removed.len(),
        strangers = strangers.len(),
        "took over what an earlier server left"
    );
    remove_strangers(core, strangers).await;
    let all_gone = async {
        for resident in &removed {
            resident.gone().await;
        }
    };
    if tokio::time::timeout(REMOVALS_TIME_MAX, all_gone)
        .await
        .is_err()
    {
        tracing::warn!("some sandboxes of an earlier server are still being removed");
    }
    Ok(())
}

fn take_over(core: &Arc<Core>, stored: Stored, life: Life) -> Arc<Resident> {
    let now_ms = core.clock.now_ms();
    let mut sandbox = stored.sandbox;
    // What happened last may not have been recorded any more.
    let unrecorded_ms = i64::try_from(activity::RECORD_EVERY.as_millis()).unwrap_or(0);
    sandbox.active_ms = sandbox.active_ms.saturating_add(unrecorded_ms).min(now_ms);
    if let Life::Stopping { fault, .. } = &life {
        let earlier = sandbox.stopped.take();
        let at_ms = earlier.as_ref().map_or(now_ms, |stop| stop.at_ms);
        let fault = fault.clone().or(earlier.and_then(|stop| stop.fault));
        sandbox.stopped = Some(Stop { at_ms, fault });
    }
    let (resident, mailbox) = Resident::new(sandbox, life, now_ms);
    core.registry.adopt(&resident);
    own(core, Arc::clone(&resident), mailbox, Start::Found);
    resident
}

async fn list(core: &Core) -> Result<Vec<Found>> {
    tokio::time::timeout(LIST_TIME_MAX, core.runtime.list())
        .await
        .map_err(|_| {
            Error::timeout(format!(
                "the runtime did not tell within {LIST_TIME_MAX:?} which sandboxes it has"
            ))
        })?
}

async fn remove_strangers(core: &Core, strangers: Vec<Id>) {
    futures_util::stream::iter(strangers)
        .for_each_concurrent(DESTROYS_AT_ONCE, |id| async move {
            let destroyed = tokio::time::timeout(DESTROY_TIME_MAX, core.runtime.destroy(&id)).await;
            match destroyed {
                Ok(Ok(())) => tracing::info!(sandbox = %id, "removed what nobody knew of"),
                Ok(Err(error)) => {
                    tracing::error!(sandbox = %id, %error, "cannot remove what nobody knows of");
                }
                Err(_) => {
                    tracing::error!(sandbox = %id, "removing what nobody knows of takes too long")
                }
            }
        })
        .await;
}

/// Removes what the runtime has and nobody knows of. A sandbox is in the
/// registry before the runtime hears of it and until it was removed, so what is
/// listed and then not in the registry is a leftover.
pub(crate) async fn sweep(core: &Core) {
    let found = match list(core).await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(%error, "cannot look for leftovers"),
    };
    let strangers = found.into_iter().map(|found| found.id);
    let strangers = strangers.filter(|id| !core.registry.has(id)).collect();
    remove_strangers(core, strangers).await;
}

/// Forgets old things and looks for leftovers, until the server ends.
pub(crate) async fn keep_tidy(core: Arc<Core>) {
    let mut closing = core.closing.subscribe();
    let tidy = async {
        let mut turn = 0u32;
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            turn = turn.wrapping_add(1);
            let before_ms = core.forget_before_ms();
            core.registry.prune(before_ms);
            if turn.is_multiple_of(SWEEP_EVERY_TURNS) {
                core.store.submit(Change::Pruned { before_ms }).await;
                sweep(&core).await;
            }
            core.store.tidy().await;
        }
    };
    tokio::select! {
        () = tidy => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

#[cfg(test)]
mod tests;
