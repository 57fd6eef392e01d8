//! Whoever asked for a cell, as the cell's execution sees it.
//!
//! Nothing waits here while the cell runs: what the client does not accept yet
//! is kept, and as long as something is, the execution takes nothing more from
//! the kernel. So a slow client slows the cell, but delays neither its timeout
//! nor an interrupt. While a cell is being ended, output that finds no room is
//! dropped, and the client is told.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use agent_protocol::{
    Reply,
    frame::{CHUNK_BYTES, FrameKind, HEADER_BYTES, Header, encode_message},
};
use rustix::event::{PollFd, PollFlags};

use super::{
    channel::{Display, LargePermit},
    poll_until,
};
use crate::connection::Connection;

/// How long the client may take to accept the end of a cell's output.
const FINISH_TIMEOUT: Duration = Duration::from_secs(120);

/// How much is kept for a client that does not read, while its cell is being ended.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// The client of one cell; see the module.
#[derive(Debug)]
pub(super) struct Client<'a> {
    connection: &'a mut Connection,
    pending: Vec<u8>,
    sent: usize,
    /// Of the large display in `pending`.
    permit: Option<LargePermit>,
    /// Whether output may be dropped, and how much was.
    may_lose: bool,
    lost_bytes: usize,
    failure: Option<io::Error>,
}

impl AsFd for Client<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(connection: &'a mut Connection) -> Self {
        Self {
            connection,
            pending: Vec::new(),
            sent: 0,
            permit: None,
            may_lose: false,
            lost_bytes: 0,
            failure: None,
        }
    }

    /// Whether it has not accepted everything yet.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether it has gone; from then on everything is thrown away.
    pub(super) fn is_gone(&self) -> bool {
        self.failure.is_some()
    }

    /// It closed the stream.
    pub(super) fn has_gone(&mut self) {
        self.fail(io::ErrorKind::ConnectionAborted.into());
    }

    fn fail(&mut self, error: io::Error) {
        self.failure = Some(error);
        self.pending = Vec::new();
        self.sent = 0;
        self.permit = None;
    }

    /// From now on, output that finds no room is dropped.
    pub(super) fn may_lose(&mut self) {
        self.may_lose = true;
    }

    /// Whether so many bytes are to be thrown away.
    fn has_no_use_for(&mut self, bytes: usize) -> bool {
        let is_full = self.may_lose && self.pending.len() + bytes > PENDING_BYTES_MAX;
        if is_full {
            self.lost_bytes += bytes;
        }
        is_full || self.is_gone()
    }

    /// Passes output on.
    pub(super) fn output(&mut self, kind: FrameKind, bytes: &[u8]) {
        if self.has_no_use_for(bytes.len()) {
            return;
        }
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.pending.extend(Header::encode(kind, chunk.len()));
            self.pending.extend(chunk);
        }
        self.flush();
    }

    /// Passes a display on as [`Reply::Display`], its bundle as it came.
    pub(super) fn display(&mut self, display: Display) {
        if self.has_no_use_for(display.json().len()) {
            return;
        }
        let tail = format!(r#","is_result":{}}}"#, display.is_result);
        let head: &[u8] = br#"{"reply":"display","data":"#;
        let json = display.json();
        let length = head.len() + json.len() + tail.len();
        self.pending.reserve_exact(HEADER_BYTES + length);
        self.pending
            .extend(Header::encode(FrameKind::Message, length));
        self.pending.extend(head);
        self.pending.extend(json);
        self.pending.extend(tail.as_bytes());
        self.permit = display.permit.or(self.permit.take());
        self.flush();
    }

    /// Sends what it accepts now.
    pub(super) fn flush(&mut self) {
        while self.sent < self.pending.len() {
            match self.connection.send_some(&self.pending[self.sent..]) {
                Ok(0) => return,
                Ok(sent) => self.sent += sent,
                Err(error) => return self.fail(error),
            }
        }
        self.pending.clear();
        // What a large display needed is not kept for the rest of the cell.
        self.pending.shrink_to(CHUNK_BYTES);
        self.sent = 0;
        self.permit = None;
    }

    /// Sends the last message after everything else, waiting until it is accepted.
    ///
    /// # Errors
    /// When the client has gone or accepts nothing any more.
    pub(super) fn finish(mut self, reply: &Reply) -> io::Result<()> {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        if self.lost_bytes > 0 {
            let note = format!(
                "\n[{} bytes were dropped, because they were not read in time]\n",
                self.lost_bytes
            );
            self.may_lose = false;
            self.output(FrameKind::Output, note.as_bytes());
        }
        if !self.is_gone() {
            self.pending
                .extend(encode_message(reply).map_err(io::Error::other)?);
            self.flush();
        }
        while self.is_behind() {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut sources = [PollFd::new(&self, PollFlags::OUT)];
            poll_until(&mut sources, Some(deadline))?;
            self.flush();
        }
        self.failure.map_or(Ok(()), Err)
    }
}
