//! Checks requests before anything is made of them.
//!
//! The server has checked them too, for better messages; this is the wall that
//! also holds when the server itself is taken over.

use std::{collections::BTreeMap, ops::RangeInclusive};

use sandbox::{Error, Id, Image, Limits, NetworkMode, Result};

use crate::wire::Create;

/// Less than this cannot even start a shell; more no host has.
const MEMORY_BYTES: RangeInclusive<u64> = (8 << 20)..=(1 << 50);
const CPU_MILLIS: RangeInclusive<u32> = 10..=4_096_000;
const PIDS: RangeInclusive<u32> = 4..=4_194_304;
/// Variables of one sandbox.
const VARIABLES_MAX: usize = 1024;
/// Names and values together, bytes; half of what a program can be started with.
const VARIABLES_BYTES_MAX: usize = 64 << 10;

/// A request to create, checked.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) id: Id,
    pub(super) image: Image,
    pub(super) env: BTreeMap<String, String>,
    pub(super) limits: Limits,
    pub(super) network: NetworkMode,
}

impl TryFrom<Create> for Wanted {
    type Error = Error;

    fn try_from(request: Create) -> Result<Self> {
        check_env(&request.env)?;
        Ok(Self {
            id: request.id.parse()?,
            image: request.image.parse()?,
            limits: limits(request.memory_bytes, request.cpu_millis, request.pids)?,
            network: request.network.parse()?,
            env: request.env,
        })
    }
}

/// The limits of a request to change them, checked.
pub(super) fn limits(memory_bytes: u64, cpu_millis: u32, pids: u32) -> Result<Limits> {
    Ok(Limits {
        memory_bytes: within("memory", memory_bytes, &MEMORY_BYTES, "bytes")?,
        cpu_millis: within("cpu", cpu_millis, &CPU_MILLIS, "thousandths")?,
        pids: within("pids", pids, &PIDS, "processes")?,
    })
}

fn within<T: PartialOrd + std::fmt::Display + Copy>(
    field: &str,
    value: T,
    range: &RangeInclusive<T>,
    unit: &str,
) -> Result<T> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Error::invalid(format!(
        "field `limits.{field}`: {value} is outside of {} to {} {unit}",
        range.start(),
        range.end()
    )))
}

fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = env
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if env.len() > VARIABLES_MAX || bytes > VARIABLES_BYTES_MAX {
        return Err(Error::invalid(format!(
            "field `env`: at most {VARIABLES_MAX} variables with {VARIABLES_BYTES_MAX} bytes together"
        )));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let shown: String = name.chars().take(40).collect();
            return Err(Error::invalid(format!(
                "field `env`: {shown:?} is not a variable; names are not empty and have no '=', nothing has a zero byte"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> Create {
        Create {
            id: "abcdefghijkmnpqrstuvwxyz23".into(),
            image: "sandboxai/box".into(),
            env: BTreeMap::from([("A".into(), "b=c".into())]),
            memory_bytes: 512 << 20,
            cpu_millis: 1000,
            pids: 64,
            network: "open".into(),
        }
    }

    #[test]
    fn an_ordinary_request_passes() {
        assert!(Wanted::try_from(request()).is_ok());
    }

    #[test]
    fn what_could_reach_outside_is_refused() {
        let spoiled: [fn(&mut Create); 8] = [
            |r| r.id = "../../etc".into(),
            |r| r.image = "../../etc".into(),
            |r| r.network = "host".into(),
            |r| r.memory_bytes = 0,
            |r| r.pids = 0,
            |r| r.cpu_millis = u32::MAX,
            |r| r.env = BTreeMap::from([("A\0B".into(), String::new())]),
            |r| r.env = BTreeMap::from([("A".into(), "x".repeat(VARIABLES_BYTES_MAX))]),
        ];
        for spoil in spoiled {
            let mut request = request();
            spoil(&mut request);
            let error = Wanted::try_from(request).unwrap_err();
            assert_eq!(error.kind, sandbox::Kind::InvalidRequest);
        }
    }

    proptest! {
        #[test]
        fn accepted_variables_are_what_a_program_can_be_given(name in "\\PC{0,8}|.{0,4}", value in ".{0,8}") {
            let env = BTreeMap::from([(name.clone(), value.clone())]);
            if check_env(&env).is_ok() {
                let line = format!("{name}={value}");
                prop_assert_eq!(line.split_once('='), Some((name.as_str(), value.as_str())));
                prop_assert!(std::ffi::CString::new(line).is_ok());
            }
        }
    }
}
