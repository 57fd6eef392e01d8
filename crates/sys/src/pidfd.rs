//! How a process ended, asked through its descriptor by someone who is not its parent.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Status(i32),
    /// This signal killed it.
    Signal(i32),
}

/// Kernel layout of `struct pidfd_info`, first version.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT` of the kernel's `pidfd.h`.
const INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)` with the first version's 64 bytes.
const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;

/// Waits until the process has ended, at most `timeout_ms`; whether it has.
///
/// # Errors
/// The kernel's.
pub fn wait(pidfd: impl AsFd, timeout_ms: u32) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: i64::from(timeout_ms / 1000),
        tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
    };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))?;
    Ok(ready > 0)
}

/// How the process ended; `None` when it has not, or when the kernel (before
/// 6.15) keeps that from everyone but the parent.
#[must_use]
pub fn exit(pidfd: impl AsFd) -> Option<Exit> {
    let mut info = PidfdInfo {
        mask: INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request number carries the size of `PidfdInfo`, which is
    // what the kernel writes at most, and `info` is live and writable.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if result != 0 || info.mask & INFO_EXIT == 0 {
        return None;
    }
    let code = info.exit_code;
    Some(if libc::WIFSIGNALED(code) {
        Exit::Signal(libc::WTERMSIG(code))
    } else {
        Exit::Status(libc::WEXITSTATUS(code))
    })
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<PidfdInfo>(), 64);
    }

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(!wait(&pidfd, 0).unwrap());
        assert_eq!(exit(&pidfd), None);
        child.kill().unwrap();
        assert!(wait(&pidfd, 5000).unwrap());
        child.wait().unwrap();
        // Old kernels do not tell; a wrong answer is what must not be.
        assert!(matches!(exit(&pidfd), None | Some(Exit::Signal(9))));
    }
}
