//! What one side did lately. No clock: every call says when it is.

use std::{collections::VecDeque, time::Duration};

use super::operation::{Operation, Outcome};

/// Pieces that the window moves by.
const BUCKETS: u32 = 30;
/// Most durations of creations that are kept; of more, the latest count.
const DURATIONS_MAX: usize = 1000;

/// One request that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) operation: Operation,
    pub(crate) outcome: Outcome,
    /// Until the answer began.
    pub(crate) duration: Duration,
}

/// Requests of a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// Of these, failed.
    pub(crate) failures: u64,
    /// Creations that made a sandbox.
    pub(crate) creations: u64,
    /// Creations that failed; not those that were refused.
    pub(crate) creation_failures: u64,
}

impl Counts {
    fn add(&mut self, measured: &Measured) {
        let failed = u64::from(measured.outcome == Outcome::Failure);
        self.requests += 1;
        self.failures += failed;
        if measured.operation == Operation::Create {
            self.creations += u64::from(measured.outcome == Outcome::Success);
            self.creation_failures += failed;
        }
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failures: self.failures + other.failures,
            creations: self.creations + other.creations,
            creation_failures: self.creation_failures + other.creation_failures,
        }
    }

    /// Failed requests per request; 0 when there were none.
    pub(crate) fn error_rate(&self) -> f64 {
        rate(self.failures, self.requests)
    }

    /// Creations that succeeded or failed.
    pub(crate) fn creations_tried(&self) -> u64 {
        self.creations + self.creation_failures
    }

    /// Failed creations per creation that was tried; 0 when there were none.
    pub(crate) fn creation_error_rate(&self) -> f64 {
        rate(self.creation_failures, self.creations_tried())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no window has so many requests that it shows"
)]
fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

/// The requests of the last while, in buckets that are forgotten one by one: it
/// reaches back the whole span, less what has not passed of the current bucket.
#[derive(Debug)]
pub(crate) struct Window {
    bucket_span: Duration,
    /// By number, ascending; numbers without a request are absent.
    buckets: VecDeque<(u128, Counts)>,
    /// When creations ended that made a sandbox, and how long they took.
    durations: VecDeque<(Duration, Duration)>,
}

