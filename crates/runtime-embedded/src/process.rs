//! Naming a process so that no later one is mistaken for it.

use std::{fs, io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// A process of this host, told apart from later ones by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) started_ticks: u64,
}

impl Identity {
    /// The process that has this id now.
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        Ok(Self {
            pid,
            started_ticks: started_ticks(pid)?,
        })
    }

    /// The calling process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(rustix::process::getpid())
    }

    /// A descriptor of the process, if it is still there.
    pub(crate) fn open(self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Asked after opening: the descriptor cannot change its process any more.
        let same = started_ticks(self.pid).is_ok_and(|ticks| ticks == self.started_ticks);
        (same && !sys::pidfd::wait(&pidfd, 0).unwrap_or(true)).then_some(pidfd)
    }

    pub(crate) fn is_alive(self) -> bool {
        self.open().is_some()
    }
}

/// Identity of this run of the host.
pub(crate) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

fn started_ticks(pid: i32) -> io::Result<u64> {
    parse_started_ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Field 22 of `/proc/<pid>/stat`. The program's name in field 2 may hold anything.
fn parse_started_ticks(stat: &str) -> Option<u64> {
    const FIELDS_BETWEEN: usize = 19;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(FIELDS_BETWEEN)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_mislead() {
        let stat = "7 (a) R 9 (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 1";
        assert_eq!(parse_started_ticks(stat), Some(4242));
        assert_eq!(parse_started_ticks("7 (a"), None);
    }

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let identity = Identity::of(Pid::from_child(&child)).unwrap();
        assert!(identity.is_alive());
        let another = Identity {
            started_ticks: identity.started_ticks + 1,
            ..identity
        };
        assert!(!another.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }
}
