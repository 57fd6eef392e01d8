//! Where `control` gets the time of day from.
//!
//! Two kinds of time are kept apart. The time of day is for people and for the
//! store; it may jump. How long something lasts (leases, deadlines) is measured
//! with [`tokio::time::Instant`], which never jumps and which tests can pause.

use std::{
    fmt::Debug,
    time::{SystemTime, UNIX_EPOCH},
};

/// The time of day.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Milliseconds since the epoch.
    fn now_ms(&self) -> i64;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            })
    }
}
