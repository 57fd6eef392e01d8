//! The user namespace of a sandbox, made before the sandbox itself.
//!
//! The kernel counts some things (watches, queued signals, message queues) per
//! user who made a namespace. So each namespace is made by the sandbox's own
//! host id, not by root; else all sandboxes would share one budget. The map must be
//! written by someone privileged over both sides, while the namespace has a
//! member: that is a child of the worker, which only waits until it is done.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::Pid,
};
use sys::namespace::Side;

use crate::{
    error::{At as _, Error, Step},
    plan::UIDS_PER_SANDBOX,
};

/// A namespace on its way.
#[derive(Debug)]
pub(super) struct Pending {
    member: Pid,
    socket: OwnedFd,
    uid_base: u32,
}

/// Starts making a user namespace that belongs to host id `uid_base`.
pub(super) fn begin(uid_base: u32) -> Result<Pending, Error> {
    let (socket, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .at(Step::MapIds, uid_base)?;
    match sys::namespace::fork().at(Step::MapIds, uid_base)? {
        Side::Child => {
            drop(socket);
            sys::namespace::exit_now(i32::from(wait_inside(uid_base, &theirs).is_err()))
        }
        Side::Parent(member) => Ok(Pending {
            member,
            socket,
            uid_base,
        }),
    }
}

/// The member: enters the namespace, says so with one byte (or with the number of
/// the error), and stays until the other side closes.
fn wait_inside(uid_base: u32, socket: &OwnedFd) -> io::Result<()> {
    // As the sandbox's own user, but with the capabilities of root: some systems
    // refuse user namespaces to those who have none.
    let entered = sys::credential::set_ids_keeping_capabilities(uid_base, uid_base)
        .and_then(|()| sys::namespace::unshare_user());
    let code = entered
        .err()
        .map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    sys::socket::send(socket, &code.to_le_bytes(), &[])?;
    sys::socket::receive(socket, &mut [0]).map(|_| ())
}

impl Pending {
    /// Writes the map and opens the namespace.
    pub(super) fn finish(self) -> Result<OwnedFd, Error> {
        let mut code = [0; 4];
        let received =
            sys::socket::receive(self.socket.as_fd(), &mut code).at(Step::MapIds, self.uid_base)?;
        let refusal = match (received.bytes, i32::from_le_bytes(code)) {
            (4, 0) => None,
            (4, code) => Some(io::Error::from_raw_os_error(code)),
            _ => Some(io::ErrorKind::UnexpectedEof.into()),
        };
        if let Some(error) = refusal {
            return Err(error).at(Step::MapIds, self.uid_base);
        }
        let process = format!("/proc/{}", self.member.as_raw_nonzero());
        let map = format!("0 {} {UIDS_PER_SANDBOX}\n", self.uid_base);
        for file in ["uid_map", "gid_map"] {
            let path = format!("{process}/{file}");
            fs::write(&path, &map).at(Step::MapIds, path)?;
        }
        let path = format!("{process}/ns/user");
        fs::File::open(&path)
            .map(OwnedFd::from)
            .at(Step::MapIds, path)
    }
}
