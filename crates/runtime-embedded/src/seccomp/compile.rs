//! Turns decisions about system calls into a filter program.
//!
//! The kernel runs a filter for every call, and when it is installed it runs it once
//! for every call number to learn which are always allowed. A list of comparisons
//! makes that installation cost a millisecond per sandbox; so calls are found
//! by binary search over ranges of numbers that are decided alike:
//!
//! ```text
//! check architecture ─▶ number ≥ 150? ─▶ number ≥ 230? ─▶ … ─▶ answer
//!                                   └──▶ number ≥ 80?  ─▶ … ─▶ look at arguments ─▶ answer
//! ```

use std::collections::BTreeMap;

use sys::seccomp::Instruction;

// Operations of classic BPF, as in the kernel's `bpf_common.h`.
/// Load 32 bits of the call's description.
const LOAD: u16 = 0x20;
/// Keep the bits of a mask.
const AND: u16 = 0x54;
/// Jump always.
const JUMP: u16 = 0x05;
/// Jump if equal.
const EQUAL: u16 = 0x15;
/// Jump if greater or equal.
const AT_LEAST: u16 = 0x35;
/// Answer.
const RETURN: u16 = 0x06;

// Places in the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is made.
    Allow,
    /// It fails with this error number.
    Fail(u16),
    /// It is made if one of the rules holds, else it fails with `EPERM`.
    AllowIf(Vec<Vec<Condition>>),
}

/// What one argument must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Which argument, from 0 to 5.
    pub(super) argument: u8,
    /// The bits that count. Where the upper half is zero the kernel ignores it too.
    pub(super) mask: u64,
    /// What they are compared with.
    pub(super) value: u64,
    /// Whether they must be equal or must differ.
    pub(super) equal: bool,
}

/// The program for `decisions` by call number. Calls between them fail with
/// `EPERM`; those after the last, which are newer than the list, seem not to exist.
pub(super) fn compile(decisions: &BTreeMap<u32, Decision>, architecture: u32) -> Vec<Instruction> {
    let mut program = vec![
        plain(LOAD, ARCHITECTURE),
        jump(EQUAL, architecture, 1, 0),
        plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        plain(LOAD, NUMBER),
    ];
    program.extend(search(&ranges(decisions)));
    program
}

/// The decisions with their first numbers, ascending; each holds up to the next.
fn ranges(decisions: &BTreeMap<u32, Decision>) -> Vec<(u32, Decision)> {
    let mut ranges: Vec<(u32, Decision)> = Vec::new();
    let mut add = |first: u32, decision: Decision| {
        if ranges.last().is_none_or(|(_, last)| *last != decision) {
            ranges.push((first, decision));
        }
    };
    let mut next = 0;
    for (number, decision) in decisions {
        if *number > next {
            add(next, Decision::Fail(errno(libc::EPERM)));
        }
        add(*number, decision.clone());
        next = number + 1;
    }
    add(next, Decision::Fail(errno(libc::ENOSYS)));
    ranges
}

