//! What owners do: the only place where sandboxes are made, frozen and removed.
//!
//! Each job drives the runtime and the store for one action of the state
//! machine and tells how that went. A job may be dropped at any await: what it
//! leaves half-done is removed by the job that replaces it, or by the next
//! server. Therefore the store is always told before the runtime when a sandbox
//! becomes less (paused, removed) and after it when it becomes more (running).

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use sandbox::{EndReason, Error, Kind, Result, State, StepTime};

use crate::{
    Sandbox,
    agent::Session,
    core::Core,
    lifecycle::{Event, destroy_delay},
    owner::Finished,
    registry::KeyUse,
    resident::Resident,
    store::{Change, Note},
};

/// How long a failed creation waits to learn how its first process ended.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_millis(500);
/// How long to wait after the runtime could not tell about a process.
const ASK_AGAIN_TIME: Duration = Duration::from_secs(1);

/// Measures consecutive steps.
struct Steps {
    steps: Vec<StepTime>,
    last: Instant,
}

impl Steps {
    fn begin() -> Self {
        Self {
            steps: Vec::new(),
            last: Instant::now(),
        }
    }

    fn end(&mut self, step: &str) {
        let now = Instant::now();
        self.steps.push(StepTime {
            step: step.to_owned(),
            duration: now - self.last,
        });
        self.last = now;
    }

    fn add(&mut self, steps: Vec<StepTime>) {
        self.steps.extend(steps);
        self.last = Instant::now();
    }
}

/// Makes the sandbox, until its agent has answered and that is recorded.
pub(crate) async fn make(
    core: Arc<Core>,
    resident: Arc<Resident>,
    sandbox: Box<Sandbox>,
    key: Option<KeyUse>,
) -> Finished {
    match try_make(&core, &resident, sandbox, key).await {
        Ok(steps) => {
            core.metrics.created(&steps);
            let _never_before = resident.outcome.set(Ok(steps));
            (Event::Made, None)
        }
        Err(error) => {
            tracing::warn!(
                sandbox = %resident.id, name = %resident.name, %error,
                cause = error.source.as_ref().map(tracing::field::display),
                "a sandbox could not be made"
            );
            let _never_before = resident
                .outcome
                .set(Err((error.kind, error.message.clone())));
            (Event::MakeFailed(error.message.clone()), Some(error))
        }
    }
}

async fn try_make(
    core: &Core,
    resident: &Arc<Resident>,
    sandbox: Box<Sandbox>,
    key: Option<KeyUse>,
) -> Result<Vec<StepTime>> {
    let mut steps = Steps::begin();
    let _turn = core.creations.acquire().await;
    steps.end("queue");
    let creating = Change::Creating {
        sandbox: sandbox.clone(),
        key,
    };
    core.store.write(creating).await?;
    steps.end("record");
    let created = core.runtime.create(&resident.id, &sandbox.spec).await?;
    steps.add(created.steps);
    if let Err(error) = ping(core, resident).await {
        return Err(how_it_ended(core, resident, error).await);
    }
    steps.end("agent");
    let running = moved(core, resident, State::Running, "created");
    core.store.write(running).await?;
    steps.end("commit");
    Ok(steps.steps)
}

async fn ping(core: &Core, resident: &Arc<Resident>) -> Result<()> {
    Session::open(&*core.runtime, resident).await?.ping().await
}

/// The error of a sandbox whose agent did not answer: how its process ended, if it has.
async fn how_it_ended(core: &Core, resident: &Resident, error: Error) -> Error {
    let ended = core.runtime.ended(&resident.id);
    match tokio::time::timeout(LAST_WORDS_TIME_MAX, ended).await {
        Ok(Ok(ended)) if ended.out_of_memory => Error::limit(format!(
            "field `memory_bytes`: {} bytes are not enough to start the sandbox; give it more",
            resident.details().spec.limits.memory_bytes
        )),
        Ok(Ok(ended)) => {
            Error::internal(format!("its first process ended at once: {}", ended.detail))
        }
        _ => error,
    }
}

/// That a sandbox came into another state, as the store is told.
pub(crate) fn moved(core: &Core, resident: &Resident, state: State, event: &'static str) -> Change {
    let stopped = match state {
        State::Creating | State::Running | State::Paused => None,
        _ => resident.details().stopped.clone(),
    };
    Change::Moved {
        id: resident.id.clone(),
        state,
        active_ms: resident.active_ms(&*core.clock),
        note: Note {
            at_ms: core.clock.now_ms(),
            event,
            detail: stopped.as_ref().and_then(|stop| stop.fault.clone()),
        },
        stopped,
    }
}

/// Asks a sandbox that outlived the last server whether it is there.
pub(crate) async fn greet(core: Arc<Core>, resident: Arc<Resident>) -> Finished {
    let answered = async {
        let session = Session::visit(&*core.runtime, &resident).await?;
        session.ping().await
    };
    match answered.await {
        Ok(()) => {
            let back = moved(&core, &resident, State::Running, "adopted");
            core.store.submit(back).await;
            (Event::Answered, None)
        }
        Err(error) => (Event::NotAnswered(error.message.clone()), Some(error)),
    }
}

/// Freezes the sandbox.
pub(crate) async fn freeze(core: Arc<Core>, resident: Arc<Resident>) -> Finished {
    // Recorded first: a sandbox that may be frozen must not be taken for one
    // that does not answer.
    let paused = core
        .store
        .write(moved(&core, &resident, State::Paused, "paused"));
    let frozen = match paused.await {
        Ok(()) => core.runtime.pause(&resident.id).await,
        Err(error) => Err(error),
    };
    match frozen {
        Ok(()) => (Event::Froze, None),
        Err(error) => (Event::FreezeFailed, Some(error)),
    }
}

