//! What a lease does to a sandbox by itself: pure arithmetic on durations.

use std::time::Duration;

use sandbox::{EndReason, Lease};

/// Which part of a lease counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Paused,
    Stopped,
    Archived,
}

/// What is known about a sandbox at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ages {
    /// Since its creation.
    pub(crate) age: Duration,
    /// Since an operation last began or ended.
    pub(crate) idle: Duration,
    /// Since it was stopped; nothing for one that was not.
    pub(crate) stopped: Duration,
    /// Operations running now; as long as there is one, it is not idle.
    pub(crate) operations: usize,
}

/// What a lease does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Pause,
    Stop,
    Archive,
    End(EndReason),
}

/// What a lease says at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// It is time for this.
    Due(Due),
    /// It holds at least so much longer; ask again then.
    Holds(Duration),
    /// Nothing will happen by itself.
    Endless,
}

/// One clause: what is due after `max` of what has lasted `now`.
struct Clause {
    due: Due,
    max: Option<Duration>,
    now: Duration,
    /// Whether it waits for the end of the running operations.
    waits: bool,
}

/// What `lease` says about a sandbox of these ages. Of several things that are
/// due the one that goes furthest counts.
pub(crate) fn outlook(lease: &Lease, phase: Phase, ages: Ages) -> Outlook {
    let clause = |due, max, now, waits| Clause {
        due,
        max,
        now,
        waits,
    };
    let over = EndReason::LifetimeOver;
    let mut clauses = vec![clause(Due::End(over), lease.lifetime_max, ages.age, false)];
    // The end of an operation will count as activity, so nothing is due before that.
    let mut idle = |due, max| clauses.push(clause(due, max, ages.idle, ages.operations > 0));
    match phase {
        Phase::Running => {
            idle(Due::End(EndReason::Idle), lease.idle_timeout);
            idle(Due::Stop, lease.stop_after_idle);
            idle(Due::Pause, lease.pause_after_idle);
        }
        Phase::Paused => {
            idle(Due::End(EndReason::Idle), lease.idle_timeout);
            idle(Due::Stop, lease.stop_after_idle);
        }
        Phase::Stopped | Phase::Archived => {
            let mut stopped = |due, max| clauses.push(clause(due, max, ages.stopped, false));
            stopped(Due::End(EndReason::Stopped), lease.delete_after_stop);
            if phase == Phase::Stopped {
                stopped(Due::Archive, lease.archive_after_stop);
            }
        }
    }
    let mut soonest: Option<Duration> = None;
    for Clause {
        due,
        max,
        now,
        waits,
    } in clauses
    {
        let Some(max) = max else { continue };
        let left = if waits { max } else { max.saturating_sub(now) };
        if left.is_zero() && !waits {
            return Outlook::Due(due);
        }
        soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
    }
    soonest.map_or(Outlook::Endless, Outlook::Holds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn durations() -> impl Strategy<Value = Duration> {
        (0u64..10_000).prop_map(Duration::from_millis)
    }

    /// A limit of nothing is refused when a sandbox is asked for, but for the last.
    fn limits() -> impl Strategy<Value = Option<Duration>> {
        prop::option::of((1u64..10_000).prop_map(Duration::from_millis))
    }

    fn leases() -> impl Strategy<Value = Lease> {
        (
            limits(),
            limits(),
            limits(),
            limits(),
            limits(),
            prop::option::of(durations()),
        )
            .prop_map(
                |(idle_timeout, lifetime_max, stop, pause, archive, delete_after_stop)| Lease {
                    idle_timeout,
                    lifetime_max,
                    stop_after_idle: stop,
                    pause_after_idle: pause,
                    archive_after_stop: archive,
                    delete_after_stop,
                },
            )
    }

    fn phases() -> impl Strategy<Value = Phase> {
        prop_oneof![
            Just(Phase::Running),
            Just(Phase::Paused),
            Just(Phase::Stopped),
            Just(Phase::Archived),
        ]
    }

    proptest! {
        #[test]
        fn waiting_as_long_as_it_holds_decides(
            lease in leases(),
            phase in phases(),
            (age, idle, stopped) in (durations(), durations(), durations()),
            operations in 0usize..3,
        ) {
            let ages = Ages { age, idle, stopped, operations };
            match outlook(&lease, phase, ages) {
                Outlook::Holds(left) => {
                    prop_assert!(left > Duration::ZERO, "a timer of nothing would spin");
                    let later = Ages {
                        age: age + left,
                        idle: idle + left,
                        stopped: stopped + left,
                        operations,
                    };
                    let due = matches!(outlook(&lease, phase, later), Outlook::Due(_));
                    prop_assert!(due || operations > 0);
                }
                Outlook::Endless => prop_assert!(lease.lifetime_max.is_none()),
                Outlook::Due(Due::End(EndReason::Idle)) => {
                    prop_assert!(operations == 0 && Some(idle) >= lease.idle_timeout);
                }
                Outlook::Due(Due::Stop) => {
                    prop_assert!(operations == 0 && Some(idle) >= lease.stop_after_idle);
                }
                Outlook::Due(Due::Pause) => {
                    prop_assert!(operations == 0 && Some(idle) >= lease.pause_after_idle);
                    prop_assert_eq!(phase, Phase::Running);
                }
                Outlook::Due(Due::Archive) => {
                    prop_assert!(Some(stopped) >= lease.archive_after_stop);
                    prop_assert_eq!(phase, Phase::Stopped);
                }
                Outlook::Due(Due::End(EndReason::Stopped)) => {
                    prop_assert!(Some(stopped) >= lease.delete_after_stop);
                    prop_assert!(matches!(phase, Phase::Stopped | Phase::Archived));
                }
                Outlook::Due(Due::End(EndReason::LifetimeOver)) => {
                    prop_assert!(Some(age) >= lease.lifetime_max);
                }
                Outlook::Due(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }

    fn ages(age: u64, idle: u64, stopped: u64, operations: usize) -> Ages {
        Ages {
            age: Duration::from_secs(age),
            idle: Duration::from_secs(idle),
            stopped: Duration::from_secs(stopped),
            operations,
        }
    }

    #[test]
    fn a_running_operation_is_not_idle_but_does_grow_old() {
        let lease = Lease {
            idle_timeout: Some(Duration::from_secs(1)),
            lifetime_max: Some(Duration::from_secs(100)),
            ..Lease::default()
        };
        assert_eq!(
            outlook(&lease, Phase::Running, ages(50, 50, 0, 1)),
            Outlook::Holds(Duration::from_secs(1))
        );
        assert_eq!(
            outlook(&lease, Phase::Running, ages(100, 50, 0, 1)),
            Outlook::Due(Due::End(EndReason::LifetimeOver))
        );
    }

    #[test]
    fn what_is_idle_is_paused_then_stopped_then_archived_then_ended() {
        let lease = Lease {
            pause_after_idle: Some(Duration::from_secs(10)),
            stop_after_idle: Some(Duration::from_secs(20)),
            archive_after_stop: Some(Duration::from_secs(30)),
            delete_after_stop: Some(Duration::from_secs(40)),
            ..Lease::default()
        };
        let due = |phase, idle, stopped| outlook(&lease, phase, ages(90, idle, stopped, 0));
        assert_eq!(due(Phase::Running, 10, 0), Outlook::Due(Due::Pause));
        assert_eq!(due(Phase::Running, 20, 0), Outlook::Due(Due::Stop));
        assert_eq!(
            due(Phase::Paused, 15, 0),
            Outlook::Holds(Duration::from_secs(5))
        );
        assert_eq!(due(Phase::Paused, 20, 0), Outlook::Due(Due::Stop));
        assert_eq!(due(Phase::Stopped, 99, 30), Outlook::Due(Due::Archive));
        let end = Outlook::Due(Due::End(EndReason::Stopped));
        assert_eq!(due(Phase::Stopped, 99, 40), end);
        assert_eq!(
            due(Phase::Archived, 99, 35),
            Outlook::Holds(Duration::from_secs(5))
        );
        assert_eq!(due(Phase::Archived, 99, 40), end);
    }
}
