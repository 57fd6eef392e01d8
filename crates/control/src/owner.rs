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
    Sandbox, Stop, Tombstone,
    core::Core,
    jobs,
    lease::{self, Due, Outlook},
    lifecycle::{self, Action, Decision, Event, Life, Wanted, Wish},
    registry::KeyUse,
    resident::{Ask, Resident},
    store::Change,
};

/// Requests that may wait for the same change.
const ASKERS_MAX: usize = 256;
/// How long a lease waits until it tries again what did not work.
const LEASE_RETRY_TIME: Duration = Duration::from_secs(60);

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
        askers: Vec::new(),
        error: None,
        lease_tried: None,
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
    askers: Vec<(Wanted, oneshot::Sender<sandbox::Result<()>>)>,
    /// Why the last job failed, for the askers.
    error: Option<Error>,
    /// What its lease tried last, and when it may try that again.
    lease_tried: Option<(Due, Instant)>,
    end_asked: watch::Receiver<Option<EndReason>>,
    closing: watch::Receiver<bool>,
}

/// What woke the owner.
enum Wake {
    Happened(Event),
    Finished(Finished),
    Asked(Ask),
    /// Something is due by the lease.
    Due(Due),
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
                Wake::Due(due) => self.follow_lease(due).await,
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
            (Start::Found, Life::Ending { .. }) => Some(self.job_of(Action::Destroy)),
            (Start::Found, Life::Stopping { .. }) => Some(self.job_of(Action::Halt)),
            (Start::Found, Life::Archiving) => Some(self.job_of(Action::Pack)),
            (Start::Found, Life::Restoring { .. }) => Some(self.job_of(Action::Unpack)),
            (Start::Found, _) => None,
        }
    }

    fn job_of(&self, action: Action) -> Job {
        let (core, resident) = (Arc::clone(&self.core), Arc::clone(&self.resident));
        match (action, &self.life) {
            (Action::Freeze, _) => Box::pin(jobs::freeze(core, resident)),
            (Action::Thaw, _) => Box::pin(jobs::thaw(core, resident)),
            (Action::Start, _) => Box::pin(jobs::start(core, resident)),
            (Action::Pack, _) => Box::pin(jobs::pack(core, resident)),
            (Action::Unpack, _) => Box::pin(jobs::unpack(core, resident)),
            (_, Life::Stopping { attempt, .. }) => Box::pin(jobs::halt(core, resident, *attempt)),
            (_, Life::Ending { reason, attempt }) => {
                Box::pin(jobs::destroy(core, resident, reason.clone(), *attempt))
            }
            _ => Box::pin(std::future::pending()),
        }
    }

    /// Waits for the next thing to happen.
    async fn wake(&mut self) -> Wake {
        let lease_left = match self.outlook() {
            Outlook::Due(due) => return Wake::Due(due),
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
            () = self.resident.lease_changed.notified() => Wake::Lease,
            () = at(self.deadline) => {
                Wake::Happened(Event::DeadlinePassed(time_max.unwrap_or_default()))
            }
            () = after(lease_left) => Wake::Lease,
        }
    }

    /// What the lease says now.
    fn outlook(&self) -> Outlook {
        let Some(phase) = self.life.phase() else {
            return Outlook::Endless;
        };
        let mut lease = self.resident.details().spec.lease;
        if self.core.capabilities.pause.is_err() {
            lease.pause_after_idle = None;
        }
        match (
            lease::outlook(&lease, phase, self.resident.ages()),
            &self.lease_tried,
        ) {
            (Outlook::Due(due), Some((tried, again))) if due == *tried => {
                match again.saturating_duration_since(Instant::now()) {
                    Duration::ZERO => Outlook::Due(due),
                    left => Outlook::Holds(left),
                }
            }
            (outlook, _) => outlook,
        }
    }

    async fn follow_lease(&mut self, due: Due) {
        let ends_on_stop = self.resident.details().spec.lease.ends_on_stop();
        let event = match &due {
            Due::End(reason) => Event::EndAsked(reason.clone()),
            Due::Stop if ends_on_stop => Event::EndAsked(EndReason::Stopped),
            Due::Stop => Event::StopAsked,
            Due::Pause => Event::PauseAsked,
            Due::Archive => Event::ArchiveAsked,
        };
        self.lease_tried = Some((due, Instant::now() + LEASE_RETRY_TIME));
        self.error = None;
        self.handle(event).await;
    }

    async fn handle(&mut self, event: Event) {
        if let Event::DeadlinePassed(_) = &event
            && !matches!(self.life, Life::Creating | Life::Adopting)
        {
            self.error = self.error.take().or(Some(self.too_slow()));
        }
        let keeps_files = self.resident.details().spec.lease.keeps_files();
        match lifecycle::decide(&self.life, event, keeps_files) {
            Decision::Stay => {}
            Decision::Go(next, action) => self.go(next, action).await,
        }
        self.answer_askers();
    }

    async fn go(&mut self, next: Life, action: Action) {
        tracing::debug!(sandbox = %self.resident.id, from = ?self.life, to = ?next, "next");
        let was_creating = self.life == Life::Creating;
        let from = self.life.state();
        self.life = next;
        // The job that is replaced ends here, before the next one begins.
        self.job = None;
        self.keep_details();
        match action {
            Action::Rest => self.record_rest().await,
            Action::Bury => self.bury(from).await,
            _ => self.job = Some(self.job_of(action)),
        }
        if !self.life.takes_place() {
            self.core.registry.vacate(&self.resident);
        }
        if let (true, Some(EndReason::FailedToStart(why))) = (was_creating, self.life.reason()) {
            // Set already, unless it was the deadline that ended the creation.
            let _set_before = self.resident.outcome.set(Err((Kind::Timeout, why.clone())));
        }
        if self.life.ends_work() {
            self.resident.pool.close();
        }
        self.expect_what_follows();
        self.resident.publish(self.life.clone());
        if self.life.state() != from && !self.life.is_final() {
            self.core.announce(&self.resident, Some(from));
        }
    }

    /// Notes in the sandbox itself what its new life means.
    fn keep_details(&self) {
        match &self.life {
            Life::Stopping { fault, attempt: 0 } => {
                if let Some(fault) = fault {
                    tracing::info!(sandbox = %self.resident.id, fault, "a sandbox stopped by itself");
                }
                self.resident.mark_stopped(Stop {
                    at_ms: self.core.clock.now_ms(),
                    fault: fault.clone(),
                });
            }
            Life::Starting => self.resident.pool.open(),
            Life::Running => self.resident.mark_started(),
            _ => {}
        }
    }

    /// Records that a sandbox came to rest; on the way there only the beginning
    /// was. Being made, frozen, thawed and started are recorded by their jobs.
    async fn record_rest(&mut self) {
        let event = match &self.life {
            Life::Stopped => "stopped",
            Life::Archived => "archived",
            _ => return,
        };
        let moved = jobs::moved(&self.core, &self.resident, self.life.state(), event);
        self.core.store.submit(moved).await;
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
        self.core.metrics.ended(&reason);
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
        let Ask { wanted, answer } = ask;
        if let Some(reason) = self.life.reason() {
            return reply(answer, Err(self.resident.lost(Some(reason))));
        }
        let name = &self.resident.name;
        match lifecycle::wish(&self.life, wanted) {
            Wish::Met => reply(answer, Ok(())),
            Wish::Refused(why) => {
                reply(
                    answer,
                    Err(Error::conflict(format!("sandbox `{name}` {why}"))),
                );
            }
            Wish::Joins if self.askers.len() >= ASKERS_MAX => {
                let full = format!("{ASKERS_MAX} requests wait for sandbox `{name}` already");
                reply(answer, Err(Error::limit(full)));
            }
            Wish::Joins => self.askers.push((wanted, answer)),
            Wish::Acts(event) => {
                if event == Event::StartAsked
                    && let Err(full) = self.take_place()
                {
                    return reply(answer, Err(full));
                }
                self.error = None;
                self.askers.push((wanted, answer));
                self.handle(event).await;
            }
        }
    }

    /// One of the places for running sandboxes, for one that is to be started.
    fn take_place(&self) -> sandbox::Result<()> {
        let sandboxes_max = self.core.config.sandboxes_max;
        self.core.registry.take_place(&self.resident, sandboxes_max)
    }

    fn too_slow(&self) -> Error {
        Error::timeout(format!(
            "sandbox `{}` could not be brought into the wanted state in time; it is {} now",
            self.resident.name,
            self.life.state()
        ))
    }

    /// Tells the askers how their wishes ended, once they have.
    fn answer_askers(&mut self) {
        let askers = std::mem::take(&mut self.askers);
        for (wanted, answer) in askers {
            match lifecycle::met(&self.life, wanted) {
                None => self.askers.push((wanted, answer)),
                // A stop may have needed several attempts; all else was undone on an
                // error, even if it happens to be as wanted now.
                Some(true) if self.error.is_none() || wanted == Wanted::Stopped => {
                    reply(answer, Ok(()));
                }
                Some(_) => reply(answer, Err(self.why_not())),
            }
        }
    }

    /// The error of a wish that was not met.
    fn why_not(&self) -> Error {
        match (self.life.reason(), &self.error) {
            (Some(reason), _) => self.resident.lost(Some(reason)),
            // Once for each asker: an error cannot be cloned.
            (None, Some(error)) => Error::new(error.kind, error.message.clone()),
            (None, None) => Error::conflict(format!(
                "somebody else wanted something else of sandbox `{}`, which is {} now",
                self.resident.name,
                self.life.state()
            )),
        }
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
