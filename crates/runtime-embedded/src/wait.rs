//! Waiting a moment where the kernel offers no event to wait for.

use std::time::Duration;

use rustix::event::{Timespec, poll};

/// Blocks the calling thread for about `duration`.
///
/// Only for states of the kernel's that cannot be polled, such as a control
/// group that is still busy; callers have a deadline around it.
pub(crate) fn pause(duration: Duration) {
    let timeout = Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    };
    // An interrupted wait only means one more look.
    let _ = poll(&mut [], Some(&timeout));
}
