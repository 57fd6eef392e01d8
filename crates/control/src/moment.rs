//! Times as people read them.

/// Milliseconds since the epoch as `2026-01-31T12:00:00Z`, to the second.
pub(crate) fn moment(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{seconds} s since the epoch"),
    }
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn times_are_told_to_the_second_in_utc() {
        assert_eq!(moment(1_769_860_800_999), "2026-01-31T12:00:00Z");
        assert_eq!(moment(-1), "1969-12-31T23:59:59Z");
        assert!(moment(i64::MAX).contains("since the epoch"));
    }
}
