//! What a sandbox uses of what it may use.

use std::time::Duration;

use axum::Json;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::{error::ApiResult, target::Target};

/// How long the use of CPU is watched; the kernel counts it in microseconds.
const WINDOW: Duration = Duration::from_millis(200);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metrics {
    timestamp: String,
    timestamp_unix: i64,
    /// Whole CPUs, at least one.
    cpu_count: u32,
    /// Of what it may use.
    cpu_used_pct: f64,
    mem_total: u64,
    mem_used: u64,
    disk_total: u64,
    disk_used: u64,
    disk_free: u64,
}

/// `GET /system/metrics`
pub(super) async fn metrics(target: Target) -> ApiResult<Json<Metrics>> {
    let usage = || target.control.usage(target.space(), target.name());
    let (started, before) = (Instant::now(), usage().await?);
    let disk = target.control.disk(target.space(), target.name()).await?;
    tokio::time::sleep_until(started + WINDOW).await;
    let after = usage().await?;
    let limits = target.sandbox.spec.limits;
    let now = Timestamp::now();
    Ok(Json(Metrics {
        timestamp: now.to_string(),
        timestamp_unix: now.as_second(),
        cpu_count: limits.cpu_millis.div_ceil(1000).max(1),
        cpu_used_pct: used_pct(
            after.cpu_us.saturating_sub(before.cpu_us),
            started.elapsed(),
            limits.cpu_millis,
        ),
        mem_total: limits.memory_bytes,
        mem_used: after.memory_bytes,
        disk_total: disk.total_bytes,
        disk_used: disk.used_bytes,
        disk_free: disk.total_bytes.saturating_sub(disk.used_bytes),
    }))
}

/// Percent of the CPU time that a sandbox may use in a time.
fn used_pct(cpu_us: u64, time: Duration, cpu_millis: u32) -> f64 {
    let used = Duration::from_micros(cpu_us).as_secs_f64();
    let possible = time.as_secs_f64() * f64::from(cpu_millis) / 1000.0;
    if possible <= 0.0 {
        return 0.0;
    }
    // Two digits; what is measured is no more exact.
    ((used / possible * 10_000.0).round() / 100.0).clamp(0.0, 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_are_of_what_may_be_used() {
        let second = Duration::from_secs(1);
        for (cpu_us, cpu_millis, pct) in [
            (0, 1000, 0.0),
            (500_000, 1000, 50.0),
            (500_000, 2000, 25.0),
            (123_456, 1000, 12.35),
            (9_000_000, 1000, 100.0),
            (1, 0, 0.0),
        ] {
            assert!((used_pct(cpu_us, second, cpu_millis) - pct).abs() < 1e-9);
        }
    }
}
