//! The message in which the agent tells the spawner what to start.
//!
//! Every text is a length (u32) and its bytes; every list a count (u32) and its
//! items: working directory, numbers of the descriptors, arguments, environment
//! (as `NAME=value`), numbers of the user (none, or user, group and further
//! groups), whether there is a terminal. Both sides are the same file, so there are no versions.

use std::{
    ffi::{CString, OsStr, OsString},
    os::{fd::RawFd, unix::ffi::OsStrExt},
};

use super::{EXTRA_DESCRIPTORS_MAX, SpawnError, SpawnSpec};

/// Longest message. The kernel refuses command lines long before.
pub(super) const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Longest single argument or variable the kernel takes, its end included.
const TEXT_BYTES_MAX: usize = 128 << 10;

/// What the spawner gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) cwd: CString,
    pub(super) targets: Vec<RawFd>,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// The user's number, the group's and those of further groups; empty for nobody else.
    pub(super) user: Vec<u32>,
    pub(super) terminal: bool,
}

/// Checks a program and writes it down.
pub(super) fn encode(spec: &SpawnSpec) -> Result<Vec<u8>, SpawnError> {
    if spec.argv.first().is_none_or(|name| name.is_empty()) {
        return Err(invalid("the command is empty"));
    }
    if spec.extra_fds.len() > EXTRA_DESCRIPTORS_MAX
        || spec
            .extra_fds
            .iter()
            .any(|(_, number)| !(3..1024).contains(number))
    {
        return Err(invalid("too many descriptors, or reserved numbers"));
    }
    let mut bytes = Vec::new();
    put_text(&mut bytes, "the working directory", spec.cwd.as_os_str())?;
    let descriptors = spec.descriptors();
    put_count(&mut bytes, descriptors.len());
    for (_, number) in descriptors {
        bytes.extend(number.to_le_bytes());
    }
    put_count(&mut bytes, spec.argv.len());
    for argument in &spec.argv {
        put_text(&mut bytes, "an argument", argument)?;
    }
    put_count(&mut bytes, spec.env.len());
    for (name, value) in &spec.env {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(invalid(&format!(
                "{name:?} is not the name of an environment variable"
            )));
        }
        let mut text = OsString::with_capacity(name.len() + 1 + value.len());
        text.push(name);
        text.push("=");
        text.push(value);
        put_text(&mut bytes, "an environment variable", &text)?;
    }
    let user = spec.user.as_ref().map_or(vec![], |user| {
        [&[user.uid, user.gid], user.groups.as_slice()].concat()
    });
    put_count(&mut bytes, user.len());
    for number in user {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(u32::from(spec.terminal).to_le_bytes());
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(SpawnError::TooLong);
    }
    Ok(bytes)
}

fn invalid(message: &str) -> SpawnError {
    SpawnError::Invalid(message.to_owned())
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    // Over 2^32 items the message is over its limit anyway.
    bytes.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, what: &str, text: &OsStr) -> Result<(), SpawnError> {
    let text = text.as_bytes();
    if text.contains(&0) {
        return Err(invalid(&format!("{what} contains a NUL byte")));
    }
    if text.len() >= TEXT_BYTES_MAX {
        return Err(SpawnError::TooLong);
    }
    put_count(bytes, text.len());
    bytes.extend(text);
    Ok(())
}

/// Reads a message; `None` when it is malformed.
pub(super) fn decode(bytes: &[u8]) -> Option<Message> {
    let mut rest = bytes;
    let cwd = take_text(&mut rest)?;
    let targets = take_list(&mut rest, |rest| {
        take_number(rest).and_then(|number| RawFd::try_from(number).ok())
    })?;
    let argv = take_list(&mut rest, take_text)?;
    let env = take_list(&mut rest, take_text)?;
    let user = take_list(&mut rest, take_number)?;
    let terminal = take_number(&mut rest)? != 0;
    rest.is_empty().then_some(Message {
        cwd,
        targets,
        argv,
        env,
        user,
        terminal,
    })
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*number))
}

fn take_text(rest: &mut &[u8]) -> Option<CString> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    CString::new(text).ok()
}

fn take_list<T>(rest: &mut &[u8], mut take: impl FnMut(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    // Grows as items are really there, whatever the count says.
    let count = take_number(rest)?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(take(rest)?);
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::User;
    use proptest::prelude::*;

    fn spec(argv: &[&str], env: &[(&str, &str)]) -> SpawnSpec {
        SpawnSpec {
            argv: argv.iter().map(OsString::from).collect(),
            env: env.iter().map(|(n, v)| (n.into(), v.into())).collect(),
            cwd: "/work".into(),
            ..SpawnSpec::default()
        }
    }

    #[test]
    fn impossible_commands_are_refused() {
        let long = "x".repeat(TEXT_BYTES_MAX);
        for (argv, env) in [
            (vec![], vec![]),
            (vec![""], vec![]),
            (vec!["a\0b"], vec![]),
            (vec!["a"], vec![("", "b")]),
            (vec!["a"], vec![("b=c", "d")]),
            (vec!["a"], vec![("b", "c\0")]),
            (vec!["a", &long], vec![]),
            (vec!["a"], vec![("b", long.as_str())]),
        ] {
            assert!(encode(&spec(&argv, &env)).is_err(), "{argv:?} {env:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            argv in prop::collection::vec("[^\0]{1,20}", 1..8),
            env in prop::collection::btree_map("[^\0=]{1,8}", "[^\0]{0,20}", 0..8),
            user in prop::option::of(any::<(u32, u32, Vec<u32>)>()),
            terminal: bool,
        ) {
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let mut spec = spec(&argv, &env);
            spec.user = user.map(|(uid, gid, groups)| User { uid, gid, groups, ..User::default() });
            spec.terminal = terminal;
            let message = decode(&encode(&spec).unwrap()).unwrap();
            prop_assert_eq!(message.terminal, terminal);
            let user = spec.user.map_or(vec![], |user| [vec![user.uid, user.gid], user.groups].concat());
            prop_assert_eq!(message.user, user);
            prop_assert_eq!(message.cwd.as_bytes(), b"/work");
            let decoded: Vec<&str> = message.argv.iter().map(|a| a.to_str().unwrap()).collect();
            prop_assert_eq!(decoded, argv);
            let expected: Vec<String> = env.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let decoded: Vec<&str> = message.env.iter().map(|a| a.to_str().unwrap()).collect();
            prop_assert_eq!(decoded, expected);
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
