//! Starting programs, reaping them, and settings of the own process.

use std::{
    collections::BTreeSet,
    ffi::c_int,
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    sync::{Mutex, PoisonError},
};

use rustix::process::Pid;

mod spawn;

pub use spawn::{Program, SpawnError, SpawnStep, UserIds, spawn};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// Waits until any child has ended and says which, without reaping it: its
/// number stays taken until [`reap`].
///
/// # Errors
/// `ECHILD` when there are no children.
pub fn wait_ended() -> io::Result<Pid> {
    loop {
        let info = wait_id(libc::P_ALL, 0, libc::WNOWAIT)?;
        if let Some((pid, _)) = info {
            return Ok(pid);
        }
    }
}

/// Reaps one child, waiting until it has ended.
///
/// # Errors
/// `ECHILD` when it is not a child of this process.
pub fn reap(pid: Pid) -> io::Result<Ended> {
    loop {
        let info = wait_id(libc::P_PID, pid.as_raw_nonzero().get().unsigned_abs(), 0)?;
        if let Some((_, ended)) = info {
            return Ok(ended);
        }
    }
}

/// Reaps one child if it has ended.
///
/// # Errors
/// `ECHILD` when it is not a child of this process.
pub fn try_reap(pid: Pid) -> io::Result<Option<Ended>> {
    let number = pid.as_raw_nonzero().get().unsigned_abs();
    Ok(wait_id(libc::P_PID, number, libc::WNOHANG)?.map(|(_, ended)| ended))
}

/// Whether it is a child of this process, running or not yet reaped.
#[must_use]
pub fn is_child(pid: Pid) -> bool {
    let number = pid.as_raw_nonzero().get().unsigned_abs();
    wait_id(libc::P_PID, number, libc::WNOWAIT | libc::WNOHANG).is_ok()
}

/// `waitid` for ended children of every kind; `None` when none has ended.
fn wait_id(which: libc::idtype_t, id: u32, flags: c_int) -> io::Result<Option<(Pid, Ended)>> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::__WALL | flags;
    // SAFETY: `info` has room for what is written.
    while unsafe { libc::waitid(which, id, info.as_mut_ptr(), flags) } != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: zeroed before, so every field has a valid value.
    let info = unsafe { info.assume_init() };
    // SAFETY: zero, or set by `waitid`.
    let pid = unsafe { info.si_pid() };
    // SAFETY: zero, or set by `waitid`.
    let status = unsafe { info.si_status() };
    let ended = match info.si_code {
        libc::CLD_EXITED => Ended::Exited(status),
        _ => Ended::Signalled(status),
    };
    Ok(Pid::from_raw(pid).map(|pid| (pid, ended)))
}

/// Takes over a descriptor inherited from the parent, once, and makes it close-on-exec.
///
/// # Errors
/// When it is a standard stream, not open, or was taken before.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if number <= 2 || taken.contains(&number) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: changes a flag of the descriptor, or fails when it is not open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    taken.insert(number);
    // SAFETY: open (checked above) and handed out at most once. Programs call
    // this at their start for numbers their parent named, before they open
    // descriptors of their own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// When the kernel has no `close_range` with that flag (before 5.11).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: only sets a flag on descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the C allocator frugal: one arena for all threads, and blocks of
/// `mapped_bytes_min` or more given back to the kernel as soon as they are freed.
pub fn frugal_allocator(mapped_bytes_min: c_int) {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, mapped_bytes_min),
        (libc::M_TRIM_THRESHOLD, mapped_bytes_min),
        (libc::M_TOP_PAD, 16 << 10),
    ] {
        // SAFETY: sets a tunable of the allocator; a refused value is ignored.
        unsafe { libc::mallopt(parameter, value) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = mapped_bytes_min;
}

#[cfg(test)]
mod tests;
