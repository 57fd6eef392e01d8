//! Where control groups are mounted, read from the kernel's mount table.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Controllers of the first interface that are of use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Cpu,
    CpuAccounting,
    Pids,
    Freezer,
    Devices,
}

impl Controller {
    fn from_option(option: &str) -> Option<Self> {
        Some(match option {
            "memory" => Self::Memory,
            "cpu" => Self::Cpu,
            "cpuacct" => Self::CpuAccounting,
            "pids" => Self::Pids,
            "freezer" => Self::Freezer,
            "devices" => Self::Devices,
            _ => return None,
        })
    }
}

/// What the mount table has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Where each controller of the first interface is; several may share a place.
    pub(super) legacy: BTreeMap<Controller, PathBuf>,
    /// Where the second interface is.
    pub(super) unified: Option<PathBuf>,
}

/// Reads the text of `/proc/self/mountinfo`. Where something is mounted twice the first counts.
pub(super) fn parse(table: &str) -> Found {
    let mut found = Found::default();
    for line in table.lines() {
        // "36 35 98:0 /root /mount/point options tags… - type source super-options"
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let Some(place) = before.split(' ').nth(4) else {
            continue;
        };
        let place = unescape(place);
        let mut fields = after.split(' ');
        match (fields.next(), fields.nth(1)) {
            (Some("cgroup2"), _) => {
                found.unified.get_or_insert_with(|| place.clone());
            }
            (Some("cgroup"), Some(options)) => {
                for controller in options.split(',').filter_map(Controller::from_option) {
                    found.legacy.entry(controller).or_insert(place.clone());
                }
            }
            _ => {}
        }
    }
    found
}

/// Mount points have spaces and backslashes written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut path = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        path.push_str(&rest[..at]);
        let octal = rest.get(at + 1..at + 4);
        let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) else {
            path.push_str(&rest[at..]);
            return path.into();
        };
        path.push(char::from(byte));
        rest = &rest[at + 4..];
    }
    path.push_str(rest);
    Path::new(&path).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hybrid_hosts_have_both() {
        let found = parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        let place = |controller| found.legacy.get(&controller).unwrap().to_str().unwrap();
        assert_eq!(place(Controller::Cpu), "/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(
            place(Controller::CpuAccounting),
            "/sys/fs/cgroup/cpu,cpuacct"
        );
        assert_eq!(place(Controller::Memory), "/sys/fs/cgroup/memory");
        assert_eq!(found.legacy.len(), 3);
        assert_eq!(
            found.unified.as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified"))
        );
    }

    #[test]
    fn current_hosts_have_one() {
        let found =
            parse("25 22 0:22 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(found.legacy.is_empty());
        assert!(found.unified.is_some());
    }

    #[test]
    fn spaces_are_read() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(r"/a\9"), Path::new(r"/a\9"));
    }

    proptest! {
        #[test]
        fn no_table_makes_the_parser_panic(table in "\\PC{0,200}", path in "[\\\\0-9é ]{0,20}") {
            let _ = parse(&table);
            let _ = unescape(&path);
        }
    }
}
