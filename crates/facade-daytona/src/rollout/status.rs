//! A rollout as operators see it.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    core::{Core, Record},
    course::Change,
    limits::Limits,
    share::Share,
};
use crate::side::Side;

use std::time::Duration;

/// The share, and both sides side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// URL of the upstream's API.
    pub upstream: String,
    /// The share of new sandboxes that is made here, percent.
    pub share: Share,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
    /// How far back counts and durations reach, seconds.
    pub window_seconds: f64,
    /// What makes the share go back to 0 by itself.
    pub limits: LimitsStatus,
    /// What both sides did.
    pub sides: Sides,
    /// Changes of the share, the newest first.
    pub history: Vec<Change>,
}

/// What makes the share go back to 0 by itself.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LimitsStatus {
    /// Most failed requests per request.
    pub error_rate_max: f64,
    /// Requests without which their error rate does not count.
    pub requests_min: u64,
    /// Most that 95 of 100 creations may take, seconds.
    pub create_p95_max_seconds: f64,
    /// Creations without which they do not count.
    pub creations_min: u64,
}

/// Both sides.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sides {
    /// This server.
    pub sandboxai: SideStatus,
    /// The upstream.
    pub daytona: SideStatus,
}

/// What one side did in the window.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SideStatus {
    /// Sandboxes made since the start of the server.
    pub sandboxes_created_total: u64,
    /// Requests.
    pub requests: u64,
    /// Requests that failed for a reason that lies with the side.
    pub failures: u64,
    /// Failures per request.
    pub error_rate: f64,
    /// Creations that made a sandbox.
    pub creations: u64,
    /// Creations that failed.
    pub creation_failures: u64,
    /// What half of the creations took at most, seconds; absent without any.
    pub create_p50_seconds: Option<f64>,
    /// What 95 of 100 creations took at most, seconds; absent without any.
    pub create_p95_seconds: Option<f64>,
}

impl Status {
    pub(crate) fn of(
        upstream: &str,
        limits: &Limits,
        window: Duration,
        core: &mut Core,
        now: Duration,
    ) -> Self {
        let sides = Sides {
            sandboxai: SideStatus::of(core.record_mut(Side::SandboxAi), now),
            daytona: SideStatus::of(core.record_mut(Side::Daytona), now),
        };
        let current = core.course.current();
        Self {
            upstream: upstream.to_owned(),
            share: current.share,
            since: current.at,
            reason: current.reason.clone(),
            window_seconds: window.as_secs_f64(),
            limits: LimitsStatus {
                error_rate_max: limits.error_rate_max,
                requests_min: limits.requests_min,
                create_p95_max_seconds: limits.create_p95_max.as_secs_f64(),
                creations_min: limits.creations_min,
            },
            sides,
            history: core.course.changes().cloned().collect(),
        }
    }
}

impl SideStatus {
    fn of(record: &mut Record, now: Duration) -> Self {
        let counts = record.window.counts(now);
        let mut seconds = |percentile| {
            let duration = record.window.creation_percentile(now, percentile)?;
            Some(duration.as_secs_f64())
        };
        Self {
            create_p50_seconds: seconds(50),
            create_p95_seconds: seconds(95),
            sandboxes_created_total: record.created,
            requests: counts.requests,
            failures: counts.failures,
            error_rate: counts.error_rate(),
            creations: counts.creations,
            creation_failures: counts.creation_failures,
        }
    }
}