/// Finds the range that the number in the accumulator lies in; there is at least one.
fn search(ranges: &[(u32, Decision)]) -> Vec<Instruction> {
    if let [(_, decision)] = ranges {
        return answer(decision);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let first_of_upper = upper.first().map_or(0, |(first, _)| *first);
    let (lower, upper) = (search(lower), search(upper));
    // Conditional jumps reach 255 instructions, the unconditional one any number.
    let mut program = vec![
        jump(AT_LEAST, first_of_upper, 0, 1),
        plain(JUMP, length(&lower)),
    ];
    program.extend(lower);
    program.extend(upper);
    program
}

fn answer(decision: &Decision) -> Vec<Instruction> {
    match decision {
        Decision::Allow => vec![plain(RETURN, libc::SECCOMP_RET_ALLOW)],
        Decision::Fail(number) => vec![fail(*number)],
        Decision::AllowIf(rules) => {
            let mut program: Vec<Instruction> = rules
                .iter()
                .flat_map(|conditions| rule(conditions))
                .collect();
            program.push(fail(errno(libc::EPERM)));
            program
        }
    }
}

/// Allows the call if all conditions hold, else goes on after the rule.
fn rule(conditions: &[Condition]) -> Vec<Instruction> {
    // Built from its end, where it is known how far it is to what comes after.
    let mut program = vec![plain(RETURN, libc::SECCOMP_RET_ALLOW)];
    for condition in conditions.iter().rev() {
        let mut check = condition.check(length(&program));
        check.append(&mut program);
        program = check;
    }
    program
}

impl Condition {
    /// Goes on with what follows directly if the condition holds, else skips
    /// `rest` instructions more.
    fn check(&self, rest: u32) -> Vec<Instruction> {
        let place = ARGUMENTS + u32::from(self.argument) * ARGUMENT_BYTES;
        let halves = [
            (place, low_half(self.mask), low_half(self.value)),
            (
                place + 4,
                low_half(self.mask >> 32),
                low_half(self.value >> 32),
            ),
        ];
        let counting: Vec<_> = halves
            .into_iter()
            .filter(|(_, mask, _)| *mask != 0)
            .collect();
        let mut program = Vec::new();
        for (index, (place, mask, value)) in counting.iter().enumerate() {
            program.extend([plain(LOAD, *place), plain(AND, *mask)]);
            // A difference in one half decides; equality must hold in both.
            let is_last = index + 1 == counting.len();
            let left = u32::try_from(counting.len() - index - 1).unwrap_or(u32::MAX) * HALF_LENGTH;
            program.extend(match (self.equal, is_last) {
                (true, _) => skip_unless_equal(*value, left + rest),
                (false, false) => skip_if_differs_to(*value, left),
                (false, true) => skip_if_equal(*value, rest),
            });
        }
        program
    }
}

/// Instructions for one half of an argument: two here, two for the comparison.
const HALF_LENGTH: u32 = 4;

fn skip_unless_equal(value: u32, distance: u32) -> [Instruction; 2] {
    [jump(EQUAL, value, 1, 0), plain(JUMP, distance)]
}

fn skip_if_equal(value: u32, distance: u32) -> [Instruction; 2] {
    [jump(EQUAL, value, 0, 1), plain(JUMP, distance)]
}

/// A difference found: the condition holds, what is left of it is skipped.
fn skip_if_differs_to(value: u32, left: u32) -> [Instruction; 2] {
    [jump(EQUAL, value, 1, 0), plain(JUMP, left)]
}

fn fail(number: u16) -> Instruction {
    plain(RETURN, libc::SECCOMP_RET_ERRNO | u32::from(number))
}

fn plain(code: u16, k: u32) -> Instruction {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn length(program: &[Instruction]) -> u32 {
    u32::try_from(program.len()).expect("a program has far less than 2^32 instructions")
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).expect("the mask leaves 32 bits")
}

/// Error numbers are small; the kernel has 4095 of them.
pub(super) fn errno(number: i32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Runs a program as the kernel does, for tests.
#[cfg(test)]
pub(super) fn run(
    program: &[Instruction],
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
) -> u32 {
    let load = |place: u32| match place {
        NUMBER => number,
        ARCHITECTURE => architecture,
        place => {
            let index = usize::try_from((place - ARGUMENTS) / ARGUMENT_BYTES).unwrap();
            let shift = if place.is_multiple_of(ARGUMENT_BYTES) {
                0
            } else {
                32
            };
            low_half(arguments[index] >> shift)
        }
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let step = &program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            LOAD => accumulator = load(step.k),
            AND => accumulator &= step.k,
            JUMP => at += usize::try_from(step.k).unwrap(),
            EQUAL => at += branch(accumulator == step.k),
            AT_LEAST => at += branch(accumulator >= step.k),

            RETURN => return step.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARCH: u32 = 0xc000_003e;

    /// What a decision means, said plainly.
    fn meaning(decisions: &BTreeMap<u32, Decision>, number: u32, arguments: [u64; 6]) -> u32 {
        let refusal = |number| libc::SECCOMP_RET_ERRNO | number;
        let holds = |condition: &Condition| {
            let seen = arguments[usize::from(condition.argument)] & condition.mask;
            (seen == condition.value & condition.mask) == condition.equal
        };
        match decisions.get(&number) {
            Some(Decision::Allow) => libc::SECCOMP_RET_ALLOW,
            Some(Decision::Fail(errno)) => refusal(u32::from(*errno)),
            Some(Decision::AllowIf(rules)) if rules.iter().any(|rule| rule.iter().all(holds)) => {
                libc::SECCOMP_RET_ALLOW
            }
            Some(_) => refusal(1),
            None if decisions.keys().any(|other| *other > number) => refusal(1),
            None => refusal(38),
        }
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let word = prop_oneof![
            0u64..4,
            Just(u64::from(u32::MAX)),
            Just(1 << 40),
            any::<u64>()
        ];
        let mask = prop_oneof![
            Just(0xf),
            Just(u64::from(u32::MAX)),
            Just(u64::MAX),
            Just(u64::MAX << 32)
        ];
        (0u8..3, mask, word, any::<bool>()).prop_map(|(argument, mask, value, equal)| Condition {
            argument,
            mask,
            value: value & mask,
            equal,
        })
    }

    fn decision() -> impl Strategy<Value = Decision> {
        let rules = prop::collection::vec(prop::collection::vec(condition(), 0..4), 0..4);
        prop_oneof![
            4 => Just(Decision::Allow),
            1 => (1u16..100).prop_map(Decision::Fail),
            2 => rules.prop_map(Decision::AllowIf),
        ]
    }

    proptest! {
        #[test]
        fn programs_do_what_decisions_mean(
            decisions in prop::collection::btree_map(0u32..600, decision(), 0..300),
            number in 0u32..700,
            arguments in prop::array::uniform6(prop_oneof![0u64..5, any::<u64>(), Just(1u64 << 40)]),
        ) {
            let program = compile(&decisions, ARCH);
            for number in decisions.keys().copied().chain([number]) {
                let expected = meaning(&decisions, number, arguments);
                prop_assert_eq!(run(&program, number, ARCH, arguments), expected, "call {}", number);
            }
            let killed = run(&program, number, ARCH + 1, arguments);
            prop_assert_eq!(killed, libc::SECCOMP_RET_KILL_PROCESS);
        }
    }
}
