//! New processes with namespaces of their own, and moving between namespaces.
//!
//! Everything here is for small single-threaded programs: copying a process
//! that has threads leaves locks held for ever in the copy.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    io, iter,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use rustix::{
    process::Pid,
    thread::{LinkNameSpaceType, UnshareFlags},
};

/// Which side of a [`fork`] or [`clone_into_namespaces`] this is.
#[derive(Debug)]
pub enum Side<T> {
    /// The new process. It must end with [`exit_now`] or [`execute`].
    Child,
    /// The old process, with what it knows about the new one.
    Parent(T),
}

/// A process made by [`clone_into_namespaces`].
#[derive(Debug)]
pub struct Cloned {
    /// Its id in the caller's pid namespace.
    pub pid: Pid,
    /// A descriptor that refers to it and to no later process of the same id.
    pub pidfd: OwnedFd,
}

/// Copies the calling process.
///
/// # Errors
/// The kernel's, or `EBUSY` when the process has more than one thread.
pub fn fork() -> io::Result<Side<Pid>> {
    require_single_thread()?;
    // SAFETY: the process has one thread, so that the copy finds no lock held
    // by a thread that does not exist in it.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(
            Pid::from_raw(pid).expect("a process id is positive"),
        )),
    }
}

/// Copies the calling process into new pid, mount, network, ipc and uts
/// namespaces, all owned by the caller's user namespace.
///
/// The child is the first process of its pid namespace, and is born in the control
/// group (version 2) that `cgroup`, its folder, refers to, if given.
///
/// # Errors
/// The kernel's, or `EBUSY` when the process has more than one thread.
pub fn clone_into_namespaces(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side<Cloned>> {
    const FLAGS: libc::c_int = libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_PIDFD;
    /// Wider than the type that the C library has for flags.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    require_single_thread()?;
    let mut pidfd: RawFd = -1;
    let flags = u64::try_from(FLAGS).expect("the flags used do not touch the sign");
    let number = |fd: BorrowedFd<'_>| u64::try_from(fd.as_raw_fd());
    let group = cgroup
        .map(number)
        .transpose()
        .expect("the descriptor of an open file is not negative");
    let arguments = libc::clone_args {
        flags: flags | group.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: (&raw mut pidfd).addr() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::try_from(libc::SIGCHLD).expect("a signal number is positive"),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.unwrap_or(0),
    };
    // SAFETY: without CLONE_VM and with no stack given this is a fork: the
    // child runs on a copy of everything. The process has one thread. The
    // arguments live through the call and `pidfd` is written in the parent only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => {
            let pid = i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .expect("a process id is positive and fits 32 bits");
            // SAFETY: the call succeeded in the parent with CLONE_PIDFD, so
            // `pidfd` holds a new descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent(Cloned { pid, pidfd }))
        }
    }
}

/// Refuses to copy a process with threads; one `stat` call.
fn require_single_thread() -> io::Result<()> {
    // A directory has two links of its own and one for each directory in it.
    if rustix::fs::stat("/proc/self/task")?.st_nlink == 3 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }
}

/// Moves the calling process into a new user namespace, owned by its effective user.
///
/// # Errors
/// The kernel's.
pub fn unshare_user() -> io::Result<()> {
    unshare(UnshareFlags::NEWUSER)
}

/// Makes the current cgroups of the calling process the roots that it sees.
///
/// # Errors
/// The kernel's.
pub fn unshare_cgroup() -> io::Result<()> {
    unshare(UnshareFlags::NEWCGROUP)
}

/// Gives the calling process a mount namespace of its own.
///
/// # Errors
/// The kernel's.
pub fn unshare_mount() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the callers pass namespace flags only, never CLONE_FILES, which
    // is what can make descriptors of other threads invalid.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Moves the calling process into the user namespace that `namespace` refers to.
///
/// # Errors
/// The kernel's.
pub fn enter_user(namespace: impl AsFd) -> io::Result<()> {
    enter(namespace, LinkNameSpaceType::User)
}

/// Moves the calling thread into the network namespace that `namespace` refers to.
///
/// # Errors
/// The kernel's.
pub fn enter_network(namespace: impl AsFd) -> io::Result<()> {
    enter(namespace, LinkNameSpaceType::Network)
}

fn enter(namespace: impl AsFd, kind: LinkNameSpaceType) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
        .map_err(io::Error::from)
}

/// Gives back the signal dispositions that a program expects at its start.
///
/// `SIG_IGN` survives `execve`, so what the caller ignores would stay ignored
/// in every process of the new program.
///
/// # Errors
/// The kernel's.
pub fn restore_default_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGSYS {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        set_disposition(signal, libc::SIG_DFL)?;
    }
    Ok(())
}

/// Makes the ends of children known again, where they were ignored.
///
/// # Errors
/// The kernel's.
pub fn restore_child_signal() -> io::Result<()> {
    set_disposition(libc::SIGCHLD, libc::SIG_DFL)
}

/// Ignores `signals`, so that no zombie and no keyboard interrupt is left to handle.
///
/// # Errors
/// The kernel's.
pub fn ignore_signals(signals: &[i32]) -> io::Result<()> {
    signals
        .iter()
        .try_for_each(|signal| set_disposition(*signal, libc::SIG_IGN))
}

fn set_disposition(signal: i32, disposition: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: the disposition is SIG_DFL or SIG_IGN, so no code is installed.
    if unsafe { libc::signal(signal, disposition) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes the descriptor number `target` a copy of `source` that survives `execve`,
/// closing what was there.
///
/// # Errors
/// The kernel's.
pub fn place_descriptor(source: impl AsFd, target: RawFd) -> io::Result<()> {
    let source = source.as_fd().as_raw_fd();
    let result = if source == target {
        // SAFETY: takes numbers and touches no memory; the descriptor is borrowed.
        unsafe { libc::fcntl(source, libc::F_SETFD, 0) }
    } else {
        // SAFETY: takes numbers and touches no memory; the caller names a target
        // that no owner in this process uses afterwards.
        unsafe { libc::dup2(source, target) }
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Marks every descriptor from `first` on to be closed by `execve`.
///
/// # Errors
/// The kernel's; needs Linux 5.11.
pub fn close_on_execute_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first)
        .map_err(|_negative| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: close_range with the flag only changes descriptor flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Replaces the calling process by the program that `program` refers to.
/// Returns only when that failed.
///
/// # Errors
/// The kernel's.
pub fn execute(
    program: impl AsFd,
    arguments: &[CString],
    environment: &[CString],
) -> io::Result<Infallible> {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts
            .iter()
            .map(|text| CStr::as_ptr(text))
            .chain(iter::once(ptr::null()))
            .collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both vectors are arrays of terminated strings, end with a null
    // pointer and live through the call; the path is a terminated empty string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

/// Ends the calling process at once: no destructor, no exit function, no buffered output.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_copied() {
        // The test harness runs this test on a thread of its own.
        let error = fork().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        let error = clone_into_namespaces(None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    }

    #[test]
    fn executing_what_is_no_program_fails_and_returns() {
        let file = tempfile::tempfile().unwrap();
        assert!(execute(&file, &[], &[]).is_err());
    }
}
