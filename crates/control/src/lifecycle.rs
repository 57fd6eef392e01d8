//! What happens to a sandbox next: a pure function.
//!
//! ```text
//!                    asked for          found after a restart
//!                        │                   │          │
//!                        ▼                   ▼          │ (was paused)
//!                    Creating ──Made──► Running ◄─ Adopting
//!                        │               │    ▲         │
//!   MakeFailed, EndAsked,│     PauseAsked│    │Thawed   │NotAnswered,
//!   deadline             │               ▼    │         │deadline
//!                        │          Pausing  Resuming   │
//!                        │               │Froze  ▲ResumeAsked
//!                        │               ▼       │      │
//!                        │              Paused ──┘      │
//!                        │               │              │
//!                        │     EndAsked in any state,   │
//!                        ▼     ProcessEnded             ▼
//!                    Ending(reason, attempt) ◄──────────┘
//!                        │    ▲ │
//!                        │    └─┘ DestroyFailed, deadline: again, later
//!                        ▼
//!                    Ended(reason)       final
//!
//!     Running, Paused and what is between them
//!        │  StopAsked; if its files are kept also ProcessEnded, NotAnswered
//!        ▼
//!     Stopping(fault, attempt) ◄──StartFailed, StopAsked, deadline──┐
//!        │    ▲ │                                                   │
//!        │    └─┘ HaltFailed, deadline: again, later                │
//!        ▼                                                          │
//!     Stopped ──────────────StartAsked────────────────────────► Starting
//!        │  ▲                                                       │ ▲
//!        │  └──Unpacked── Restoring(to stay) ◄─PackFailed, deadline │ │Started
//!        │ArchiveAsked                          │                   ▼ │: Running
//!        ▼                                      │                     │
//!     Archiving ────────────────────────────────┘                     │Unpacked
//!        │Packed │StartAsked                                          │
//!        ▼       └────────────────────────────────┐                   │
//!     Archived ──────────StartAsked───────────► Restoring(to start) ──┘
//! ```
//!
//! Not drawn: a failed `Pausing` is undone by `Resuming`, a failed `Resuming`
//! stays `Paused`, a failed `Restoring` is `Archived` (again).
//!
//! Here is no I/O, no clock and no lock. Every state that waits for something
//! has a deadline, so that no sandbox is ever stuck in it. After the last
//! attempt to remove a sandbox it counts as ended all the same; the sweep in
//! [`crate::recover`] then goes on removing what is left of it. After the last
//! attempt to stop one it counts as stopped; the next start or removal cleans up.

use std::time::Duration;

use sandbox::{EndReason, State};

use crate::lease::Phase;

/// How long freezing and thawing may take.
const FREEZE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an adopted sandbox may take to say that it is there.
const ADOPT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long one attempt to stop or to remove a sandbox may take, its delay not counted.
const DESTROY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long packing or unpacking the files of a sandbox may take.
pub(crate) const PACK_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// Attempts to remove a sandbox before it is left to the sweep, and to stop one.
pub(crate) const DESTROY_ATTEMPTS: u32 = 6;
/// Delay of the second attempt; each further one waits four times as long.
const DESTROY_DELAY: Duration = Duration::from_millis(100);

/// Where a sandbox is in its life, in more detail than [`State`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Being made.
    Creating,
    /// Found alive after a restart of the server, not heard of yet.
    Adopting,
    /// Ready for work.
    Running,
    /// Being frozen.
    Pausing,
    /// Frozen.
    Paused,
    /// Being thawed.
    Resuming,
    /// Its processes are being ended, its files kept.
    Stopping {
        /// What went wrong, when nobody asked for it.
        fault: Option<String>,
        /// Counted from 0.
        attempt: u32,
    },
    /// Without processes; its files are kept.
    Stopped,
    /// Being started on its kept files.
    Starting,
    /// Its files are being packed.
    Archiving,
    /// Its files are packed.
    Archived,
    /// Its files are being unpacked.
    Restoring {
        /// Whether it is started then.
        start: bool,
    },
    /// Being removed.
    Ending {
        /// Why.
        reason: EndReason,
        /// Counted from 0.
        attempt: u32,
    },
    /// Nothing is left of it. Final.
    Ended {
        /// Why.
        reason: EndReason,
    },
}

