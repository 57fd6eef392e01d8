//! One byte stream from the server, as frames.
//!
//! The position inside a frame is part of the connection, so that input can be
//! taken in small pieces, and what is left of it when a request has ended early
//! is skipped before the next one.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use agent_protocol::{
    Failure, FailureKind, Reply, Request,
    frame::{CHUNK_BYTES, FrameKind, HEADER_BYTES, Header, decode_message, encode_message},
};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        RecvFlags, SendFlags, recv, send, sendmsg,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::exec::poll_until;

/// How long the server may take to accept what it asked for. It may be busy or
/// its own client slow; it closes the stream when it has lost interest.
const SEND_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the server may pause inside a frame.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the server may pause between two pieces of a file: its own client
/// may be slow or have stopped for a while.
const INPUT_TIMEOUT: Duration = Duration::from_secs(600);

/// Longest request: a long cell or command line.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// How many bytes of requests are in memory at once, on all connections.
const REQUESTS_BYTES_MAX: usize = 16 << 20;

/// Bytes of requests being read or decoded.
static REQUESTS_BYTES: AtomicUsize = AtomicUsize::new(0);

/// A connection; see the module.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    /// What is left of the payload of the current `Input` frame.
    input_left: usize,
}

/// A piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// So many bytes were put into the buffer.
    Bytes(usize),
    /// There is no more input in this request.
    End,
    /// Nothing at the moment.
    Later,
}

/// What came when a request was expected.
#[derive(Debug)]
pub(crate) enum Received {
    /// A request.
    Request(Request),
    /// A message that cannot be served; the connection stays usable.
    Refused(Failure),
    /// Only left-overs of an earlier request.
    Nothing,
    /// The server closed the stream.
    Closed,
}

