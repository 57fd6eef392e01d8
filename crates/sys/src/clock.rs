//! The host's clock.

use std::{io, mem::MaybeUninit};

/// Whether something keeps the clock right (NTP, PTP or the hypervisor), as the
/// kernel was told by it.
///
/// # Errors
/// When the kernel does not tell.
pub fn is_synchronized() -> io::Result<bool> {
    // SAFETY: `timex` is a plain C struct, for which all zeroes are valid; mode 0 asks only.
    let mut answer: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the pointer is valid for writes during the call.
    let state = unsafe { libc::adjtimex(&raw mut answer) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer.status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_tells() {
        super::is_synchronized().unwrap();
    }
}
