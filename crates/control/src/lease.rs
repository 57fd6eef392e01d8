//! When a sandbox ends by itself: pure arithmetic on durations.

use std::time::Duration;

use sandbox::{EndReason, Lease};

/// What is known about a sandbox at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ages {
    /// Since its creation.
    pub(crate) age: Duration,
    /// Since an operation last began or ended.
    pub(crate) idle: Duration,
    /// Operations running now; as long as there is one, it is not idle.
    pub(crate) operations: usize,
}

/// What a lease says at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// It is over.
    Over(EndReason),
    /// It holds at least so much longer; ask again then.
    Holds(Duration),
    /// It never ends.
    Endless,
}

/// What `lease` says about a sandbox of these ages.
pub(crate) fn outlook(lease: &Lease, ages: Ages) -> Outlook {
    let life_left = lease.lifetime_max.map(|max| max.saturating_sub(ages.age));
    if life_left == Some(Duration::ZERO) {
        return Outlook::Over(EndReason::LifetimeOver);
    }
    let idle_left = lease.idle_timeout.map(|max| match ages.operations {
        0 => max.saturating_sub(ages.idle),
        // The end of the operation will count as activity, so not before that.
        _ => max,
    });
    if idle_left == Some(Duration::ZERO) && ages.operations == 0 {
        return Outlook::Over(EndReason::Idle);
    }
    match life_left.into_iter().chain(idle_left).min() {
        Some(left) => Outlook::Holds(left),
        None => Outlook::Endless,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn durations() -> impl Strategy<Value = Duration> {
        (0u64..10_000).prop_map(Duration::from_millis)
    }

    /// A timeout of nothing is refused when a sandbox is asked for.
    fn limits() -> impl Strategy<Value = Option<Duration>> {
        prop::option::of((1u64..10_000).prop_map(Duration::from_millis))
    }

    proptest! {
        #[test]
        fn waiting_as_long_as_it_holds_decides(
            idle_timeout in limits(),
            lifetime_max in limits(),
            age in durations(),
            idle in durations(),
            operations in 0usize..3,
        ) {
            let lease = Lease { idle_timeout, lifetime_max, ..Lease::default() };
            let ages = Ages { age, idle, operations };
            match outlook(&lease, ages) {
                Outlook::Holds(left) => {
                    prop_assert!(left > Duration::ZERO, "a timer of nothing would spin");
                    let later = Ages { age: age + left, idle: idle + left, operations };
                    let over = matches!(outlook(&lease, later), Outlook::Over(_));
                    prop_assert!(over || operations > 0);
                }
                Outlook::Endless => prop_assert!(idle_timeout.is_none() && lifetime_max.is_none()),
                Outlook::Over(EndReason::Idle) => {
                    prop_assert!(operations == 0 && Some(idle) >= idle_timeout);
                }
                Outlook::Over(EndReason::LifetimeOver) => prop_assert!(Some(age) >= lifetime_max),
                Outlook::Over(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn a_running_operation_is_not_idle_but_does_grow_old() {
        let lease = Lease {
            idle_timeout: Some(Duration::from_secs(1)),
            lifetime_max: Some(Duration::from_secs(100)),
            ..Lease::default()
        };
        let ages = |age| Ages {
            age: Duration::from_secs(age),
            idle: Duration::from_secs(50),
            operations: 1,
        };
        assert_eq!(
            outlook(&lease, ages(50)),
            Outlook::Holds(Duration::from_secs(1))
        );
        assert_eq!(
            outlook(&lease, ages(100)),
            Outlook::Over(EndReason::LifetimeOver)
        );
    }
}
