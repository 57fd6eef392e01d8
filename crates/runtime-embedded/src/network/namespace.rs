//! Doing something inside the network namespace of a sandbox, and coming back.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    fs::{Mode, OFlags, open},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::error::NetworkError;

/// The calling thread's own network namespace.
const HOME: &str = "/proc/thread-self/ns/net";

/// Runs `work` with the calling thread inside `netns`.
///
/// When it returns [`NetworkError::Namespace`] for leaving, the thread is still
/// inside and must not go on; workers exit after any error.
pub(super) fn inside<T>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    let failed = |action| {
        move |source: rustix::io::Errno| NetworkError::Namespace {
            action,
            source: source.into(),
        }
    };
    let home = open(HOME, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open the host's network namespace"))?;
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
        .map_err(failed("enter the sandbox's network namespace"))?;
    let result = work();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(failed("return to the host's network namespace"))?;
    result
}
