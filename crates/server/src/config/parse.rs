//! Values with units, from text.

use std::time::Duration;

/// Units of durations, in milliseconds.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Units of sizes, in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// The leading digits of `text` and the rest.
fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The leading letters of `text` and the rest.
fn letters(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A duration such as `90s`, `15m` or `1h30m`; more than zero.
///
/// # Errors
/// With what is wrong.
pub fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = digits(rest);
        let (unit, after) = letters(after);
        let number: u64 = number
            .parse()
            .map_err(|_| format!("{text:?} is not a duration"))?;
        if unit.is_empty() {
            return Err(format!("{text:?} has no unit; write e.g. \"{text}s\""));
        }
        let factor = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("{unit:?} is not a unit of time; use ms, s, m, h or d"))?
            .1;
        total_ms = number
            .checked_mul(factor)
            .and_then(|part| total_ms.checked_add(part))
            .ok_or_else(|| format!("{text:?} is too long"))?;
        rest = after.trim_start();
    }
    if total_ms == 0 {
        return Err("it must be more than zero".to_owned());
    }
    Ok(Duration::from_millis(total_ms))
}

/// A duration, or `None` for `never`.
///
/// # Errors
/// With what is wrong.
pub fn duration_or_never(text: &str) -> Result<Option<Duration>, String> {
    match text.trim() {
        "never" => Ok(None),
        other => duration(other).map(Some),
    }
}

/// A size such as `512MiB`, in bytes; more than zero.
///
/// # Errors
/// With what is wrong.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = digits(text.trim());
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a size"))?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(format!("{text:?} has no unit; write e.g. \"{text}MiB\""));
    }
    let factor = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or_else(|| format!("{unit:?} is not a unit of size; use KiB, MiB, GiB, KB, MB or GB"))?
        .1;
    match number.checked_mul(factor) {
        Some(0) => Err("it must be more than zero".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err(format!("{text:?} is too large")),
    }
}

/// CPUs as `2`, `0.5` or `500m`, in thousandths; more than zero.
///
/// # Errors
/// With what is wrong.
pub fn cpu_millis(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is not a number of CPUs");
    let millis = if let Some(millis) = text.strip_suffix('m') {
        millis.parse().map_err(|_| wrong())?
    } else {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if fraction.is_empty() || fraction.len() > 3 || !digits(fraction).1.is_empty() {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let fraction: u32 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
        whole
            .checked_mul(1000)
            .and_then(|millis| millis.checked_add(fraction))
            .ok_or_else(wrong)?
    };
    if millis == 0 {
        return Err("it must be more than zero".to_owned());
    }
    Ok(millis)
}

/// A size for people, e.g. `2 GiB` or `512.0 MiB`.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let units = [
        ("TiB", 1u64 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    for (name, factor) in units {
        if bytes >= factor {
            let tenths = u128::from(bytes) * 10 / u128::from(factor);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "15", "m", "15x", "-1s", "0s", "99999999999999d", "1.5h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(duration_or_never("never"), Ok(None));
    }

    #[test]
    fn sizes_need_units() {
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("500 MB"), Ok(500_000_000));
        for wrong in ["", "2", "GiB", "2XB", "0MiB", "99999999999TiB", "-2GiB"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn cpus_are_counted_in_thousandths() {
        assert_eq!(cpu_millis("2"), Ok(2000));
        assert_eq!(cpu_millis("0.5"), Ok(500));
        assert_eq!(cpu_millis("1.25"), Ok(1250));
        assert_eq!(cpu_millis("750m"), Ok(750));
        for wrong in ["", "0", "x", "1.", "1.2345", "-1", "0.+5", "9999999999"] {
            assert!(cpu_millis(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_shown_with_one_decimal() {
        assert_eq!(size_text(512), "512 B");
        assert_eq!(size_text(1536), "1.5 KiB");
        assert_eq!(size_text(2 << 30), "2.0 GiB");
    }

    proptest! {
        #[test]
        fn no_text_is_fatal(text in ".{0,24}") {
            let _ = (duration(&text), size(&text), cpu_millis(&text));
        }

        #[test]
        fn thousandths_survive(millis in 1u32..100_000) {
            let text = format!("{}.{:03}", millis / 1000, millis % 1000);
            prop_assert_eq!(cpu_millis(&text), Ok(millis));
        }
    }
}
