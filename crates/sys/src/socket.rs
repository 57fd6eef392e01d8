//! Messages with descriptors over Unix sockets.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors in one message.
pub const DESCRIPTORS_MAX: usize = 8;

/// What one call to [`receive`] brought.
#[derive(Debug)]
pub struct Received {
    /// How many bytes were written to the buffer; 0 when the other side has closed.
    pub bytes: usize,
    /// Descriptors that came along, closed by `execve`.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends `data` with copies of `descriptors`; how many bytes were taken, which
/// on a packet socket is all of them.
///
/// # Errors
/// The kernel's; `EINVAL` with more than [`DESCRIPTORS_MAX`] descriptors.
pub fn send(socket: impl AsFd, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(
            socket.as_fd(),
            &[IoSlice::new(data)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })
    .map_err(io::Error::from)
}

/// Receives one packet, or some bytes of a stream, into `buffer`.
///
/// # Errors
/// The kernel's; `InvalidData` when a packet or its descriptors did not fit.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    use rustix::net::ReturnFlags;
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Received {
        bytes: message.bytes,
        descriptors,
    })
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn packets() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_descriptor_arrives_and_is_the_same_file() {
        let (left, right) = packets();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(send(&left, b"one", &[file.as_fd()]).unwrap(), 3);
        let mut buffer = [0; 16];
        let received = receive(&right, &mut buffer).unwrap();
        assert_eq!(&buffer[..received.bytes], b"one");
        let [copy] = received.descriptors.as_slice() else {
            panic!("{:?}", received.descriptors)
        };
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(inode(copy.as_fd()), inode(file.as_fd()));
        drop(left);
        assert_eq!(receive(&right, &mut buffer).unwrap().bytes, 0);
    }

    #[test]
    fn a_packet_that_does_not_fit_is_an_error() {
        let (left, right) = packets();
        send(&left, b"longer than the buffer", &[]).unwrap();
        let error = receive(&right, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
