//! The system calls that programs in a sandbox may make.
//!
//! The list is data, `seccomp/default.toml`, with a reason for each group. What is
//! not listed fails with `EPERM`; what C libraries shall believe to be absent, and what
//! is newer than the list, with `ENOSYS`, so that they fall back to what is allowed.

mod compile;

use std::{collections::BTreeMap, io, str::FromStr as _};

use serde::Deserialize;
use sys::seccomp::{INSTRUCTIONS_MAX, Instruction};
use syscalls::Sysno;

use crate::error::{At as _, Error, Step};
use compile::Decision;

/// How the kernel names this machine to filters; calls by any other
/// architecture's numbers kill the process.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// The list, as part of the program.
const DEFAULT: &str = include_str!("../../seccomp/default.toml");
/// Arguments of a system call.
const ARGUMENTS: u8 = 6;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    group: Vec<Group>,
    rule: Vec<Rule>,
    absent: Vec<Absent>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[expect(dead_code, reason = "for readers of the file")]
    name: String,
    #[expect(
        dead_code,
        reason = "for readers of the file; required so that none is forgotten"
    )]
    reason: String,
    calls: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    call: String,
    #[expect(
        dead_code,
        reason = "for readers of the file; required so that none is forgotten"
    )]
    reason: String,
    when: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    argument: u8,
    bits: u8,
    mask: Option<u64>,
    equals: Option<u64>,
    differs: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Absent {
    call: String,
    #[expect(
        dead_code,
        reason = "for readers of the file; required so that none is forgotten"
    )]
    reason: String,
}

/// The compiled filter.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Vec<Instruction>);

impl Filter {
    /// Compiles the list for this machine.
    pub(crate) fn compile() -> Result<Self, Error> {
        decisions(DEFAULT)
            .map(|decisions| compile::compile(&decisions, ARCHITECTURE))
            .and_then(|program| match program.len() {
                ..=INSTRUCTIONS_MAX => Ok(Self(program)),
                _ => Err(io::ErrorKind::FileTooLarge.into()),
            })
            .at(Step::CompileFilter, "seccomp/default.toml")
    }

    /// Installs the filter in the calling thread, for good. Sets `no_new_privs`.
    pub(crate) fn install(&self) -> io::Result<()> {
        sys::seccomp::install(&self.0)
    }
}

/// Reads the list.
fn decisions(text: &str) -> io::Result<BTreeMap<u32, Decision>> {
    let profile: Profile = toml::from_str(text).map_err(io::Error::other)?;
    let mut decisions = BTreeMap::new();
    for number in profile.group.iter().flat_map(Group::numbers) {
        decisions.insert(number, Decision::Allow);
    }
    for rule in &profile.rule {
        let Some(number) = number(&rule.call) else {
            continue;
        };
        let conditions = rule
            .when
            .iter()
            .map(Condition::read)
            .collect::<io::Result<Vec<_>>>()?;
        if conditions.is_empty() {
            return Err(io::Error::other(format!(
                "{}: a rule without conditions",
                rule.call
            )));
        }
        match decisions
            .entry(number)
            .or_insert(Decision::AllowIf(Vec::new()))
        {
            Decision::AllowIf(rules) => rules.push(conditions),
            _ => return Err(io::Error::other(format!("{}: listed twice", rule.call))),
        }
    }
    for number in profile
        .absent
        .iter()
        .filter_map(|absent| number(&absent.call))
    {
        decisions.insert(number, Decision::Fail(compile::errno(libc::ENOSYS)));
    }
    Ok(decisions)
}

impl Group {
    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.calls.iter().filter_map(|name| number(name))
    }
}

impl Condition {
    fn read(&self) -> io::Result<compile::Condition> {
        let width = match self.bits {
            32 => u64::from(u32::MAX),
            64 => u64::MAX,
            _ => return Err(io::Error::other("`bits` must be 32 or 64")),
        };
        let (value, equal) = match (self.equals, self.differs) {
            (Some(value), None) => (value, true),
            (None, Some(value)) => (value, false),
            _ => return Err(io::Error::other("use one of `equals` and `differs`")),
        };
        let mask = self.mask.unwrap_or(width) & width;
        if self.argument >= ARGUMENTS || value & !mask != 0 {
            return Err(io::Error::other("the condition can never hold"));
        }
        Ok(compile::Condition {
            argument: self.argument,
            mask,
            value,
            equal,
        })
    }
}