/// Lets the sandbox run on.
pub(crate) async fn thaw(core: Arc<Core>, resident: Arc<Resident>) -> Finished {
    match core.runtime.resume(&resident.id).await {
        Ok(()) => {
            let running = moved(&core, &resident, State::Running, "resumed");
            core.store.submit(running).await;
            (Event::Thawed, None)
        }
        Err(error) => (Event::ThawFailed, Some(error)),
    }
}

/// Ends the processes of the sandbox and keeps its files.
pub(crate) async fn halt(core: Arc<Core>, resident: Arc<Resident>, attempt: u32) -> Finished {
    let id = &resident.id;
    if attempt > 0 {
        tokio::time::sleep(destroy_delay(attempt)).await;
    } else {
        // Recorded first: if the server ends now, the next one goes on with it.
        let stopping = moved(&core, &resident, State::Stopping, "stopping");
        core.store.submit(stopping).await;
    }
    match core.runtime.stop(id).await {
        Ok(()) => (Event::Halted, None),
        Err(error) => {
            tracing::error!(
                sandbox = %id, attempt, %error,
                cause = error.source.as_ref().map(tracing::field::display),
                "a sandbox could not be stopped"
            );
            (Event::HaltFailed, Some(error))
        }
    }
}

/// Starts a stopped sandbox, until its agent has answered and that is recorded.
pub(crate) async fn start(core: Arc<Core>, resident: Arc<Resident>) -> Finished {
    match try_start(&core, &resident).await {
        Ok(steps) => {
            *resident
                .start_steps
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = steps;
            (Event::Started, None)
        }
        Err(error) => {
            tracing::warn!(
                sandbox = %resident.id, name = %resident.name, %error,
                cause = error.source.as_ref().map(tracing::field::display),
                "a sandbox could not be started again"
            );
            (Event::StartFailed(error.message.clone()), Some(error))
        }
    }
}

async fn try_start(core: &Core, resident: &Arc<Resident>) -> Result<Vec<StepTime>> {
    let mut steps = Steps::begin();
    let _turn = core.creations.acquire().await;
    // Limits that are changed now count from the next start on.
    let _settled = resident.changing.lock().await;
    steps.end("queue");
    // Recorded first: half-started, the next server makes it stopped again.
    let starting = moved(core, resident, State::Starting, "starting");
    core.store.write(starting).await?;
    steps.end("record");
    let spec = resident.details().spec.clone();
    let started = core.runtime.start(&resident.id, &spec).await?;
    steps.add(started.steps);
    if let Err(error) = ping(core, resident).await {
        return Err(how_it_ended(core, resident, error).await);
    }
    steps.end("agent");
    let running = moved(core, resident, State::Running, "started");
    core.store.write(running).await?;
    steps.end("commit");
    Ok(steps.steps)
}

/// Packs the files of a stopped sandbox.
pub(crate) async fn pack(core: Arc<Core>, resident: Arc<Resident>) -> Finished {
    let archiving = moved(&core, &resident, State::Archiving, "archiving");
    core.store.submit(archiving).await;
    match core.runtime.archive(&resident.id).await {
        Ok(()) => (Event::Packed, None),
        Err(error) => {
            tracing::warn!(sandbox = %resident.id, %error, "a sandbox could not be archived");
            (Event::PackFailed, Some(error))
        }
    }
}

/// Unpacks the files of an archived sandbox.
pub(crate) async fn unpack(core: Arc<Core>, resident: Arc<Resident>) -> Finished {
    let restoring = moved(&core, &resident, State::Restoring, "restoring");
    core.store.submit(restoring).await;
    match core.runtime.restore(&resident.id).await {
        Ok(()) => (Event::Unpacked, None),
        Err(error) => {
            tracing::warn!(sandbox = %resident.id, %error, "a sandbox could not be restored");
            (Event::UnpackFailed, Some(error))
        }
    }
}

/// Removes the sandbox.
pub(crate) async fn destroy(
    core: Arc<Core>,
    resident: Arc<Resident>,
    reason: EndReason,
    attempt: u32,
) -> Finished {
    let id = &resident.id;
    if attempt > 0 {
        tokio::time::sleep(destroy_delay(attempt)).await;
    } else {
        // Recorded first: if the server ends now, the next one goes on with it.
        let ending = Change::Ending {
            id: id.clone(),
            reason,
        };
        core.store.submit(ending).await;
    }
    match core.runtime.destroy(id).await {
        Ok(()) => (Event::Destroyed, None),
        Err(error) => {
            tracing::error!(
                sandbox = %id, attempt, %error,
                cause = error.source.as_ref().map(tracing::field::display),
                "a sandbox could not be removed"
            );
            (Event::DestroyFailed, Some(error))
        }
    }
}

/// Waits for the end of the first process.
pub(crate) async fn process_end(core: Arc<Core>, resident: Arc<Resident>) -> Finished {
    let event = |out_of_memory, detail: String| Event::ProcessEnded {
        out_of_memory,
        detail,
    };
    loop {
        match core.runtime.ended(&resident.id).await {
            Ok(ended) => return (event(ended.out_of_memory, ended.detail), None),
            Err(error) if error.kind == Kind::NotFound => {
                return (
                    event(false, "the runtime does not have it any more".to_owned()),
                    None,
                );
            }
            Err(error) => {
                tracing::warn!(sandbox = %resident.id, %error, "cannot watch a sandbox");
                tokio::time::sleep(ASK_AGAIN_TIME).await;
            }
        }
    }
}