impl Life {
    /// The first attempt to stop it.
    pub(crate) fn stopping(fault: Option<String>) -> Self {
        Self::Stopping { fault, attempt: 0 }
    }

    /// The first attempt to remove it.
    pub(crate) fn ending(reason: EndReason) -> Self {
        Self::Ending { reason, attempt: 0 }
    }

    /// The state as the world sees it.
    pub(crate) fn state(&self) -> State {
        match self {
            Self::Creating => State::Creating,
            Self::Adopting | Self::Running | Self::Pausing => State::Running,
            Self::Paused | Self::Resuming => State::Paused,
            Self::Stopping { .. } | Self::Ending { .. } => State::Stopping,
            Self::Stopped => State::Stopped,
            Self::Starting => State::Starting,
            Self::Archiving => State::Archiving,
            Self::Archived => State::Archived,
            Self::Restoring { .. } => State::Restoring,
            Self::Ended { reason } => final_state(reason),
        }
    }

    /// Why it ends or has ended, if it does.
    pub(crate) fn reason(&self) -> Option<&EndReason> {
        match self {
            Self::Ending { reason, .. } | Self::Ended { reason } => Some(reason),
            _ => None,
        }
    }

    /// Whether nothing can follow.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }

    /// How long it may stay like this; `None` when it may stay for ever.
    pub(crate) fn time_max(&self, create_timeout: Duration) -> Option<Duration> {
        match self {
            Self::Creating | Self::Starting => Some(create_timeout),
            Self::Adopting => Some(ADOPT_TIME_MAX),
            Self::Pausing | Self::Resuming => Some(FREEZE_TIME_MAX),
            Self::Archiving | Self::Restoring { .. } => Some(PACK_TIME_MAX),
            Self::Stopping { attempt, .. } | Self::Ending { attempt, .. } => {
                Some(destroy_delay(*attempt) + DESTROY_TIME_MAX)
            }
            Self::Running | Self::Paused | Self::Stopped | Self::Archived | Self::Ended { .. } => {
                None
            }
        }
    }

    /// Which part of its lease counts: some does whenever it waits for nothing.
    pub(crate) fn phase(&self) -> Option<Phase> {
        match self {
            Self::Running => Some(Phase::Running),
            Self::Paused => Some(Phase::Paused),
            Self::Stopped => Some(Phase::Stopped),
            Self::Archived => Some(Phase::Archived),
            _ => None,
        }
    }

    /// Whether its first process should be alive, so that its end is news.
    pub(crate) fn has_process(&self) -> bool {
        matches!(
            self,
            Self::Adopting | Self::Running | Self::Pausing | Self::Paused | Self::Resuming
        )
    }

    /// Whether work that was under way in it is over for good.
    pub(crate) fn ends_work(&self) -> bool {
        !self.has_process() && !matches!(self, Self::Creating | Self::Starting)
    }

    /// Whether it takes one of the places for running sandboxes.
    pub(crate) fn takes_place(&self) -> bool {
        !matches!(
            self,
            Self::Stopped
                | Self::Archiving
                | Self::Archived
                | Self::Restoring { start: false }
                | Self::Ended { .. }
        )
    }

    /// Whether the server should not end before it went on.
    pub(crate) fn is_short(&self) -> bool {
        matches!(
            self,
            Self::Creating | Self::Starting | Self::Stopping { .. }
        )
    }
}

/// The final state that a reason leads to.
pub(crate) fn final_state(reason: &EndReason) -> State {
    match reason {
        EndReason::FailedToStart(_) => State::Failed,
        _ => State::Gone,
    }
}

