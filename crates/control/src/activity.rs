//! When something last happened in each sandbox: cheap enough to be told on every
//! operation, and recorded now and then, so that leases go on over a restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sandbox::Id;
use tokio::time::Instant;

use crate::{core::Core, store::Change};

/// How often activity is recorded: so much a restart may forget.
pub(crate) const RECORD_EVERY: Duration = Duration::from_secs(15);

/// The activity of one sandbox.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Its age when `began` was taken: more than nothing after an adoption.
    age_at_begin: Duration,
    /// How long it had been idle by then.
    idle_at_begin: Duration,
    /// Microseconds from `began` to the last touch; 0 when there was none yet.
    touched_us: AtomicU64,
    operations: AtomicUsize,
    /// The last activity that was recorded, milliseconds since the epoch.
    recorded_ms: AtomicI64,
}

impl Activity {
    /// The activity of a sandbox that was made `age` ago and is idle since `idle`.
    pub(crate) fn new(age: Duration, idle: Duration) -> Self {
        Self {
            began: Instant::now(),
            age_at_begin: age,
            idle_at_begin: idle,
            touched_us: AtomicU64::new(0),
            operations: AtomicUsize::new(0),
            recorded_ms: AtomicI64::new(0),
        }
    }

    /// Something happened.
    pub(crate) fn touch(&self) {
        let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.touched_us.fetch_max(now_us.max(1), Ordering::Relaxed);
    }

    /// An operation begins.
    pub(crate) fn begin(&self) {
        self.touch();
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// An operation ends.
    pub(crate) fn end(&self) {
        self.touch();
        self.operations.fetch_sub(1, Ordering::Relaxed);
    }

    /// Operations running now.
    pub(crate) fn operations(&self) -> usize {
        self.operations.load(Ordering::Relaxed)
    }

    /// Since its creation.
    pub(crate) fn age(&self) -> Duration {
        self.age_at_begin + self.began.elapsed()
    }

    /// Since something last happened; nothing while an operation runs.
    pub(crate) fn idle(&self) -> Duration {
        let since = self.began.elapsed();
        match (self.operations(), self.touched_us.load(Ordering::Relaxed)) {
            (0, 0) => self.idle_at_begin + since,
            (0, touched_us) => since.saturating_sub(Duration::from_micros(touched_us)),
            _ => Duration::ZERO,
        }
    }

    /// Whether `active_ms` is news to the store; it counts as recorded from here on.
    fn is_news(&self, active_ms: i64) -> bool {
        // A millisecond of rounding is no activity.
        self.recorded_ms.fetch_max(active_ms, Ordering::Relaxed) + 1 < active_ms
    }
}

/// Records the activity of all sandboxes that had some.
pub(crate) async fn record(core: &Core) {
    let residents = core.registry.living(None).into_iter();
    let news: Vec<(Id, i64)> = residents
        .filter_map(|resident| {
            let active_ms = resident.active_ms(&*core.clock);
            let is_news = resident.activity.is_news(active_ms);
            is_news.then(|| (resident.id.clone(), active_ms))
        })
        .collect();
    if !news.is_empty() {
        core.store.submit(Change::Active(news)).await;
    }
}

/// Records activity until the server ends.
pub(crate) async fn keep_recording(core: Arc<Core>) {
    let mut closing = core.closing.subscribe();
    let recording = async {
        loop {
            tokio::time::sleep(RECORD_EVERY).await;
            record(&core).await;
        }
    };
    tokio::select! {
        () = recording => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idleness_goes_on_from_before_until_something_happens() {
        let second = Duration::from_secs(1);
        let activity = Activity::new(90 * second, 60 * second);
        tokio::time::sleep(second).await;
        assert_eq!(activity.age(), 91 * second);
        assert_eq!(activity.idle(), 61 * second);
        activity.begin();
        tokio::time::sleep(second).await;
        assert_eq!(activity.idle(), Duration::ZERO);
        activity.end();
        tokio::time::sleep(second).await;
        assert_eq!(activity.idle(), second);
    }
}