/// Whether to wait for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until they come, within the connection's deadline.
    Yes,
    /// Take only what is there.
    No,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// A connection on a stream socket.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
        Ok(Self {
            socket,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            input_left: 0,
        })
    }

    /// The stream itself, for raw bytes that follow a reply. It does not block.
    pub(crate) fn into_stream(self) -> io::Result<OwnedFd> {
        rustix::io::ioctl_fionbio(&self.socket, true)?;
        Ok(self.socket)
    }

    /// Sends a message, waiting until it is accepted.
    pub(crate) fn send_message(&mut self, reply: &Reply) -> io::Result<()> {
        let bytes = encode_message(reply).map_err(io::Error::other)?;
        self.send_all(&[], &bytes)
    }

    /// Sends standard output or file content of any length, waiting until it is accepted.
    pub(crate) fn send_output(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_data(FrameKind::Output, bytes)
    }

    /// Sends standard error of any length, waiting until it is accepted.
    pub(crate) fn send_error(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_data(FrameKind::Error, bytes)
    }

    fn send_data(&mut self, kind: FrameKind, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.send_all(&Header::encode(kind, chunk.len()), chunk)?;
        }
        Ok(())
    }

    fn send_all(&mut self, mut header: &[u8], mut payload: &[u8]) -> io::Result<()> {
        while !header.is_empty() || !payload.is_empty() {
            let parts = [IoSlice::new(header), IoSlice::new(payload)];
            let sent = match sendmsg(
                &self.socket,
                &parts,
                &mut rustix::net::SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            ) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            let of_header = sent.min(header.len());
            header = &header[of_header..];
            payload = &payload[sent - of_header..];
        }
        Ok(())
    }

    /// Sends bytes that already are frames, waiting until they are accepted.
    pub(crate) fn send_raw(&mut self, frames: &[u8]) -> io::Result<()> {
        self.send_all(&[], frames)
    }

    /// Sends as much as is accepted at once; 0 when nothing is.
    pub(crate) fn send_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match send(
            &self.socket,
            bytes,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            result => Ok(result?),
        }
    }

    /// The next piece of the input that belongs to the current request.
    ///
    /// # Errors
    /// `UnexpectedEof` when the server closed the stream, `InvalidData` when
    /// something else came; the connection cannot be used any more.
    pub(crate) fn next_input(&mut self, buffer: &mut [u8], wait: Wait) -> io::Result<Input> {
        loop {
            if self.input_left > 0 {
                let length = buffer.len().min(self.input_left);
                let Some(received) = self.receive(&mut buffer[..length], wait)? else {
                    return Ok(Input::Later);
                };
                self.input_left -= received;
                return Ok(Input::Bytes(received));
            }
            let Some(header) = self.next_header(wait)? else {
                return Ok(Input::Later);
            };
            match header.kind {
                FrameKind::Input => self.input_left = header.payload_bytes,
                FrameKind::InputEnd if header.payload_bytes == 0 => return Ok(Input::End),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    /// For work that says nothing for long.
    ///
    /// # Errors
    /// `ConnectionAborted` when the server has closed the stream.
    pub(crate) fn check(&self) -> io::Result<()> {
        let mut polled = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        poll_until(&mut polled, Some(Instant::now()))?;
        match polled[0].revents().is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Waits until more of the input is there.
    ///
    /// # Errors
    /// `TimedOut` when the server pauses for too long.
    pub(crate) fn wait_for_input(&self) -> io::Result<()> {
        let deadline = Instant::now() + INPUT_TIMEOUT;
        let events = PollFlags::IN | PollFlags::RDHUP;
        let mut polled = [PollFd::new(&self.socket, events)];
        poll_until(&mut polled, Some(deadline))?;
        if polled[0].revents().is_empty() && Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// The next request. Input that an earlier request did not take is skipped.
    ///
    /// # Errors
    /// When the bytes are no frames; the connection cannot be used any more.
    pub(crate) fn next_request(&mut self) -> io::Result<Received> {
        let mut scrap = [0; 4096];
        loop {
            if self.input_left > 0 {
                let length = scrap.len().min(self.input_left);
                match self.receive(&mut scrap[..length], Wait::No)? {
                    Some(received) => self.input_left -= received,
                    None => return Ok(Received::Nothing),
                }
                continue;
            }
            let header = match self.next_header(Wait::No) {
                Ok(Some(header)) => header,
                Ok(None) => return Ok(Received::Nothing),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Received::Closed);
                }
                Err(error) => return Err(error),
            };
            match header.kind {
                FrameKind::Input => self.input_left = header.payload_bytes,
                FrameKind::InputEnd if header.payload_bytes == 0 => {}
                FrameKind::Message => return self.take_request(header.payload_bytes),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    fn take_request(&mut self, length: usize) -> io::Result<Received> {
        let Some(_reserved) = Reserved::new(length) else {
            // Skipped like input nobody wants.
            self.input_left = length;
            return Ok(Received::Refused(Failure {
                kind: FailureKind::LimitReached,
                message: format!(
                    "the request of {length} bytes is over the limit of {REQUEST_BYTES_MAX}, or too many large ones are under way"
                ),
            }));
        };
        let mut payload = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let received = self.receive(&mut payload[filled..], Wait::Yes)?;
            filled += received.unwrap_or(0);
        }
        Ok(match decode_message(&payload) {
            Ok(request) => Received::Request(request),
            Err(error) => Received::Refused(Failure {
                kind: FailureKind::InvalidRequest,
                message: format!("the agent does not understand this request: {error}"),
            }),
        })
    }

    /// A whole header, from the pieces that came.
    fn next_header(&mut self, wait: Wait) -> io::Result<Option<Header>> {
        while self.header_filled < HEADER_BYTES {
            let mut piece = [0; HEADER_BYTES];
            let length = HEADER_BYTES - self.header_filled;
            let Some(received) = self.receive(&mut piece[..length], wait)? else {
                return Ok(None);
            };
            self.header[self.header_filled..][..received].copy_from_slice(&piece[..received]);
            self.header_filled += received;
        }
        self.header_filled = 0;
        Header::decode(self.header)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Some bytes; `None` when there are none and `wait` says no.
    fn receive(&self, buffer: &mut [u8], wait: Wait) -> io::Result<Option<usize>> {
        let flags = match wait {
            Wait::Yes => RecvFlags::empty(),
            Wait::No => RecvFlags::DONTWAIT,
        };
        loop {
            return match recv(&self.socket, &mut *buffer, flags) {
                Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((received, _)) => Ok(Some(received)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) if wait == Wait::No => Ok(None),
                Err(Errno::AGAIN) => Err(io::ErrorKind::TimedOut.into()),
                Err(error) => Err(error.into()),
            };
        }
    }
}

/// A share of [`REQUESTS_BYTES_MAX`].
struct Reserved(usize);

impl Reserved {
    fn new(bytes: usize) -> Option<Self> {
        if bytes > REQUEST_BYTES_MAX {
            return None;
        }
        let before = REQUESTS_BYTES.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Self(bytes);
        (before + bytes <= REQUESTS_BYTES_MAX).then_some(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        REQUESTS_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