/// How long an attempt to stop or to remove a sandbox waits first.
pub(crate) fn destroy_delay(attempt: u32) -> Duration {
    match attempt {
        0 => Duration::ZERO,
        later => DESTROY_DELAY * 4u32.saturating_pow(later.min(DESTROY_ATTEMPTS) - 1),
    }
}

/// What can happen to a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It was made and its agent answered.
    Made,
    /// It could not be made; the text says why.
    MakeFailed(String),
    /// An adopted sandbox answered.
    Answered,
    /// An adopted sandbox did not answer; the text says how.
    NotAnswered(String),
    /// Somebody asked to pause it.
    PauseAsked,
    /// It was frozen.
    Froze,
    /// It could not be frozen.
    FreezeFailed,
    /// Somebody asked to let it run on.
    ResumeAsked,
    /// It was thawed.
    Thawed,
    /// It could not be thawed.
    ThawFailed,
    /// Somebody or its lease asked to stop it.
    StopAsked,
    /// Its processes were ended.
    Halted,
    /// Its processes could not all be ended, or not all that they used be freed.
    HaltFailed,
    /// Somebody asked to start it.
    StartAsked,
    /// It was started and its agent answered.
    Started,
    /// It could not be started; the text says why.
    StartFailed(String),
    /// Somebody or its lease asked to archive it.
    ArchiveAsked,
    /// Its files were packed.
    Packed,
    /// Its files could not be packed.
    PackFailed,
    /// Its files were unpacked.
    Unpacked,
    /// Its files could not be unpacked.
    UnpackFailed,
    /// Somebody, its lease or the server asked for its end.
    EndAsked(EndReason),
    /// Its first process ended by itself.
    ProcessEnded {
        /// Whether the kernel killed it for lack of memory.
        out_of_memory: bool,
        /// How, for people.
        detail: String,
    },
    /// All of it was removed.
    Destroyed,
    /// It could not be removed completely.
    DestroyFailed,
    /// It stayed in its state for as long as it may.
    DeadlinePassed(Duration),
}

/// What to do on entering a state. It replaces what was still being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Only wait.
    Rest,
    /// Freeze its processes.
    Freeze,
    /// Let its processes run on.
    Thaw,
    /// End its processes, keep its files.
    Halt,
    /// Start it on its files.
    Start,
    /// Pack its files.
    Pack,
    /// Unpack its files.
    Unpack,
    /// Remove it.
    Destroy,
    /// Write its tombstone and free its name.
    Bury,
}

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing: what is being done goes on.
    Stay,
    /// The next state, and what to do on entering it.
    Go(Life, Action),
}

