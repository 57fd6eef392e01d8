//! A small blocking netlink client: requests with acknowledgements, and dumps.
//!
//! Written here rather than taken from a crate because the firewall's elements
//! need an encoder of our own anyway, and the callers are single-threaded
//! processes without an async runtime.

mod encoding;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, IntoRawFd as _, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with, sockopt,
    },
};

use encoding::messages;
pub(super) use encoding::{Attributes, Encoder, Message, attribute, attributes};

/// `NLM_F_REQUEST`.
pub(super) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: the kernel answers also when all went well.
pub(super) const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: the kernel answers with a list.
pub(super) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`: make it if it does not exist.
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`: fail if it exists.
pub(super) const EXCLUSIVE: u16 = 0x200;

/// `NLMSG_ERROR`: an error number, zero for an acknowledgement.
const KIND_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump.
const KIND_DONE: u16 = 3;
/// The kernel fills at most this many bytes of one datagram of a dump.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// The kernel answers within the system call; this only bounds a broken kernel.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family {
    /// Links, addresses and routes.
    Route,
    /// Firewall and connection tracking.
    Netfilter,
}

/// A connection to the kernel of the network namespace that it was opened in.
#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
}

impl Socket {
    /// Opens a connection in the calling thread's network namespace.
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            // Number zero, which the library spells as no protocol.
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let descriptor = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        sockopt::set_socket_timeout(&descriptor, sockopt::Timeout::Recv, Some(ANSWER_DEADLINE))?;
        Ok(Self { descriptor })
    }

    /// The socket, for calls that take any socket of the namespace.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Leaves the connection open until the process ends.
    pub(super) fn keep_open(self) {
        // Turned into a number that nothing will close.
        let _ = self.descriptor.into_raw_fd();
    }

    /// Sends `request` and returns the first error that the kernel reports for
    /// any of its messages, or an error unless `acknowledgements` of them arrive.
    ///
    /// The kernel works through a request within the `send` call, so all answers
    /// are there when it returns.
    pub(super) fn request(&self, request: &Encoder, acknowledgements: usize) -> io::Result<()> {
        send(&self.descriptor, request.as_bytes(), SendFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let mut acknowledged = 0;
        let mut first_error = None;
        loop {
            let length = match recv(&self.descriptor, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in messages(&buffer[..length]) {
                match result_of(message) {
                    Some(Ok(())) => acknowledged += 1,
                    Some(Err(error)) => first_error = first_error.or(Some(error)),
                    None => {}
                }
            }
        }
        match first_error {
            Some(error) => Err(error),
            None if acknowledged >= acknowledgements => Ok(()),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the kernel acknowledged {acknowledged} of {acknowledgements} messages"),
            )),
        }
    }

    /// Sends the one message of `request`, which asks for a list, and hands each
    /// entry to `entry`.
    pub(super) fn dump(
        &self,
        request: &Encoder,
        mut entry: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        send(&self.descriptor, request.as_bytes(), SendFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let length = match recv(&self.descriptor, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in messages(&buffer[..length]) {
                if message.sequence != request.last_sequence() {
                    continue;
                }
                match result_of(message) {
                    Some(result) => return result,
                    None => entry(message),
                }
            }
        }
    }
}

/// What a message that ends a request says; `None` for entries of a list.
fn result_of(message: Message<'_>) -> Option<io::Result<()>> {
    if !matches!(message.kind, KIND_ERROR | KIND_DONE) {
        return None;
    }
    let code = message.payload.first_chunk().copied();
    Some(match code.map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    })
}
