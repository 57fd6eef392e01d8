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
//!                        │   EndAsked, ProcessEnded     │
//!                        ▼   in any state ▼             ▼
//!                    Stopping(reason, attempt) ◄────────┘
//!                        │      ▲ │
//!                        │      └─┘ DestroyFailed, deadline: again, later
//!                        ▼
//!                    Ended(reason)       final
//! ```
//!
//! Not drawn: a failed `Pausing` is undone by `Resuming`, a failed `Resuming`
//! stays `Paused`.
//!
//! Here is no I/O, no clock and no lock. Every state that waits for something
//! has a deadline, so that no sandbox is ever stuck in it. After the last
//! attempt to remove a sandbox it counts as ended all the same; the sweep in
//! [`crate::recover`] then goes on removing what is left of it.

use std::time::Duration;

use sandbox::{EndReason, State};

/// How long freezing and thawing may take.
const FREEZE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an adopted sandbox may take to say that it is there.
const ADOPT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long one attempt to remove a sandbox may take, its delay not counted.
const DESTROY_TIME_MAX: Duration = Duration::from_secs(30);
/// Attempts to remove a sandbox before it is left to the sweep.
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
    /// Being removed.
    Stopping {
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
    /// The state as the world sees it.
    pub(crate) fn state(&self) -> State {
        match self {
            Self::Creating => State::Creating,
            Self::Adopting | Self::Running | Self::Pausing => State::Running,
            Self::Paused | Self::Resuming => State::Paused,
            Self::Stopping { .. } => State::Stopping,
            Self::Ended { reason } => final_state(reason),
        }
    }

    /// Why it ends or has ended, if it does.
    pub(crate) fn reason(&self) -> Option<&EndReason> {
        match self {
            Self::Stopping { reason, .. } | Self::Ended { reason } => Some(reason),
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
            Self::Creating => Some(create_timeout),
            Self::Adopting => Some(ADOPT_TIME_MAX),
            Self::Pausing | Self::Resuming => Some(FREEZE_TIME_MAX),
            Self::Stopping { attempt, .. } => Some(destroy_delay(*attempt) + DESTROY_TIME_MAX),
            Self::Running | Self::Paused | Self::Ended { .. } => None,
        }
    }

    /// Whether its lease counts: it does once it was made, also while paused.
    pub(crate) fn has_lease(&self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Whether its first process should be alive, so that its end is news.
    pub(crate) fn has_process(&self) -> bool {
        match self {
            Self::Adopting | Self::Running | Self::Pausing | Self::Paused | Self::Resuming => true,
            Self::Creating | Self::Stopping { .. } | Self::Ended { .. } => false,
        }
    }
}

/// The final state that a reason leads to.
pub(crate) fn final_state(reason: &EndReason) -> State {
    match reason {
        EndReason::FailedToStart(_) => State::Failed,
        _ => State::Gone,
    }
}

/// How long an attempt to remove a sandbox waits first.
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

/// Decides what follows from `event` in `life`.
pub(crate) fn decide(life: &Life, event: Event) -> Decision {
    use Decision::{Go, Stay};
    let stop = |reason| Go(Life::Stopping { reason, attempt: 0 }, Action::Destroy);
    match (life, event) {
        (Life::Ended { .. }, _) => Stay,
        (Life::Stopping { reason, attempt }, event) => stopping(reason, *attempt, &event),
        (_, Event::EndAsked(reason)) => stop(reason),

        (Life::Creating, Event::Made) | (Life::Adopting, Event::Answered) => {
            Go(Life::Running, Action::Rest)
        }
        (Life::Creating, Event::MakeFailed(why)) => stop(EndReason::FailedToStart(why)),
        (Life::Creating, Event::DeadlinePassed(time)) => stop(EndReason::FailedToStart(format!(
            "it was not ready within {time:?}"
        ))),
        (Life::Creating, _) => Stay,

        (
            _,
            Event::ProcessEnded {
                out_of_memory: true,
                ..
            },
        ) => stop(EndReason::OutOfMemory),
        (_, Event::ProcessEnded { detail, .. }) => stop(EndReason::AgentLost(detail)),

        (Life::Adopting, Event::NotAnswered(why)) => stop(EndReason::AgentLost(why)),
        (Life::Adopting, Event::DeadlinePassed(time)) => stop(EndReason::AgentLost(format!(
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

fn stopping(reason: &EndReason, attempt: u32, event: &Event) -> Decision {
    let reason = reason.clone();
    match event {
        Event::Destroyed => Decision::Go(Life::Ended { reason }, Action::Bury),
        Event::DestroyFailed | Event::DeadlinePassed(_) => {
            let attempt = attempt + 1;
            if attempt < DESTROY_ATTEMPTS {
                Decision::Go(Life::Stopping { reason, attempt }, Action::Destroy)
            } else {
                Decision::Go(Life::Ended { reason }, Action::Bury)
            }
        }
        _ => Decision::Stay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CREATE_TIMEOUT: Duration = Duration::from_secs(20);

    fn reasons() -> impl Strategy<Value = EndReason> {
        prop_oneof![
            Just(EndReason::Deleted),
            Just(EndReason::Idle),
            Just(EndReason::LifetimeOver),
            Just(EndReason::Shutdown),
            "[a-z]{0,5}".prop_map(EndReason::AgentLost),
        ]
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Made),
            "[a-z]{0,5}".prop_map(Event::MakeFailed),
            Just(Event::Answered),
            "[a-z]{0,5}".prop_map(Event::NotAnswered),
            Just(Event::PauseAsked),
            Just(Event::Froze),
            Just(Event::FreezeFailed),
            Just(Event::ResumeAsked),
            Just(Event::Thawed),
            Just(Event::ThawFailed),
            reasons().prop_map(Event::EndAsked),
            any::<bool>().prop_map(|out_of_memory| Event::ProcessEnded {
                out_of_memory,
                detail: "exit status 1".to_owned(),
            }),
            Just(Event::Destroyed),
            Just(Event::DestroyFailed),
            Just(Event::DeadlinePassed(CREATE_TIMEOUT)),
        ]
    }

    fn starts() -> impl Strategy<Value = Life> {
        prop_oneof![
            Just(Life::Creating),
            Just(Life::Adopting),
            Just(Life::Paused),
            reasons().prop_map(|reason| Life::Stopping { reason, attempt: 0 }),
        ]
    }

    fn after(mut life: Life, events: impl IntoIterator<Item = Event>) -> Life {
        for event in events {
            if let Decision::Go(next, _) = decide(&life, event) {
                life = next;
            }
        }
        life
    }

    proptest! {
        #[test]
        fn deadlines_alone_lead_out_of_every_waiting_state(
            start in starts(),
            events in prop::collection::vec(events(), 0..30),
        ) {
            let mut life = after(start, events);
            for _ in 0..=DESTROY_ATTEMPTS + 1 {
                let Some(time) = life.time_max(CREATE_TIMEOUT) else { break };
                let next = decide(&life, Event::DeadlinePassed(time));
                prop_assert_ne!(&next, &Decision::Stay, "stuck in {:?}", life);
                life = after(life, [Event::DeadlinePassed(time)]);
            }
            prop_assert!(life.time_max(CREATE_TIMEOUT).is_none(), "still waiting in {:?}", life);
        }

        #[test]
        fn a_final_state_is_final(reason in reasons(), events in prop::collection::vec(events(), 0..30)) {
            let ended = Life::Ended { reason };
            prop_assert_eq!(after(ended.clone(), events), ended);
        }

        #[test]
        fn delete_leads_to_the_end_whatever_else_happens(
            start in starts(),
            before in prop::collection::vec(events(), 0..30),
            between in prop::collection::vec(events(), 0..30),
        ) {
            let asked = after(after(start, before), [Event::EndAsked(EndReason::Deleted)]);
            let reason = asked.reason().cloned();
            prop_assert!(reason.is_some(), "{:?} goes on", asked);
            let deadline = Event::DeadlinePassed(DESTROY_TIME_MAX);
            let deadlines = std::iter::repeat_n(deadline, DESTROY_ATTEMPTS as usize);
            let ended = after(after(asked, between), deadlines);
            prop_assert!(ended.is_final());
            prop_assert_eq!(ended.reason(), reason.as_ref(), "the first reason stays");
        }

        #[test]
        fn asking_twice_for_the_end_is_asking_once(
            start in starts(),
            events in prop::collection::vec(events(), 0..30),
            first in reasons(),
            second in reasons(),
        ) {
            let once = after(after(start, events), [Event::EndAsked(first)]);
            prop_assert_eq!(decide(&once, Event::EndAsked(second)), Decision::Stay);
        }

        #[test]
        fn a_sandbox_is_removed_before_it_is_buried(
            start in starts(),
            events in prop::collection::vec(events(), 0..60),
        ) {
            let mut life = start;
            for event in events {
                if let Decision::Go(next, action) = decide(&life, event) {
                    prop_assert_eq!(action == Action::Bury, next.is_final());
                    prop_assert_eq!(action == Action::Destroy, matches!(next, Life::Stopping { .. }));
                    let was_stopping = matches!(life, Life::Stopping { .. });
                    prop_assert!(!next.is_final() || was_stopping);
                    life = next;
                }
            }
        }

        #[test]
        fn only_what_was_made_runs(events in prop::collection::vec(events(), 0..30)) {
            let made = events.contains(&Event::Made);
            let life = after(Life::Creating, events);
            prop_assert!(made || !life.has_process(), "{:?} without having been made", life);
        }
    }

    #[test]
    fn a_failed_pause_is_undone_and_a_failed_resume_can_be_tried_again() {
        let events = [Event::PauseAsked, Event::FreezeFailed, Event::Thawed];
        assert_eq!(after(Life::Running, events), Life::Running);
        let events = [Event::ResumeAsked, Event::ThawFailed];
        assert_eq!(after(Life::Paused, events), Life::Paused);
        assert_eq!(
            decide(&Life::Paused, Event::ResumeAsked),
            Decision::Go(Life::Resuming, Action::Thaw)
        );
    }

    #[test]
    fn attempts_to_remove_wait_longer_each_time_but_not_for_ever() {
        let delays: Vec<_> = (0..=DESTROY_ATTEMPTS + 5).map(destroy_delay).collect();
        assert!(delays.is_sorted());
        assert!(delays[DESTROY_ATTEMPTS as usize - 1] < Duration::from_secs(60));
        assert!(delays.iter().max() < Some(&Duration::from_secs(300)));
    }

    #[test]
    fn lack_of_memory_is_told_apart_from_a_lost_agent() {
        let ended = |out_of_memory| Event::ProcessEnded {
            out_of_memory,
            detail: "killed by signal 9".to_owned(),
        };
        let reason = |event| after(Life::Running, [event]).reason().cloned();
        assert_eq!(reason(ended(true)), Some(EndReason::OutOfMemory));
        assert_eq!(
            reason(ended(false)),
            Some(EndReason::AgentLost("killed by signal 9".to_owned()))
        );
    }
}