/// Decides what follows from `event` in `life`. `keeps_files`: whether a sandbox
/// that ends by itself is stopped rather than removed.
pub(crate) fn decide(life: &Life, event: Event, keeps_files: bool) -> Decision {
    use Decision::{Go, Stay};
    let end = |reason| Go(Life::ending(reason), Action::Destroy);
    let stop = |fault| Go(Life::stopping(fault), Action::Halt);
    let lose = |reason: EndReason| match keeps_files {
        true => stop(Some(reason.to_string())),
        false => end(reason),
    };
    match (life, event) {
        (Life::Ended { .. }, _) => Stay,
        (Life::Ending { reason, attempt }, event) => ending(reason, *attempt, &event),
        (_, Event::EndAsked(reason)) => end(reason),
        (Life::Stopping { fault, attempt }, event) => stopping(fault.as_ref(), *attempt, &event),

        (Life::Creating, Event::Made) | (Life::Adopting, Event::Answered) => {
            Go(Life::Running, Action::Rest)
        }
        (Life::Creating, Event::MakeFailed(why)) => end(EndReason::FailedToStart(why)),
        (Life::Creating, Event::DeadlinePassed(time)) => end(EndReason::FailedToStart(format!(
            "it was not ready within {time:?}"
        ))),
        (Life::Creating, _) => Stay,

        (Life::Starting, Event::Started) => Go(Life::Running, Action::Rest),
        (Life::Starting, Event::StartFailed(why)) => stop(Some(why)),
        (Life::Starting, Event::DeadlinePassed(time)) => {
            stop(Some(format!("it was not ready within {time:?}")))
        }
        (Life::Starting, Event::StopAsked) => stop(None),
        (Life::Starting, _) => Stay,

        (Life::Stopped | Life::Archiving | Life::Archived | Life::Restoring { .. }, event) => {
            at_rest(life, &event)
        }

        (
            _,
            Event::ProcessEnded {
                out_of_memory: true,
                ..
            },
        ) => lose(EndReason::OutOfMemory),
        (_, Event::ProcessEnded { detail, .. }) => lose(EndReason::AgentLost(detail)),
        (_, Event::StopAsked) => stop(None),

        (Life::Adopting, Event::NotAnswered(why)) => lose(EndReason::AgentLost(why)),
        (Life::Adopting, Event::DeadlinePassed(time)) => lose(EndReason::AgentLost(format!(
            "it did not answer within {time:?} after the server was restarted"
        ))),

        (Life::Running, Event::PauseAsked) => Go(Life::Pausing, Action::Freeze),
        (Life::Pausing, Event::Froze) => Go(Life::Paused, Action::Rest),
        (Life::Pausing, Event::FreezeFailed | Event::DeadlinePassed(_)) => {
            Go(Life::Resuming, Action::Thaw)
        }
        (Life::Paused, Event::ResumeAsked) => Go(Life::Resuming, Action::Thaw),
        (Life::Resuming, Event::Thawed) => Go(Life::Running, Action::Rest),
        (Life::Resuming, Event::ThawFailed | Event::DeadlinePassed(_)) => {
            Go(Life::Paused, Action::Rest)
        }
        (Life::Adopting | Life::Running | Life::Pausing | Life::Paused | Life::Resuming, _) => Stay,
    }
}

/// What follows for a sandbox that has files and no processes.
fn at_rest(life: &Life, event: &Event) -> Decision {
    use Decision::{Go, Stay};
    match (life, event) {
        (Life::Stopped, Event::StartAsked) => Go(Life::Starting, Action::Start),
        (Life::Stopped, Event::ArchiveAsked) => Go(Life::Archiving, Action::Pack),
        (Life::Archiving, Event::Packed) => Go(Life::Archived, Action::Rest),
        (Life::Archiving, Event::PackFailed | Event::DeadlinePassed(_)) => {
            Go(Life::Restoring { start: false }, Action::Unpack)
        }
        (Life::Archiving | Life::Archived, Event::StartAsked) => {
            Go(Life::Restoring { start: true }, Action::Unpack)
        }
        (Life::Restoring { start: true }, Event::Unpacked) => Go(Life::Starting, Action::Start),
        (Life::Restoring { start: false }, Event::Unpacked) => Go(Life::Stopped, Action::Rest),
        (Life::Restoring { .. }, Event::UnpackFailed | Event::DeadlinePassed(_)) => {
            Go(Life::Archived, Action::Rest)
        }
        _ => Stay,
    }
}

fn stopping(fault: Option<&String>, attempt: u32, event: &Event) -> Decision {
    match event {
        Event::Halted => Decision::Go(Life::Stopped, Action::Rest),
        Event::HaltFailed | Event::DeadlinePassed(_) => {
            let attempt = attempt + 1;
            if attempt < DESTROY_ATTEMPTS {
                let fault = fault.cloned();
                Decision::Go(Life::Stopping { fault, attempt }, Action::Halt)
            } else {
                Decision::Go(Life::Stopped, Action::Rest)
            }
        }
        _ => Decision::Stay,
    }
}

