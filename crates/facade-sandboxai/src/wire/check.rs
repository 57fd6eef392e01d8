//! Checks of single values; each says which field is wrong and what to write instead.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::error::ApiError;

/// Longest path, as in the kernel (`PATH_MAX`), bytes.
const PATH_BYTES_MAX: usize = 4096;
/// Most environment variables of one request.
const ENV_VARIABLES_MAX: usize = 4096;
/// Longest program argument, as in the kernel (`MAX_ARG_STRLEN`), bytes.
const ARGUMENT_BYTES_MAX: usize = 128 << 10;
/// Longest time that means anything here: ten years.
pub(super) const SECONDS_MAX: f64 = 10.0 * 365.0 * 24.0 * 3600.0;

/// A time in seconds, above zero and at most `max`.
pub(super) fn seconds(field: &str, value: f64, max: Duration) -> Result<Duration, ApiError> {
    let in_range = value.is_finite() && value > 0.0 && value <= max.as_secs_f64();
    if !in_range {
        return Err(ApiError::field(
            field,
            format_args!(
                "{value} is out of range; use seconds above 0 and up to {}",
                max.as_secs_f64()
            ),
        ));
    }
    // Rounded up to a millisecond, since zero would mean "at once" further in.
    Ok(Duration::from_secs_f64(value).max(Duration::from_millis(1)))
}

/// Whole milliseconds of a duration that [`seconds`] has checked.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A path: not empty, without NUL, not too long. Everything else is up to the sandbox.
pub(super) fn path(field: &str, path: String) -> Result<String, ApiError> {
    if path.is_empty() {
        return Err(ApiError::field(field, "is empty; give a path"));
    }
    if path.contains('\0') {
        return Err(ApiError::field(field, "contains a NUL character"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(ApiError::field(
            field,
            format_args!(
                "is {} bytes long; at most {PATH_BYTES_MAX} are possible",
                path.len()
            ),
        ));
    }
    Ok(path)
}

/// Environment variables: names without `=`, nothing with NUL.
pub(super) fn environment(
    field: &str,
    env: Option<BTreeMap<String, String>>,
) -> Result<BTreeMap<String, String>, ApiError> {
    let env = env.unwrap_or_default();
    if env.len() > ENV_VARIABLES_MAX {
        return Err(ApiError::field(
            field,
            format_args!(
                "has {} variables; at most {ENV_VARIABLES_MAX} are possible",
                env.len()
            ),
        ));
    }
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ApiError::field(
                field,
                format_args!("{name:?} is not a name of a variable; use one without '=' and NUL"),
            ));
        }
        if value.contains('\0') {
            return Err(ApiError::field(
                &format!("{field}.{name}"),
                "contains a NUL character",
            ));
        }
    }
    Ok(env)
}

/// A command from the two ways to write one.
pub(super) fn command(
    command: Option<String>,
    argv: Option<Vec<String>>,
) -> Result<control::Command, ApiError> {
    let argument = |field: &str, text: &str| {
        if text.contains('\0') {
            return Err(ApiError::field(field, "contains a NUL character"));
        }
        if text.len() > ARGUMENT_BYTES_MAX - 1 {
            return Err(ApiError::field(
                field,
                format_args!(
                    "is {} bytes long; the kernel takes less than {ARGUMENT_BYTES_MAX}: write it to a file and run that",
                    text.len()
                ),
            ));
        }
        Ok(())
    };
    match (command, argv) {
        (Some(command), None) => {
            argument("command", &command)?;
            Ok(control::Command::Shell(command))
        }
        (None, Some(argv)) => {
            if argv.first().is_none_or(String::is_empty) {
                return Err(ApiError::field(
                    "argv",
                    "has no program; its first element is what to run",
                ));
            }
            for (index, text) in argv.iter().enumerate() {
                argument(&format!("argv[{index}]"), text)?;
            }
            Ok(control::Command::Argv(argv))
        }
        (Some(_), Some(_)) => Err(ApiError::field(
            "argv",
            "is given besides `command`; give one of them",
        )),
        (None, None) => Err(ApiError::field(
            "command",
            "is missing; give a shell command, or `argv` for a program without a shell",
        )),
    }
}

/// Permission bits from octal text, e.g. `0644`.
pub(super) fn mode(field: &str, text: Option<&str>) -> Result<Option<u32>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let is_octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if is_octal && mode <= 0o7777 => Ok(Some(mode)),
        _ => {
            let shown: String = text.chars().take(20).collect();
            Err(ApiError::field(
                field,
                format_args!(
                    "{shown:?} is not a mode; write permission bits as octal text, e.g. \"0644\""
                ),
            ))
        }
    }
}

/// Content that is given as text or as base64.
pub(super) fn content(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, ApiError> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64_STANDARD
            .decode(base64)
            .map_err(|error| ApiError::field("base64", format_args!("is not base64: {error}"))),
        (Some(_), Some(_)) => Err(ApiError::field(
            "base64",
            "is given besides `text`; give one of them",
        )),
        (None, None) => Err(ApiError::field(
            "text",
            "is missing; give the content as `text`, or as `base64`",
        )),
    }
}

/// Bytes as base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modes_are_octal_text() {
        for (text, wanted) in [
            ("644", 0o644),
            ("0644", 0o644),
            ("0o755", 0o755),
            ("7777", 0o7777),
        ] {
            assert_eq!(mode("mode", Some(text)).unwrap(), Some(wanted), "{text}");
        }
        for bad in ["", "8", "-1", "+7", "0x1ff", "rw", "10000", "0o", " 7"] {
            assert!(mode("mode", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_is_written_in_exactly_one_way() {
        assert!(command(Some("a".into()), None).is_ok());
        assert!(command(None, Some(vec!["a".into(), String::new()])).is_ok());
        assert!(command(None, None).is_err());
        assert!(command(None, Some(vec![])).is_err());
        assert!(command(Some("a".into()), Some(vec!["a".into()])).is_err());
        assert!(command(Some("a\0b".into()), None).is_err());
        assert!(command(Some("x".repeat(ARGUMENT_BYTES_MAX)), None).is_err());
    }

    #[test]
    fn environment_cannot_smuggle_variables() {
        let with = |name: &str, value: &str| {
            environment("env", Some(BTreeMap::from([(name.into(), value.into())])))
        };
        assert!(with("A", "b=c").is_ok());
        assert!(with("A=B", "c").is_err());
        assert!(with("", "c").is_err());
        assert!(with("A", "b\0C=d").is_err());
        assert!(environment("env", None).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_number_of_seconds_is_checked(value in any::<f64>()) {
            let max = Duration::from_secs(100);
            if let Ok(duration) = seconds("timeout_s", value, max) {
                prop_assert!(duration <= max && duration >= Duration::from_millis(1));
            } else {
                prop_assert!(value.is_nan() || value <= 0.0 || value > 100.0);
            }
        }

        #[test]
        fn every_mode_survives_its_text(bits in 0u32..=0o7777) {
            prop_assert_eq!(mode("mode", Some(&format!("{bits:04o}"))).unwrap(), Some(bits));
        }
    }
}
