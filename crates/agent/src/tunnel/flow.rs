//! One direction of a connection.

use std::os::fd::OwnedFd;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};

/// Bytes moved at once, and held at most.
pub(super) const PIECE_BYTES: usize = 32 << 10;

/// How many pieces one direction may move before others have their turn.
const PIECES_MAX: usize = 8;

/// Bytes on their way in one direction.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// What was read and not yet accepted.
    rest: Vec<u8>,
    taken: usize,
    /// The end was read.
    has_ended: bool,
    /// The end was passed on.
    is_closed: bool,
}

/// How far it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nothing more can move at the moment.
    All,
    /// It was stopped in favour of others.
    Some,
}

/// Which side cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Reader(Errno),
    Writer,
}

impl Flow {
    /// Whether the end was passed on, or nobody wants it.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed
    }

    /// Nothing more is moved.
    pub(super) fn abandon(&mut self) {
        self.rest = Vec::new();
        self.has_ended = true;
        self.is_closed = true;
    }

    /// Moves what can be moved.
    pub(super) fn pump(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        buffer: &mut [u8],
    ) -> Result<Moved, Lost> {
        for _ in 0..PIECES_MAX {
            if !self.send_rest(to)? {
                return Ok(Moved::All);
            }
            if self.has_ended {
                self.close(to);
                return Ok(Moved::All);
            }
            match recv(from, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.has_ended = true,
                Ok((count, _)) => {
                    let sent = try_send(to, &buffer[..count])?;
                    self.rest.extend(&buffer[sent..count]);
                }
                Err(Errno::AGAIN) => return Ok(Moved::All),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Lost::Reader(error)),
            }
        }
        Ok(Moved::Some)
    }

    /// Whether nothing is left of what was read before.
    fn send_rest(&mut self, to: &OwnedFd) -> Result<bool, Lost> {
        while self.taken < self.rest.len() {
            let sent = try_send(to, &self.rest[self.taken..])?;
            if sent == 0 {
                return Ok(false);
            }
            self.taken += sent;
        }
        // Memory only where something is held up.
        (self.rest, self.taken) = (Vec::new(), 0);
        Ok(true)
    }

    fn close(&mut self, to: &OwnedFd) {
        if !self.is_closed {
            // Fails only when the other side has closed already.
            let _ = shutdown(to, Shutdown::Write);
            self.is_closed = true;
        }
    }
}

/// Sends what is accepted at once.
fn try_send(to: &OwnedFd, bytes: &[u8]) -> Result<usize, Lost> {
    loop {
        match send(to, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => return Ok(sent),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            Err(_) => return Err(Lost::Writer),
        }
    }
}

/// Whether the other side of a unix socket takes nothing any more.
pub(super) fn is_gone(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let ready = poll(&mut polled, Some(&Timespec::default()));
    ready.is_ok() && polled[0].revents().intersects(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    }

    #[test]
    fn what_is_not_taken_is_held_once_and_nothing_more_is_read() {
        let ((source, from), (to, sink)) = (pair(), pair());
        let (mut flow, mut buffer) = (Flow::default(), vec![0; PIECE_BYTES]);
        let (mut sent, mut received) = (0, 0);
        let mut scrap = vec![7; 64 << 10];
        while let Ok(count) = send(&source, &scrap, SendFlags::NOSIGNAL) {
            sent += count;
        }
        drop(source);
        while !flow.is_over() {
            while flow.pump(&from, &to, &mut buffer) == Ok(Moved::Some) {}
            assert!(flow.rest.len() <= PIECE_BYTES);
            while let Ok((count @ 1.., _)) = recv(&sink, &mut *scrap, RecvFlags::empty()) {
                received += count;
            }
        }
        while let Ok((count @ 1.., _)) = recv(&sink, &mut *scrap, RecvFlags::empty()) {
            received += count;
        }
        assert_eq!(received, sent);
        assert_eq!(recv(&sink, &mut *scrap, RecvFlags::empty()).unwrap().0, 0);
    }

    #[test]
    fn a_lost_side_is_told() {
        let ((source, from), (to, sink)) = (pair(), pair());
        let (mut flow, mut buffer) = (Flow::default(), vec![0; PIECE_BYTES]);
        assert!(!is_gone(&to));
        drop(sink);
        assert!(is_gone(&to));
        send(&source, b"x", SendFlags::NOSIGNAL).unwrap();
        assert_eq!(flow.pump(&from, &to, &mut buffer), Err(Lost::Writer));
        flow.abandon();
        assert!(flow.is_over());
    }
}