impl Window {
    /// An empty one that reaches back by `span`.
    pub(crate) fn new(span: Duration) -> Self {
        Self {
            bucket_span: (span / BUCKETS).max(Duration::from_nanos(1)),
            buckets: VecDeque::new(),
            durations: VecDeque::new(),
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.buckets.clear();
        self.durations.clear();
    }

    /// Takes in a request that ended `now`.
    pub(crate) fn add(&mut self, now: Duration, measured: &Measured) {
        self.forget(now);
        let number = self.number(now);
        match self.buckets.back_mut() {
            Some((last, counts)) if *last == number => counts.add(measured),
            _ => {
                let mut counts = Counts::default();
                counts.add(measured);
                self.buckets.push_back((number, counts));
            }
        }
        if measured.operation == Operation::Create && measured.outcome == Outcome::Success {
            if self.durations.len() == DURATIONS_MAX {
                self.durations.pop_front();
            }
            self.durations.push_back((now, measured.duration));
        }
    }

    /// The requests that ended within the span before `now`.
    pub(crate) fn counts(&mut self, now: Duration) -> Counts {
        self.forget(now);
        let none = Counts::default();
        self.buckets
            .iter()
            .fold(none, |sum, (_, counts)| sum.plus(counts))
    }

    /// The duration that so many of a hundred creations did not exceed.
    pub(crate) fn creation_percentile(
        &mut self,
        now: Duration,
        percentile: usize,
    ) -> Option<Duration> {
        self.forget(now);
        let mut durations: Vec<Duration> = self.durations.iter().map(|(_, took)| *took).collect();
        let rank = (durations.len() * percentile).div_ceil(100).max(1);
        if rank > durations.len() {
            return None;
        }
        Some(*durations.select_nth_unstable(rank - 1).1)
    }

    fn number(&self, at: Duration) -> u128 {
        at.as_nanos() / self.bucket_span.as_nanos()
    }

    /// The clock is monotonic, so what is in front is the oldest.
    fn forget(&mut self, now: Duration) {
        let oldest = (self.number(now) + 1).saturating_sub(u128::from(BUCKETS));
        while self
            .buckets
            .front()
            .is_some_and(|(number, _)| *number < oldest)
        {
            self.buckets.pop_front();
        }
        while let Some((ended, _)) = self.durations.front()
            && self.number(*ended) < oldest
        {
            self.durations.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: Duration = Duration::from_secs(300);

    fn measured(operation: Operation, outcome: Outcome, ms: u64) -> Measured {
        Measured {
            operation,
            outcome,
            duration: Duration::from_millis(ms),
        }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn requests_are_counted_by_what_they_were() {
        let mut window = Window::new(SPAN);
        for (operation, outcome) in [
            (Operation::Create, Outcome::Success),
            (Operation::Create, Outcome::Refused),
            (Operation::Create, Outcome::Failure),
            (Operation::Toolbox, Outcome::Failure),
            (Operation::Other, Outcome::Success),
        ] {
            window.add(seconds(1), &measured(operation, outcome, 5));
        }
        let counts = window.counts(seconds(1));
        let expected = Counts {
            requests: 5,
            failures: 2,
            creations: 1,
            creation_failures: 1,
        };
        assert_eq!(counts, expected);
        assert!((counts.error_rate() - 0.4).abs() < 1e-12);
        assert!((counts.creation_error_rate() - 0.5).abs() < 1e-12);
        assert!(Counts::default().error_rate().abs() < 1e-12);
    }

    #[test]
    fn percentiles_are_durations_that_happened() {
        let mut window = Window::new(SPAN);
        assert_eq!(window.creation_percentile(seconds(0), 95), None);
        for ms in (1..=100).rev() {
            window.add(
                seconds(1),
                &measured(Operation::Create, Outcome::Success, ms),
            );
        }
        // Neither of these makes a sandbox.
        window.add(
            seconds(1),
            &measured(Operation::Create, Outcome::Failure, 9999),
        );
        window.add(
            seconds(1),
            &measured(Operation::Toolbox, Outcome::Success, 9999),
        );
        for (percentile, ms) in [(50, 50), (95, 95), (100, 100), (1, 1)] {
            let found = window.creation_percentile(seconds(1), percentile);
            assert_eq!(found, Some(Duration::from_millis(ms)));
        }
    }

    #[test]
    fn of_many_creations_the_latest_count() {
        let mut window = Window::new(SPAN);
        for ms in [9999, 1] {
            for _ in 0..DURATIONS_MAX {
                window.add(
                    seconds(1),
                    &measured(Operation::Create, Outcome::Success, ms),
                );
            }
        }
        assert_eq!(window.durations.len(), DURATIONS_MAX);
        assert_eq!(
            window.creation_percentile(seconds(1), 95),
            Some(Duration::from_millis(1))
        );
        assert_eq!(window.counts(seconds(1)).creations, 2000);
    }

    proptest! {
        #[test]
        fn it_holds_what_ended_within_the_span_and_forgets_the_rest(
            ages in prop::collection::vec(0u64..900, 0..80),
        ) {
            let now = seconds(2000);
            let mut ends: Vec<Duration> = ages.iter().map(|age| now - seconds(*age)).collect();
            ends.sort_unstable();
            let mut window = Window::new(SPAN);
            for end in &ends {
                window.add(*end, &measured(Operation::Create, Outcome::Success, 1));
            }
            let counts = window.counts(now);
            let within = |span: Duration| ends.iter().filter(|end| now - **end < span).count() as u64;
            let piece = SPAN / BUCKETS;
            prop_assert!(counts.requests <= within(SPAN));
            prop_assert!(counts.requests >= within(SPAN - piece));
            prop_assert_eq!(counts.creations, window.durations.len() as u64);
            prop_assert!(window.buckets.len() <= BUCKETS as usize);
            prop_assert_eq!(window.counts(now + SPAN), Counts::default());
            prop_assert_eq!(window.creation_percentile(now + SPAN, 50), None);
        }
    }
}
