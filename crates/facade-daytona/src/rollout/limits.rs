//! When this side is so bad that new sandboxes go back.

use std::{fmt, time::Duration};

use super::window::Window;

/// What this side may do in the window before the share goes back to 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most failed requests per request, of all and of creations alone.
    pub error_rate_max: f64,
    /// Requests without which their error rate does not count.
    pub requests_min: u64,
    /// Most that 95 of 100 creations may take.
    pub create_p95_max: Duration,
    /// Creations without which neither their error rate nor their durations count.
    pub creations_min: u64,
}

impl Default for Limits {
    /// One request in twenty, of at least 20; 10 s, of at least 10 creations.
    fn default() -> Self {
        Self {
            error_rate_max: 0.05,
            requests_min: 20,
            create_p95_max: Duration::from_secs(10),
            creations_min: 10,
        }
    }
}

/// A limit that was exceeded, and by what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Excess {
    /// Too many requests failed.
    Requests { failed: u64, of: u64, max: f64 },
    /// Too many creations failed.
    Creations { failed: u64, of: u64, max: f64 },
    /// Creations took too long.
    Slow { p95: Duration, max: Duration },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, of, max, what) = match self {
            Self::Requests { failed, of, max } => (failed, of, max, "requests"),
            Self::Creations { failed, of, max } => (failed, of, max, "creations"),
            Self::Slow { p95, max } => {
                return write!(
                    f,
                    "95 of 100 creations take up to {:.1} s, more than {:.1} s",
                    p95.as_secs_f64(),
                    max.as_secs_f64()
                );
            }
        };
        write!(
            f,
            "{failed} of {of} {what} failed, more than {:.1} %",
            max * 100.0
        )
    }
}

impl Limits {
    /// The first limit of failures that the window exceeds.
    pub(crate) fn failing(&self, window: &mut Window, now: Duration) -> Option<Excess> {
        let counts = window.counts(now);
        let max = self.error_rate_max;
        let tried = counts.creations_tried();
        if tried >= self.creations_min && counts.creation_error_rate() > max {
            return Some(Excess::Creations {
                failed: counts.creation_failures,
                of: tried,
                max,
            });
        }
        if counts.requests >= self.requests_min && counts.error_rate() > max {
            return Some(Excess::Requests {
                failed: counts.failures,
                of: counts.requests,
                max,
            });
        }
        None
    }

    /// The limit of durations, if the window exceeds it. Looks at every creation,
    /// so it is asked after creations only.
    pub(crate) fn slow(&self, window: &mut Window, now: Duration) -> Option<Excess> {
        if window.counts(now).creations < self.creations_min {
            return None;
        }
        let p95 = window.creation_percentile(now, 95)?;
        let max = self.create_p95_max;
        (p95 > max).then_some(Excess::Slow { p95, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{
        operation::{Operation, Outcome},
        window::Measured,
    };
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(7);

    fn window(requests: &[(Operation, Outcome, u64)]) -> Window {
        let mut window = Window::new(Duration::from_secs(300));
        for (operation, outcome, ms) in requests {
            let measured = Measured {
                operation: *operation,
                outcome: *outcome,
                duration: Duration::from_millis(*ms),
            };
            window.add(NOW, &measured);
        }
        window
    }

    fn exceeded(limits: &Limits, window: &mut Window) -> Option<Excess> {
        limits
            .failing(window, NOW)
            .or_else(|| limits.slow(window, NOW))
    }

    fn request() -> impl Strategy<Value = (Operation, Outcome, u64)> {
        (
            prop::sample::select(&Operation::ALL[..]),
            prop::sample::select(&Outcome::ALL[..]),
            0u64..20_000,
        )
    }

    #[test]
    fn what_was_exceeded_is_told() {
        let limits = Limits::default();
        let fine = (Operation::Toolbox, Outcome::Success, 1);
        let bad = (Operation::Toolbox, Outcome::Failure, 1);
        let told = |requests: &[_]| {
            let excess = exceeded(&limits, &mut window(requests));
            excess.map(|excess| excess.to_string())
        };
        // Exactly one in twenty is what may be.
        assert_eq!(told(&[vec![fine; 19], vec![bad]].concat()), None);
        assert_eq!(
            told(&[vec![fine; 18], vec![bad; 2]].concat()).unwrap(),
            "2 of 20 requests failed, more than 5.0 %"
        );
        let slow = (Operation::Create, Outcome::Success, 12_340);
        assert_eq!(told(&[slow; 9]), None);
        assert_eq!(
            told(&[slow; 10]).unwrap(),
            "95 of 100 creations take up to 12.3 s, more than 10.0 s"
        );
    }

    #[test]
    fn many_other_requests_do_not_hide_that_nothing_can_be_made() {
        let fine = vec![(Operation::Toolbox, Outcome::Success, 1); 10_000];
        let bad = vec![(Operation::Create, Outcome::Failure, 1); 10];
        let excess = exceeded(&Limits::default(), &mut window(&[fine, bad].concat()));
        assert_eq!(
            excess.unwrap().to_string(),
            "10 of 10 creations failed, more than 5.0 %"
        );
    }

    proptest! {
        #[test]
        fn a_limit_counts_exactly_when_it_is_crossed_by_enough(
            requests in prop::collection::vec(request(), 0..120),
            error_rate_max in 0.0..1.0f64,
            requests_min in 1u64..40,
            creations_min in 1u64..20,
            p95_ms in 1u64..20_000,
        ) {
            let limits = Limits {
                error_rate_max,
                requests_min,
                create_p95_max: Duration::from_millis(p95_ms),
                creations_min,
            };
            // The same in other words.
            let all = requests.len() as f64;
            let failed = requests.iter().filter(|r| r.1 == Outcome::Failure).count() as f64;
            let creations: Vec<_> = requests.iter().filter(|r| r.0 == Operation::Create).collect();
            let made = creations.iter().filter(|r| r.1 == Outcome::Success).count();
            let not_made = creations.iter().filter(|r| r.1 == Outcome::Failure).count() as f64;
            let slow = creations.iter().filter(|r| r.1 == Outcome::Success && r.2 > p95_ms).count();
            let by_requests = all >= requests_min as f64 && failed > error_rate_max * all;
            let tried = made as f64 + not_made;
            let by_creations = tried >= creations_min as f64 && not_made > error_rate_max * tried;
            // More than 5 of 100 are slower than the limit.
            let by_time = made as u64 >= creations_min && slow > made - (made * 95).div_ceil(100);
            let excess = exceeded(&limits, &mut window(&requests));
            prop_assert_eq!(excess.is_some(), by_requests || by_creations || by_time, "{:?}", excess);
        }
    }
}
