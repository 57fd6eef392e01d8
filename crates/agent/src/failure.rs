//! Failures in the words of the protocol.

use std::{fmt, io};

use agent_protocol::{Failure, FailureKind};
use rustix::io::Errno;

/// Why a request ends without its normal reply.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It failed; the server is told.
    Failed(Failure),
    /// The connection is lost or out of step; there is nobody to tell.
    Disconnected(io::Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Disconnected(error)
    }
}

/// A failure of this kind.
pub(crate) fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
    }
}

/// A request that is wrong.
pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    failure(FailureKind::InvalidRequest, message)
}

/// A limit that is reached.
pub(crate) fn limit_reached(message: impl Into<String>) -> Failure {
    failure(FailureKind::LimitReached, message)
}

/// What an OS error means for the thing it happened to, with what to do where that helps.
pub(crate) fn from_os(what: impl fmt::Display, error: &io::Error) -> Failure {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let (kind, text) = match errno {
        Some(Errno::NOENT) => (FailureKind::NotFound, "does not exist"),
        Some(Errno::EXIST) => (FailureKind::AlreadyExists, "exists already"),
        Some(Errno::ACCESS | Errno::PERM) => (FailureKind::PermissionDenied, "permission denied"),
        Some(Errno::ROFS) => (
            FailureKind::PermissionDenied,
            "the file system is read-only",
        ),
        Some(Errno::NOSPC) => (
            FailureKind::LimitReached,
            "no space left in the sandbox; remove files first",
        ),
        Some(Errno::DQUOT) => (
            FailureKind::LimitReached,
            "the sandbox's disk quota is used up; remove files first",
        ),
        Some(Errno::FBIG) => (FailureKind::LimitReached, "the file would be too large"),
        Some(Errno::MFILE | Errno::NFILE) => {
            (FailureKind::LimitReached, "too many open files; try again")
        }
        Some(Errno::NOMEM) => (FailureKind::LimitReached, "out of memory"),
        Some(Errno::NAMETOOLONG) => (
            FailureKind::InvalidRequest,
            "the path or a name in it is too long (at most 255 bytes a name, 4095 in all)",
        ),
        Some(Errno::NOTDIR) => (
            FailureKind::InvalidRequest,
            "a part of the path is not a directory",
        ),
        Some(Errno::ISDIR) => (FailureKind::InvalidRequest, "is a directory"),
        Some(Errno::NOTEMPTY) => (
            FailureKind::InvalidRequest,
            "the directory is not empty; ask for recursive removal",
        ),
        Some(Errno::LOOP) => (
            FailureKind::InvalidRequest,
            "leads through too many links or a link of the kernel's, which is not followed",
        ),
        Some(Errno::NXIO | Errno::NODEV) => {
            (FailureKind::InvalidRequest, "is a device, pipe or socket")
        }
        Some(Errno::BUSY | Errno::XDEV) => {
            (FailureKind::InvalidRequest, "is in use as a mount point")
        }
        Some(Errno::INVAL) => (FailureKind::InvalidRequest, "is not possible here"),
        _ => return failure(FailureKind::Internal, format!("{what}: {error}")),
    };
    failure(kind, format!("{what}: {text}"))
}
