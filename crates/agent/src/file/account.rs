//! Names of users and groups, from the sandbox's own files.

use std::{collections::HashMap, ffi::CStr};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};

/// How much of such a file is read; the rest has no names.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Users and groups.
#[derive(Debug)]
pub(super) struct Accounts {
    users: Names,
    groups: Names,
}

/// Names and numbers.
#[derive(Debug, Default)]
struct Names {
    by_number: HashMap<u32, String>,
    by_name: HashMap<String, u32>,
}

impl Accounts {
    /// What the files say now; nothing when they cannot be read.
    pub(super) fn load() -> Self {
        Self {
            users: parse(&read(c"/etc/passwd")),
            groups: parse(&read(c"/etc/group")),
        }
    }

    /// A user's name, or the number as text.
    pub(super) fn user_name(&self, uid: u32) -> String {
        self.users.name(uid)
    }

    /// A group's name, or the number as text.
    pub(super) fn group_name(&self, gid: u32) -> String {
        self.groups.name(gid)
    }

    /// The number of a user by name or number.
    pub(super) fn user(&self, text: &str) -> Option<u32> {
        self.users.number(text)
    }

    /// The number of a group by name or number.
    pub(super) fn group(&self, text: &str) -> Option<u32> {
        self.groups.number(text)
    }
}

impl Names {
    fn name(&self, number: u32) -> String {
        let name = self.by_number.get(&number).cloned();
        name.unwrap_or_else(|| number.to_string())
    }

    fn number(&self, text: &str) -> Option<u32> {
        // The highest number means "leave as it is" to the kernel.
        let number = || text.parse().ok().filter(|number| *number != u32::MAX);
        self.by_name.get(text).copied().or_else(number)
    }
}

/// A small regular file; the workload may have put anything in its place.
fn read(path: &CStr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Ok(file) = sys::file::open(CWD, path, OFlags::RDONLY, Mode::empty()) else {
        return bytes;
    };
    let is_regular = fstat(&file)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if !is_regular {
        return bytes;
    }
    let mut piece = [0; 4096];
    while bytes.len() < FILE_BYTES_MAX {
        match rustix::io::read(&file, &mut piece) {
            Ok(count @ 1..) => bytes.extend(&piece[..count]),
            _ => break,
        }
    }
    bytes
}

/// Lines of `name:password:number:…`; the first line of a name or number counts.
fn parse(bytes: &[u8]) -> Names {
    let mut names = Names::default();
    for line in String::from_utf8_lossy(bytes).lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(Ok(number))) =
            (fields.next(), fields.next(), fields.next().map(str::parse))
        else {
            continue;
        };
        if !name.is_empty() {
            names
                .by_number
                .entry(number)
                .or_insert_with(|| name.to_owned());
            names.by_name.entry(name.to_owned()).or_insert(number);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_both_ways() {
        let names =
            parse(b"root:x:0:0::/:/bin/sh\nbad\n:x:5:\nuser:x:1000:1000\nagain:x:1000:\n7:x:8:\n");
        assert_eq!(
            (names.name(0), names.name(1000), names.name(9)),
            ("root".into(), "user".into(), "9".into())
        );
        assert_eq!(
            (names.number("user"), names.number("again")),
            (Some(1000), Some(1000))
        );
        assert_eq!((names.number("12"), names.number("7")), (Some(12), Some(8)));
        assert_eq!(
            (names.number("nobody"), names.number("4294967295")),
            (None, None)
        );
    }
}
