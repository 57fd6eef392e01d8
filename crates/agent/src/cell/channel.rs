//! The socket between the agent and the driver in a kernel process.
//!
//! The driver shares its process with hostile code, so every message is bounded
//! and checked, and nothing here waits: the caller polls. The form of messages
//! is described in `driver.py`.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};
use serde::{Deserialize, de::IgnoredAny};

const HEADER_BYTES: usize = 5;

/// Longest message of the driver; it leaves out representations to stay below.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Of messages longer than this only one is in memory at a time, in the whole
/// agent: its memory is small, and there may be many kernels.
const LARGE_BYTES: usize = 256 << 10;

/// How much is read at once: what is announced but not sent costs nothing.
const READ_BYTES: usize = 64 << 10;

/// Deepest nesting of JSON that is passed on. The driver stays below.
const JSON_DEPTH_MAX: usize = 40;

/// Whether a large message is in memory.
static LARGE_TAKEN: AtomicBool = AtomicBool::new(false);

/// What the agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// Run a cell.
    Run = b'r',
    /// The display was passed on.
    Acknowledge = b'a',
    /// Answer when all signals sent so far were seen.
    Synchronize = b's',
}

/// What the driver says.
#[derive(Debug)]
pub(super) enum Message {
    /// It can run cells.
    Ready,
    /// IPython is not installed.
    IPythonMissing,
    /// It cannot start, for this reason.
    Failed(String),
    /// All signals sent so far were seen.
    Synchronized,
    /// Something to display.
    Display(Display),
    /// The cell ended.
    Ended(Ended),
}

/// A MIME bundle, checked to be a JSON object but not taken apart.
#[derive(Debug)]
pub(super) struct Display {
    message: Vec<u8>,
    /// Whether it is the value of the last expression.
    pub(super) is_result: bool,
    /// Whether the driver waits for [`Order::Acknowledge`].
    pub(super) wants_acknowledge: bool,
    /// Held until the bytes are gone.
    pub(super) permit: Option<LargePermit>,
}

impl Display {
    /// The bundle as JSON.
    pub(super) fn json(&self) -> &[u8] {
        &self.message[HEADER_BYTES + 1..]
    }
}

/// How a cell ended, as the driver tells.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Ended {
    /// Name of the exception, if there was one.
    pub(super) name: Option<String>,
    /// Its text.
    pub(super) value: Option<String>,
    /// Its traceback as printed.
    pub(super) traceback: Vec<String>,
}

/// Why the channel cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// The driver's end is closed.
    #[error("it was closed")]
    Closed,
    /// The socket failed.
    #[error("it failed: {0}")]
    Socket(#[from] Errno),
    /// A message over the limit was announced.
    #[error("a message of {0} bytes came, {MESSAGE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A message makes no sense.
    #[error("a malformed message came")]
    Malformed,
}

/// The right to hold a large message in memory.
#[derive(Debug)]
pub(super) struct LargePermit(());

impl LargePermit {
    fn take() -> Option<Self> {
        let taken = LARGE_TAKEN.swap(true, Ordering::Acquire);
        (!taken).then_some(Self(()))
    }
}

impl Drop for LargePermit {
    fn drop(&mut self) {
        LARGE_TAKEN.store(false, Ordering::Release);
    }
}

