//! The system calls that programs in a sandbox may make.
//!
//! The list is data, `seccomp/default.toml`, with a reason for each group. It
//! becomes two filters, because one knows one answer besides "allowed": the
//! first answers `EPERM` to what is not listed, the second `ENOSYS` to what C
//! libraries shall believe to be absent. Where both object, the one installed
//! last decides; so no call is refused by both.

use std::{collections::BTreeMap, io, str::FromStr as _};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::Deserialize;
use syscalls::Sysno;

use crate::error::{At as _, Error, Step};

/// The list, as part of the program.
const DEFAULT: &str = include_str!("../seccomp/default.toml");

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

/// The compiled filters, in the order in which they are installed.
#[derive(Clone, Debug)]
pub(crate) struct Filters([BpfProgram; 2]);

impl Filters {
    /// Compiles the list for this machine.
    pub(crate) fn compile() -> Result<Self, Error> {
        compile(DEFAULT).at(Step::CompileFilter, "seccomp/default.toml")
    }

    /// Installs the filters in the calling thread, for good. Sets `no_new_privs`.
    pub(crate) fn install(&self) -> io::Result<()> {
        self.0
            .iter()
            .try_for_each(|program| seccompiler::apply_filter(program).map_err(io::Error::other))
    }
}

fn compile(text: &str) -> io::Result<Filters> {
    let profile: Profile = toml::from_str(text).map_err(io::Error::other)?;
    let absent = profile
        .absent
        .iter()
        .filter_map(|absent| number(&absent.call))
        .map(|number| (number, Vec::new()))
        .collect();
    Ok(Filters([
        program(absent, SeccompAction::Allow, libc::ENOSYS)?,
        program(allowed(&profile)?, errno(libc::EPERM), 0)?,
    ]))
}

/// The rules of the allow list by call number; no rule means without condition.
fn allowed(profile: &Profile) -> io::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = profile
        .group
        .iter()
        .flat_map(|group| &group.calls)
        .filter_map(|name| number(name))
        .map(|number| (number, Vec::new()))
        .collect();
    for rule in &profile.rule {
        let Some(number) = number(&rule.call) else {
            continue;
        };
        let conditions = rule
            .when
            .iter()
            .map(Condition::compile)
            .collect::<io::Result<Vec<_>>>()?;
        let entry = rules.entry(number).or_default();
        if !conditions.is_empty() {
            entry.push(SeccompRule::new(conditions).map_err(io::Error::other)?);
        }
    }
    Ok(rules)
}

impl Condition {
    fn compile(&self) -> io::Result<SeccompCondition> {
        let length = match self.bits {
            32 => SeccompCmpArgLen::Dword,
            64 => SeccompCmpArgLen::Qword,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let (operator, value) = match (self.mask, self.equals, self.differs) {
            (Some(mask), Some(value), None) => (SeccompCmpOp::MaskedEq(mask), value),
            (None, Some(value), None) => (SeccompCmpOp::Eq, value),
            (None, None, Some(value)) => (SeccompCmpOp::Ne, value),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        SeccompCondition::new(self.argument, length, operator, value).map_err(io::Error::other)
    }
}

/// The number of a call on this machine; `None` where it does not exist, as
/// `open` on machines newer than it.
fn number(name: &str) -> Option<i64> {
    Sysno::from_str(name).ok().map(|call| call.id().into())
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

/// A filter that does `otherwise` with what no rule matches, and answers the rest
/// with the error number `refusal`, or allows it when that is zero.
fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    refusal: i32,
) -> io::Result<BpfProgram> {
    let matched = match refusal {
        0 => SeccompAction::Allow,
        number => errno(number),
    };
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
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
            compile(&format!(
                "group = []\nabsent = []\n[[rule]]\ncall = \"read\"\nreason = \"\"\n{rule}"
            ))
        };
        assert!(with("when = [{ argument = 0, bits = 32, equals = 1 }]").is_ok());
        assert!(with("when = [{ argument = 0, bits = 31, equals = 1 }]").is_err());
        assert!(with("when = [{ argument = 0, bits = 32 }]").is_err());
        assert!(with("when = [{ argument = 9, bits = 32, equals = 1 }]").is_err());
        assert!(with("whenn = []").is_err());
    }

    /// What the kernel would answer to a call, by running the filters as it does:
    /// the smallest action wins, of equal ones the one installed last.
    fn answer(number: Sysno, arguments: [u64; 3]) -> Result<(), i32> {
        const ALLOW: u32 = 0x7fff_0000;
        const ERRNO: u32 = 0x0005_0000;
        let filters = Filters::compile().unwrap();
        let results = filters
            .0
            .iter()
            .map(|program| run(program, number, arguments));
        let result = results
            .reduce(|first, second| {
                let action = |result| result & 0xffff_0000;
                if action(first) < action(second) {
                    first
                } else {
                    second
                }
            })
            .unwrap();
        match result & 0xffff_0000 {
            ALLOW => Ok(()),
            ERRNO => Err(i32::try_from(result & 0xffff).unwrap()),
            other => panic!("unexpected action {other:#x}"),
        }
    }

    /// Runs one filter, as far as the kernel's classic BPF is used by it.
    fn run(program: &BpfProgram, number: Sysno, arguments: [u64; 3]) -> u32 {
        const ARCH_X86_64: u32 = 0xc000_003e;
        const ARCH_AARCH64: u32 = 0xc000_00b7;
        let arch = if cfg!(target_arch = "x86_64") {
            ARCH_X86_64
        } else {
            ARCH_AARCH64
        };
        let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap();
        let load = |offset: u32| match offset {
            0 => u32::try_from(number.id()).unwrap(),
            4 => arch,
            16.. => {
                let argument = arguments
                    .get(usize::try_from((offset - 16) / 8).unwrap())
                    .copied()
                    .unwrap_or(0);
                if offset.is_multiple_of(8) {
                    low(argument)
                } else {
                    low(argument >> 32)
                }
            }
            other => panic!("load from {other}"),
        };
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let step = &program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
            match step.code {
                0x20 => accumulator = load(step.k),
                0x54 => accumulator &= step.k,
                0x05 => at += usize::try_from(step.k).unwrap(),
                0x15 => at += jump(accumulator == step.k),
                0x25 => at += jump(accumulator > step.k),
                0x35 => at += jump(accumulator >= step.k),
                0x06 => return step.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
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

    #[test]
    fn another_architecture_is_killed() {
        // The first instructions load the architecture and compare it.
        for program in Filters::compile().unwrap().0 {
            assert_eq!((program[0].code, program[0].k), (0x20, 4));
        }
    }
}
