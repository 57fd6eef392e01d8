//! When a sandbox stops, pauses, is archived or ends by itself: Daytona's
//! minutes and our lease.

use std::time::Duration;

use sandbox::Lease;

use crate::error::{ApiError, ApiResult};

/// Minutes without activity before a sandbox stops, where the caller says nothing.
pub(crate) const STOP_DEFAULT: i64 = 15;
/// Minutes from stop to archiving, where the caller says nothing: 7 days.
pub(crate) const ARCHIVE_DEFAULT: i64 = 7 * 24 * 60;
/// The longest time from stop to archiving in minutes: 30 days. `0` means this.
pub(crate) const ARCHIVE_MAX: i64 = 30 * 24 * 60;
/// The longest of the other intervals in minutes: 10 years.
const MINUTES_MAX: i64 = 10 * 366 * 24 * 60;

/// Intervals as Daytona tells them, in minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Intervals {
    /// 0: never.
    pub(crate) stop: i64,
    /// 0: never.
    pub(crate) pause: i64,
    pub(crate) archive: i64,
    /// Negative: never. 0: when it stops.
    pub(crate) delete: i64,
}

impl Intervals {
    /// Those of a lease.
    pub(crate) fn of(lease: &Lease) -> Self {
        let or = |duration: Option<Duration>, absent| duration.map_or(absent, to_minutes);
        Self {
            stop: or(lease.stop_after_idle, 0),
            pause: or(lease.pause_after_idle, 0),
            archive: or(lease.archive_after_stop, ARCHIVE_MAX),
            delete: or(lease.delete_after_stop, -1),
        }
    }
}

/// Whole minutes, rounded up: a lease that lasts is never told as "never".
fn to_minutes(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs().div_ceil(60)).unwrap_or(i64::MAX)
}

/// How long without activity before something happens; 0 means never.
pub(crate) fn idle(field: &str, minutes: i64) -> ApiResult<Option<Duration>> {
    let duration = checked(field, minutes)?;
    Ok((!duration.is_zero()).then_some(duration))
}

/// How long after a stop the files are packed; 0 means as late as possible.
pub(crate) fn archive(minutes: i64) -> ApiResult<Option<Duration>> {
    let duration = checked("autoArchiveInterval", minutes)?;
    let longest = checked("autoArchiveInterval", ARCHIVE_MAX)?;
    Ok(Some(match duration.is_zero() {
        true => longest,
        false => duration.min(longest),
    }))
}

/// How long after a stop a sandbox ends; negative means never, 0 at once.
pub(crate) fn delete(minutes: i64) -> ApiResult<Option<Duration>> {
    match minutes < 0 {
        true => Ok(None),
        false => checked("autoDeleteInterval", minutes).map(Some),
    }
}

/// Stopping and pausing by themselves exclude each other, and what ends when it
/// stops cannot be paused.
pub(crate) fn check_together(lease: &Lease) -> ApiResult<()> {
    if lease.pause_after_idle.is_none() {
        return Ok(());
    }
    if lease.stop_after_idle.is_some() {
        return Err(ApiError::bad_request(
            "fields `autoStopInterval` and `autoPauseInterval` exclude each other; set one of them to 0",
        ));
    }
    if lease.delete_after_stop == Some(Duration::ZERO) {
        return Err(ApiError::bad_request(
            "an ephemeral sandbox cannot be paused by itself; set `autoPauseInterval` to 0",
        ));
    }
    Ok(())
}

fn checked(field: &str, minutes: i64) -> ApiResult<Duration> {
    match u64::try_from(minutes) {
        Ok(positive) if minutes <= MINUTES_MAX => Ok(Duration::from_secs(positive * 60)),
        _ => Err(ApiError::bad_request(format!(
            "field `{field}`: {minutes} is not a number of minutes from 0 to {MINUTES_MAX}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn zero_and_minus_one_have_their_meanings() {
        assert_eq!(idle("autoStopInterval", 0).unwrap(), None);
        assert_eq!(idle("autoStopInterval", 2).unwrap(), Some(2 * MINUTE));
        assert!(idle("autoStopInterval", -1).is_err());
        assert_eq!(archive(0).unwrap(), Some(43_200 * MINUTE));
        assert_eq!(archive(99_999).unwrap(), Some(43_200 * MINUTE));
        assert_eq!(delete(-1).unwrap(), None);
        assert_eq!(delete(0).unwrap(), Some(Duration::ZERO));
        assert!(delete(i64::MAX).is_err());
    }

    #[test]
    fn a_lease_is_told_as_it_was_asked_for() {
        let lease = Lease {
            stop_after_idle: idle("", 15).unwrap(),
            archive_after_stop: archive(30).unwrap(),
            delete_after_stop: delete(0).unwrap(),
            ..Lease::default()
        };
        let told = Intervals::of(&lease);
        assert_eq!(
            (told.stop, told.pause, told.archive, told.delete),
            (15, 0, 30, 0)
        );
        assert_eq!(Intervals::of(&Lease::default()).delete, -1);
    }

    #[test]
    fn pausing_excludes_stopping() {
        let mut lease = Lease {
            pause_after_idle: Some(MINUTE),
            ..Lease::default()
        };
        assert!(check_together(&lease).is_ok());
        lease.stop_after_idle = Some(MINUTE);
        assert!(check_together(&lease).is_err());
    }
}