/// The number of a call on this machine; `None` where it does not exist, as
/// `open` on machines newer than it.
fn number(name: &str) -> Option<u32> {
    u32::try_from(Sysno::from_str(name).ok()?.id()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        toml::from_str(DEFAULT).unwrap()
    }

    fn names(profile: &Profile) -> Vec<&str> {
        let mut names: Vec<&str> = profile
            .group
            .iter()
            .flat_map(|group| group.calls.iter().map(String::as_str))
            .chain(profile.rule.iter().map(|rule| rule.call.as_str()))
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_set_of_allowed_calls_is_reviewed() {
        let profile = profile();
        let mut names = names(&profile);
        names.dedup();
        insta::assert_snapshot!(names.join("\n"));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_name_is_a_call() {
        for name in names(&profile()) {
            assert!(number(name).is_some(), "{name}");
        }
    }

    #[test]
    fn no_call_is_listed_twice_without_conditions() {
        let profile = profile();
        let mut seen = std::collections::BTreeSet::new();
        for name in profile.group.iter().flat_map(|group| &group.calls) {
            assert!(seen.insert(name), "{name}");
            assert!(profile.rule.iter().all(|rule| rule.call != *name), "{name}");
        }
    }

    #[test]
    fn a_mistake_in_the_list_is_an_error() {
        let with = |rule: &str| {
            decisions(&format!(
                "group = []\nabsent = []\n[[rule]]\ncall = \"read\"\nreason = \"\"\n{rule}"
            ))
        };
        assert!(with("when = [{ argument = 0, bits = 32, equals = 1 }]").is_ok());
        assert!(with("when = []").is_err());
        assert!(with("when = [{ argument = 0, bits = 31, equals = 1 }]").is_err());
        assert!(with("when = [{ argument = 0, bits = 32 }]").is_err());
        assert!(with("when = [{ argument = 9, bits = 32, equals = 1 }]").is_err());
        assert!(with("when = [{ argument = 0, bits = 32, mask = 1, equals = 2 }]").is_err());
        assert!(with("whenn = []").is_err());
    }

    /// What the kernel would answer to a call.
    fn answer(number: Sysno, [a, b, c]: [u64; 3]) -> Result<(), i32> {
        let Filter(program) = Filter::compile().unwrap();
        let number = u32::try_from(number.id()).unwrap();
        match compile::run(&program, number, ARCHITECTURE, [a, b, c, 0, 0, 0]) {
            libc::SECCOMP_RET_ALLOW => Ok(()),
            other => {
                assert_eq!(other & 0xffff_0000, libc::SECCOMP_RET_ERRNO);
                Err(i32::try_from(other & 0xffff).unwrap())
            }
        }
    }

    #[test]
    fn calls_newer_than_the_list_seem_not_to_exist() {
        let Filter(program) = Filter::compile().unwrap();
        // The second has the bit of the x32 interface set.
        for number in [600, 0x4000_0000] {
            let result = compile::run(&program, number, ARCHITECTURE, [0; 6]);
            assert_eq!(
                result,
                libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()
            );
        }
    }

    #[test]
    fn installing_is_cheap() {
        // The kernel tries every call number once; each takes a path of this length.
        let Filter(program) = Filter::compile().unwrap();
        assert!(program.len() < 500, "{}", program.len());
    }

    #[test]
    fn filters_act_as_the_list_says() {
        assert_eq!(answer(Sysno::getpid, [0; 3]), Ok(()));
        assert_eq!(answer(Sysno::unshare, [0; 3]), Err(libc::EPERM));
        assert_eq!(answer(Sysno::mount, [0; 3]), Err(libc::EPERM));
        assert_eq!(answer(Sysno::io_uring_setup, [0; 3]), Err(libc::EPERM));
        // C libraries only fall back to clone when clone3 seems not to exist.
        assert_eq!(answer(Sysno::clone3, [0; 3]), Err(libc::ENOSYS));
    }

    #[test]
    fn clone_makes_threads_and_processes_but_no_namespaces() {
        assert_eq!(answer(Sysno::clone, [0x003d_0f00, 0, 0]), Ok(()));
        assert_eq!(answer(Sysno::clone, [0x11, 0, 0]), Ok(()));
        for flag in [17, 25, 26, 27, 28, 29, 30] {
            assert_eq!(
                answer(Sysno::clone, [1 << flag | 0x11, 0, 0]),
                Err(libc::EPERM),
                "bit {flag}"
            );
        }
    }

    #[test]
    fn sockets_are_chosen_by_family_type_and_protocol() {
        let socket = |family, kind, protocol| answer(Sysno::socket, [family, kind, protocol]);
        // Stream and datagram of the internet, also with flags in the type.
        assert_eq!(socket(2, 1, 0), Ok(()));
        assert_eq!(socket(10, 2 | 0o2_000_000, 0), Ok(()));
        assert_eq!(socket(1, 5, 0), Ok(()));
        // Raw and packet sockets.
        assert_eq!(socket(2, 3, 1), Err(libc::EPERM));
        assert_eq!(socket(17, 3, 0), Err(libc::EPERM));
        // Vsock reaches the host of a virtual machine, alg the kernel's ciphers.
        assert_eq!(socket(40, 1, 0), Err(libc::EPERM));
        assert_eq!(socket(38, 5, 0), Err(libc::EPERM));
        // Netlink: routes yes, the firewall no.
        assert_eq!(socket(16, 3, 0), Ok(()));
        assert_eq!(socket(16, 3, 12), Err(libc::EPERM));
    }

    #[test]
    fn typing_into_terminals_is_refused_with_any_upper_bits() {
        let ioctl = |request| answer(Sysno::ioctl, [0, request, 0]);
        assert_eq!(ioctl(0x5401), Ok(()));
        for request in [0x5412, 0x541c] {
            for upper in [0, 1 << 32, 0xffff_ffff << 32] {
                assert_eq!(ioctl(request | upper), Err(libc::EPERM), "{request:#x}");
            }
        }
    }
}
