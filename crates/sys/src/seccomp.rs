//! Installing system call filters.

use std::io;

/// One instruction of a filter, in the kernel's layout.
pub use libc::sock_filter as Instruction;

/// Most instructions in one filter.
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Installs `filter` in the calling thread and all that it starts, for good, and
/// sets `no_new_privs`, without which only privileged threads may.
///
/// # Errors
/// The kernel's; `EINVAL` when it is no valid filter, e.g. empty or too long.
pub fn install(filter: &[Instruction]) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let length = u16::try_from(filter.len())
        .ok()
        .filter(|_| filter.len() <= INSTRUCTIONS_MAX)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `length` live instructions, which the kernel
    // copies and checks and does not write to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RET ALLOW`, for any call.
    const ALLOW: Instruction = Instruction {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };

    #[test]
    fn a_filter_is_installed_or_refused() {
        // Filters belong to the thread, so a thread can be thrown away.
        std::thread::spawn(|| {
            install(&[ALLOW]).unwrap();
            assert!(rustix::thread::no_new_privs().unwrap());
            assert!(install(&[]).is_err());
            assert!(install(&[ALLOW; INSTRUCTIONS_MAX + 1]).is_err());
        })
        .join()
        .unwrap();
    }
}