fn ending(reason: &EndReason, attempt: u32, event: &Event) -> Decision {
    let reason = reason.clone();
    match event {
        Event::Destroyed => Decision::Go(Life::Ended { reason }, Action::Bury),
        Event::DestroyFailed | Event::DeadlinePassed(_) => {
            let attempt = attempt + 1;
            if attempt < DESTROY_ATTEMPTS {
                Decision::Go(Life::Ending { reason, attempt }, Action::Destroy)
            } else {
                Decision::Go(Life::Ended { reason }, Action::Bury)
            }
        }
        _ => Decision::Stay,
    }
}

/// What an owner can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// To be frozen.
    Paused,
    /// To run on after a pause.
    Resumed,
    /// To run, from whatever rest.
    Started,
    /// To be without processes.
    Stopped,
    /// To have its files packed; met once that has begun.
    Archived,
}

/// What becomes of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It is so already.
    Met,
    /// It is on its way already.
    Joins,
    /// This leads there.
    Acts(Event),
    /// It cannot be; the text says why and what to do.
    Refused(&'static str),
}

/// What becomes of a wish in `life`, which is not ending.
pub(crate) fn wish(life: &Life, wanted: Wanted) -> Wish {
    use Wish::{Acts, Joins, Met, Refused};
    let busy = Refused(match life {
        Life::Creating => "is just being made; try again in a moment",
        Life::Adopting => {
            "is just being adopted after a restart of the server; try again in a moment"
        }
        Life::Running => "is running; stop it first",
        Life::Pausing => "is just being paused; try again in a moment",
        Life::Paused => "is paused; stop it first",
        Life::Resuming => "is just being resumed; try again in a moment",
        Life::Stopping { .. } => "is just being stopped; try again in a moment",
        Life::Stopped => "is stopped; start it first",
        Life::Starting => "is just being started; try again in a moment",
        Life::Archiving => "is just being archived; start it first",
        Life::Archived => "is archived; start it first",
        Life::Restoring { .. } => "is just being restored; try again in a moment",
        Life::Ending { .. } | Life::Ended { .. } => "has ended",
    });
    match (wanted, life) {
        (Wanted::Paused, Life::Running) => Acts(Event::PauseAsked),
        (Wanted::Paused, Life::Paused) => Met,
        (Wanted::Paused, Life::Pausing) => Joins,

        (Wanted::Resumed | Wanted::Started, Life::Paused) => Acts(Event::ResumeAsked),
        (Wanted::Resumed | Wanted::Started, Life::Running) => Met,
        (Wanted::Resumed | Wanted::Started, Life::Resuming) => Joins,

        (Wanted::Started, Life::Stopped | Life::Archiving | Life::Archived) => {
            Acts(Event::StartAsked)
        }
        (Wanted::Started, Life::Adopting | Life::Starting | Life::Restoring { start: true }) => {
            Joins
        }

        (Wanted::Stopped, Life::Starting) => Acts(Event::StopAsked),
        (Wanted::Stopped, life) if life.has_process() => Acts(Event::StopAsked),
        (Wanted::Stopped, Life::Stopping { .. }) => Joins,
        (
            Wanted::Stopped,
            Life::Stopped | Life::Archiving | Life::Archived | Life::Restoring { start: false },
        ) => Met,

        (Wanted::Archived, Life::Stopped) => Acts(Event::ArchiveAsked),
        (Wanted::Archived, Life::Archiving | Life::Archived) => Met,
        _ => busy,
    }
}

/// Whether those who want it may be told now: `None` while it is on its way.
pub(crate) fn met(life: &Life, wanted: Wanted) -> Option<bool> {
    match life {
        Life::Running => Some(matches!(wanted, Wanted::Resumed | Wanted::Started)),
        Life::Paused => Some(wanted == Wanted::Paused),
        Life::Stopped | Life::Archived | Life::Archiving => Some(match wanted {
            Wanted::Stopped => true,
            Wanted::Archived => *life != Life::Stopped,
            _ => false,
        }),
        Life::Ending { .. } | Life::Ended { .. } => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