/// The agent's end.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
    /// The beginning of the next message.
    incoming: Vec<u8>,
    permit: Option<LargePermit>,
    /// A large message is announced, and another one is in memory.
    blocked: bool,
    outgoing: Vec<u8>,
    sent: usize,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    /// Both ends; the second is the driver's.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let channel = Self {
            socket: ours,
            incoming: Vec::new(),
            permit: None,
            blocked: false,
            outgoing: Vec::new(),
            sent: 0,
        };
        Ok((channel, theirs))
    }

    /// Adds a message to what is to be sent, and sends what can be sent now.
    pub(super) fn order(&mut self, order: Order, body: &[u8]) -> Result<(), ChannelError> {
        let length = u32::try_from(body.len()).expect("requests are far below 4 GiB");
        self.outgoing.extend(length.to_le_bytes());
        self.outgoing.push(order as u8);
        self.outgoing.extend(body);
        self.flush()
    }

    /// Whether there is something to send.
    pub(super) fn wants_to_send(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether to try again soon instead of waiting for the socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Sends what can be sent now.
    pub(super) fn flush(&mut self) -> Result<(), ChannelError> {
        while self.sent < self.outgoing.len() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&self.socket, &self.outgoing[self.sent..], flags) {
                Ok(sent) => self.sent += sent,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        // A long cell's code is not kept.
        self.outgoing = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// The next message, if it is there in full.
    pub(super) fn receive(&mut self) -> Result<Option<Message>, ChannelError> {
        loop {
            let length = match self.incoming.first_chunk::<HEADER_BYTES>() {
                Some(&[a, b, c, d, _]) => HEADER_BYTES + self.announced([a, b, c, d])?,
                None => HEADER_BYTES,
            };
            let missing = length - self.incoming.len();
            if missing == 0 {
                let permit = self.permit.take();
                return decode(std::mem::take(&mut self.incoming), permit).map(Some);
            }
            self.blocked = length > LARGE_BYTES && !self.may_be_large(length);
            if self.blocked || !self.read(missing.min(READ_BYTES))? {
                return Ok(None);
            }
        }
    }

    fn announced(&self, length: [u8; 4]) -> Result<usize, ChannelError> {
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            return Err(ChannelError::TooLong(length));
        }
        Ok(length)
    }

    fn may_be_large(&mut self, length: usize) -> bool {
        if self.permit.is_none() {
            self.permit = LargePermit::take();
            if self.permit.is_some() {
                self.incoming.reserve_exact(length - self.incoming.len());
            }
        }
        self.permit.is_some()
    }

    /// Reads at most `count` bytes; `false` when there are none.
    fn read(&mut self, count: usize) -> Result<bool, ChannelError> {
        let filled = self.incoming.len();
        self.incoming.resize(filled + count, 0);
        let received = recv(
            &self.socket,
            &mut self.incoming[filled..],
            RecvFlags::DONTWAIT,
        );
        let count = received.as_ref().map_or(0, |(count, _)| *count);
        self.incoming.truncate(filled + count);
        match received {
            Ok(_) if count > 0 => Ok(true),
            Ok(_) | Err(Errno::CONNRESET) => Err(ChannelError::Closed),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// A whole message, header included.
fn decode(message: Vec<u8>, permit: Option<LargePermit>) -> Result<Message, ChannelError> {
    let (kind, body) = (message[HEADER_BYTES - 1], &message[HEADER_BYTES..]);
    Ok(match kind {
        b'r' => Message::Ready,
        b'm' => Message::IPythonMissing,
        b's' => Message::Synchronized,
        b'f' => Message::Failed(String::from_utf8_lossy(body).into_owned()),
        b'e' => Message::Ended(serde_json::from_slice(body).map_err(|_| ChannelError::Malformed)?),
        b'd' | b'v' => {
            let wants_acknowledge = match body.first() {
                Some(b'a') => true,
                Some(b'-') => false,
                _ => return Err(ChannelError::Malformed),
            };
            if !is_plain_object(&body[1..]) {
                return Err(ChannelError::Malformed);
            }
            Message::Display(Display {
                message,
                is_result: kind == b'v',
                wants_acknowledge,
                permit,
            })
        }
        _ => return Err(ChannelError::Malformed),
    })
}

/// Whether this is a JSON object that every reader takes: UTF-8, not deeply
/// nested (readers recurse), no escaped surrogates (they may be unpaired).
fn is_plain_object(json: &[u8]) -> bool {
    if std::str::from_utf8(json).is_err() || json.first() != Some(&b'{') {
        return false;
    }
    let (mut depth, mut in_string) = (0_usize, false);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match (in_string, byte) {
            (_, b'"') => in_string = !in_string,
            (true, b'\\') => {
                let rest = bytes.as_slice();
                if matches!(
                    rest,
                    [
                        b'u',
                        b'd' | b'D',
                        b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F',
                        ..,
                    ]
                ) {
                    return false;
                }
                bytes.next();
            }
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return false;
        }
    }
    serde_json::from_slice::<IgnoredAny>(json).is_ok()
}

#[cfg(test)]
mod tests;
