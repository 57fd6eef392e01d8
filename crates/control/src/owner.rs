//! The task that owns one sandbox.
//!
//! It waits for whatever can happen to the sandbox, asks [`lifecycle`] what
//! follows, and does that. At any time it does at most one thing (a job), which
//! the next decision may replace; what it waits for never waits for it.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use sandbox::{EndReason, Error, Kind, State};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    Sandbox, Tombstone,
    core::Core,
    jobs,
    lease::{self, Outlook},
    lifecycle::{self, Action, Decision, Event, Life},
    registry::KeyUse,
    resident::{Ask, Resident, Wanted},
    store::Change,
};

/// How a job ended: for the state machine, and for whoever asked.
pub(crate) type Finished = (Event, Option<Error>);
type Job = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// How an owner begins.
pub(crate) enum Start {
    /// Make the sandbox.
    Make {
        sandbox: Box<Sandbox>,
        key: Option<KeyUse>,
    },
    /// Go on with one that was found after a restart, in the state of its resident.
    Found,
}

/// Begins to own a sandbox.
pub(crate) fn own(
    core: &Arc<Core>,
    resident: Arc<Resident>,
    mailbox: mpsc::Receiver<Ask>,
    start: Start,
) {
    let life = resident.life();
    let mut owner = Owner {
        end_asked: resident.watch_end_asked(),
        closing: core.closing.subscribe(),
        core: Arc::clone(core),
        deadline: None,
        job: None,
        process_end: None,
        asker: None,
        error: None,
        resident,
        mailbox,
        life,
    };
    owner.job = owner.first_job(start);
    owner.expect_what_follows();
    core.tasks.spawn(owner.run());
}

struct Owner {
    core: Arc<Core>,
    resident: Arc<Resident>,
    life: Life,
    /// When the present state has lasted too long.
    deadline: Option<Instant>,
    /// What is being done.
    job: Option<Job>,
    /// The wait for the end of the first process, while it should be alive.
    process_end: Option<Job>,
    mailbox: mpsc::Receiver<Ask>,
    /// Who waits for the present change, and for what.
    asker: Option<(Wanted, oneshot::Sender<sandbox::Result<()>>)>,
    /// Why the last job failed, for the asker.
    error: Option<Error>,
    end_asked: watch::Receiver<Option<EndReason>>,
    closing: watch::Receiver<bool>,
}

/// What woke the owner.
enum Wake {
    Happened(Event),
    Finished(Finished),
    Asked(Ask),
    /// Look at the lease again.
    Lease,
    Closing,
}

impl Owner {
    async fn run(mut self) {
        while !self.life.is_final() {
            match self.wake().await {
                Wake::Happened(event) => self.handle(event).await,
                Wake::Finished((event, error)) => {
                    self.job = None;
                    // The first failure is the cause, what undoes it may succeed.
                    self.error = self.error.take().or(error);
                    self.handle(event).await;
                }
                Wake::Asked(ask) => self.ask(ask).await,
                Wake::Lease => {}
                Wake::Closing => return,
            }
        }
    }

    fn first_job(&self, start: Start) -> Option<Job> {
        let (core, resident) = (Arc::clone(&self.core), Arc::clone(&self.resident));
        match (start, &self.life) {
            (Start::Make { sandbox, key }, _) => {
                Some(Box::pin(jobs::make(core, resident, sandbox, key)))
            }
            (Start::Found, Life::Adopting) => Some(Box::pin(jobs::greet(core, resident))),
            (Start::Found, Life::Stopping { .. }) => Some(self.job_of(Action::Destroy)),
            (Start::Found, _) => None,
        }
    }

    fn job_of(&self, action: Action) -> Job {
        let (core, resident) = (Arc::clone(&self.core), Arc::clone(&self.resident));
        match (action, &self.life) {
            (Action::Freeze, _) => Box::pin(jobs::freeze(core, resident)),
            (Action::Thaw, _) => Box::pin(jobs::thaw(core, resident)),
            (_, Life::Stopping { reason, attempt }) => {
                Box::pin(jobs::destroy(core, resident, reason.clone(), *attempt))
            }
            _ => Box::pin(std::future::pending()),
        }
    }

    /// Waits for the next thing to happen.
    async fn wake(&mut self) -> Wake {
        let outlook = match self.life.has_lease() {
            true => lease::outlook(&self.resident.details().spec.lease, self.resident.ages()),
            false => Outlook::Endless,
        };
        let lease_left = match outlook {
            Outlook::Over(reason) => return Wake::Happened(Event::EndAsked(reason)),
            Outlook::Holds(left) => Some(left),
            Outlook::Endless => None,
        };
        let may_end = self.life.reason().is_none();
        let time_max = self.life.time_max(self.core.config.create_timeout);
        tokio::select! {
            biased;
            _ = self.closing.wait_for(|closing| *closing) => Wake::Closing,
            finished = maybe(&mut self.job) => Wake::Finished(finished),
            (event, _) = maybe(&mut self.process_end) => Wake::Happened(event),
            Ok(reason) = self.end_asked.wait_for(Option::is_some), if may_end => {
                let reason = reason.clone().unwrap_or(EndReason::Deleted);
                Wake::Happened(Event::EndAsked(reason))
            }
            Some(ask) = self.mailbox.recv() => Wake::Asked(ask),
            () = at(self.deadline) => {
                Wake::Happened(Event::DeadlinePassed(time_max.unwrap_or_default()))
            }
            () = after(lease_left) => Wake::Lease,
        }
    }

