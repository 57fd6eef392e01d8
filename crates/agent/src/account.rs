//! Names of users and groups, from the sandbox's own files.

use std::{collections::HashMap, ffi::CStr};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};

/// How much of such a file is read; the rest has no names.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Users and groups.
#[derive(Debug)]
pub(crate) struct Accounts {
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
    pub(crate) fn load() -> Self {
        Self {
            users: parse(&read(c"/etc/passwd")),
            groups: parse(&read(c"/etc/group")),
        }
    }

    /// A user's name, or the number as text.
    pub(crate) fn user_name(&self, uid: u32) -> String {
        self.users.name(uid)
    }

    /// A group's name, or the number as text.
    pub(crate) fn group_name(&self, gid: u32) -> String {
        self.groups.name(gid)
    }

    /// The number of a user by name or number.
    pub(crate) fn user(&self, text: &str) -> Option<u32> {
        self.users.number(text)
    }

    /// The number of a group by name or number.
    pub(crate) fn group(&self, text: &str) -> Option<u32> {
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

/// A user that programs can run as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The groups besides `gid`.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Most groups of one user, the kernel's limit on old systems.
const GROUPS_MAX: usize = 256;

/// A user by name or number. A number without an entry has a group of the same
/// number and no home.
pub(crate) fn find_user(text: &str) -> Option<User> {
    user_from(&read(c"/etc/passwd"), &read(c"/etc/group"), text)
}

fn user_from(passwd: &[u8], group: &[u8], text: &str) -> Option<User> {
    let passwd = String::from_utf8_lossy(passwd);
    let entries: Vec<User> = passwd.lines().filter_map(parse_user).collect();
    let by_name = entries.iter().find(|user| user.name == text);
    let number = || {
        text.parse::<u32>()
            .ok()
            .filter(|number| *number != u32::MAX)
    };
    let mut user = match (by_name, number()) {
        (Some(user), _) => user.clone(),
        (None, None) => return None,
        (None, Some(uid)) => match entries.into_iter().find(|user| user.uid == uid) {
            Some(user) => user,
            None => User {
                name: uid.to_string(),
                uid,
                gid: uid,
                groups: Vec::new(),
                home: "/".to_owned(),
            },
        },
    };
    for line in String::from_utf8_lossy(group).lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, gid, members] = fields[..]
            && let Ok(gid) = gid.parse()
            && gid != u32::MAX
            && user.groups.len() < GROUPS_MAX
            && members.split(',').any(|member| member == user.name)
        {
            user.groups.push(gid);
        }
    }
    Some(user)
}

/// A line of `name:password:uid:gid:comment:home:shell`.
fn parse_user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else {
        return None;
    };
    let number = |text: &str| text.parse().ok().filter(|number| *number != u32::MAX);
    Some(User {
        name: name.to_owned(),
        uid: number(uid)?,
        gid: number(gid)?,
        groups: Vec::new(),
        home: if home.starts_with('/') { home } else { "/" }.to_owned(),
    })
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
    fn users_are_found_with_their_groups() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nbad:x:1\nann:x:7:8:Ann:/home/ann:/bin/sh\n";
        let group = b"wheel:x:10:bob,ann\nusers:x:8:\ndocker:x:12:ann\nodd:x:x:ann\n";
        let ann = user_from(passwd, group, "ann").unwrap();
        assert_eq!((ann.uid, ann.gid, ann.home.as_str()), (7, 8, "/home/ann"));
        assert_eq!(ann.groups, [10, 12]);
        assert_eq!(user_from(passwd, group, "7"), Some(ann));
        let nobody = user_from(passwd, group, "99").unwrap();
        assert_eq!((nobody.gid, nobody.home.as_str()), (99, "/"));
        for unknown in ["bad", "eve", "", "4294967295"] {
            assert_eq!(user_from(passwd, group, unknown), None, "{unknown}");
        }
    }

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