    async fn handle(&mut self, event: Event) {
        if let (Event::DeadlinePassed(_), Life::Pausing | Life::Resuming) = (&event, &self.life) {
            self.error = self.error.take().or(Some(self.too_slow()));
        }
        match lifecycle::decide(&self.life, event) {
            Decision::Stay => {}
            Decision::Go(next, action) => self.go(next, action).await,
        }
        self.answer_asker();
    }

    async fn go(&mut self, next: Life, action: Action) {
        tracing::debug!(sandbox = %self.resident.id, from = ?self.life, to = ?next, "next");
        let was_creating = self.life == Life::Creating;
        let from = self.life.state();
        self.life = next;
        // The job that is replaced ends here, before the next one begins.
        self.job = None;
        match action {
            Action::Rest => {}
            Action::Freeze | Action::Thaw | Action::Destroy => {
                self.job = Some(self.job_of(action));
            }
            Action::Bury => self.bury(from).await,
        }
        if let Some(reason) = self.life.reason() {
            if let (true, EndReason::FailedToStart(why)) = (was_creating, reason) {
                // Set already, unless it was the deadline that ended the creation.
                let _set_before = self.resident.outcome.set(Err((Kind::Timeout, why.clone())));
            }
            self.resident.pool.close();
        }
        self.expect_what_follows();
        self.resident.publish(self.life.clone());
        if self.life.state() != from && !self.life.is_final() {
            self.core.announce(&self.resident, Some(from));
        }
    }

    /// Sets the deadline of the present state, and listens for the process if there should be one.
    fn expect_what_follows(&mut self) {
        let time_max = self.life.time_max(self.core.config.create_timeout);
        self.deadline = time_max.map(|time| Instant::now() + time);
        if !self.life.has_process() {
            self.process_end = None;
        } else if self.process_end.is_none() {
            let (core, resident) = (Arc::clone(&self.core), Arc::clone(&self.resident));
            self.process_end = Some(Box::pin(jobs::process_end(core, resident)));
        }
    }

    /// Replaces the sandbox by its tombstone.
    async fn bury(&mut self, from: State) {
        let (Some(reason), resident) = (self.life.reason().cloned(), &self.resident) else {
            return;
        };
        let ended_ms = self.core.clock.now_ms();
        let mut sandbox = resident.view(&*self.core.clock);
        sandbox.state = self.life.state();
        (sandbox.stopped, sandbox.ending) = (None, None);
        tracing::info!(sandbox = %resident.id, name = %resident.name, %reason, "a sandbox ended");
        let tombstone = Tombstone { reason, ended_ms };
        sandbox.tombstone = Some(tombstone.clone());
        let last_seen = sandbox.clone();
        // As in the store: a tombstone needs nothing that may hold secrets.
        sandbox.spec.env.clear();
        sandbox.annotations.clear();
        let ended = Change::Ended {
            sandbox: Box::new(sandbox.clone()),
            tombstone,
        };
        // First, so that a later sandbox of the same name is recorded after it.
        self.core.store.submit(ended).await;
        let failed = sandbox.state == State::Failed;
        self.core.registry.bury(sandbox, failed);
        self.core.announce_as(last_seen, Some(from));
    }

    async fn ask(&mut self, ask: Ask) {
        let name = &self.resident.name;
        let event = match (ask.wanted, &self.life) {
            (Wanted::Paused, Life::Running) => Event::PauseAsked,
            (Wanted::Running, Life::Paused) => Event::ResumeAsked,
            (Wanted::Paused, Life::Paused) | (Wanted::Running, Life::Running) => {
                return reply(ask.answer, Ok(()));
            }
            (_, life) => {
                let refused = match life.reason() {
                    Some(reason) => self.resident.lost(Some(reason)),
                    None => Error::conflict(format!(
                        "sandbox `{name}` is just being {}; try again in a moment",
                        match life {
                            Life::Creating => "made",
                            Life::Pausing => "paused",
                            Life::Resuming => "resumed",
                            _ => "adopted after a restart of the server",
                        }
                    )),
                };
                return reply(ask.answer, Err(refused));
            }
        };
        self.error = None;
        self.asker = Some((ask.wanted, ask.answer));
        self.handle(event).await;
    }

    fn too_slow(&self) -> Error {
        Error::timeout(format!(
            "sandbox `{}` could not be brought into the wanted state in time; it is {} now",
            self.resident.name,
            self.life.state()
        ))
    }

    /// Tells the asker how its wish ended, once it has.
    fn answer_asker(&mut self) {
        let reached = match &self.life {
            Life::Pausing | Life::Resuming => return,
            Life::Paused => Some(Wanted::Paused),
            Life::Running => Some(Wanted::Running),
            _ => None,
        };
        let Some((wanted, answer)) = self.asker.take() else {
            return;
        };
        let answered = match (self.life.reason(), self.error.take()) {
            (Some(reason), _) => Err(self.resident.lost(Some(reason))),
            (None, Some(error)) => Err(error),
            (None, None) if reached == Some(wanted) => Ok(()),
            (None, None) => Err(self.too_slow()),
        };
        reply(answer, answered);
    }
}

/// Answers; whoever asked may have gone, which changes nothing.
fn reply(answer: oneshot::Sender<sandbox::Result<()>>, result: sandbox::Result<()>) {
    drop(answer.send(result));
}

async fn maybe(job: &mut Option<Job>) -> Finished {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
