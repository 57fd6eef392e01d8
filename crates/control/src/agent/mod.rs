//! The client of the agent inside a sandbox.
//!
//! Each operation is one conversation on a connection of its own, taken from a
//! small pool of idle ones. The agent shares its sandbox with hostile code, so
//! everything that it sends is bounded and checked ([`conversation`],
//! [`bounds`]) and whatever does not fit its request ends the operation.
//! Dropping an operation closes its connection, by which the agent cancels it.
//! Nothing is buffered beyond one frame: who reads slowly is sent to slowly.

mod bounds;
mod conversation;
mod files;
mod pool;
mod port;
mod requests;
mod session;
mod work;

use std::time::Duration;

use agent_protocol::{Failure, FailureKind, frame::FrameError};
use sandbox::{Error, Kind};

pub(crate) use pool::Pool;
pub(crate) use session::Session;

/// How long a connection to an agent may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the agent may take to answer a request that does not run anything.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a transfer of a file may stand still on the agent's side.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a transfer of a file may wait for the caller's next piece.
const CONTENT_TIME_MAX: Duration = Duration::from_secs(60);
/// How long an operation goes on reading after its sandbox has ended.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(1);
/// How long an error waits for the owner to learn why its sandbox ended.
const REASON_TIME_MAX: Duration = Duration::from_secs(2);
/// Characters of a message by the agent that are passed on.
const MESSAGE_CHARS_MAX: usize = 2000;

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// No connection.
    #[error("no connection to the agent: {0}")]
    Connect(Error),
    /// The other side closed the stream in the middle.
    #[error("the agent closed the connection")]
    Closed,
    /// The stream broke.
    #[error("the connection to the agent broke: {0}")]
    Broken(std::io::Error),
    /// What came is not a frame of the protocol.
    #[error("the agent does not keep to the protocol: {0}")]
    Frame(FrameError),
    /// A message that would take far more memory than it has bytes.
    #[error("the agent does not keep to the protocol: a message has {0}")]
    Oversized(&'static str),
    /// A frame that does not fit the request.
    #[error("the agent does not keep to the protocol: {0}")]
    Unexpected(&'static str),
    /// Nothing came.
    #[error("the agent did not answer within {0:?}")]
    Silent(Duration),
    /// The request cannot be sent.
    #[error("the request is too large to be sent to the agent: {0}")]
    Request(FrameError),
    /// The caller's input broke.
    #[error("{0}")]
    Input(Error),
    /// The caller's input stood still.
    #[error("no content came for {0:?}")]
    InputSilent(Duration),
}

impl AgentError {
    /// How long it is worth waiting for the end of the sandbox to explain this;
    /// `None` when it could not.
    fn reason_time_max(&self) -> Option<Duration> {
        match self {
            Self::Connect(_) | Self::Closed | Self::Broken(_) => Some(REASON_TIME_MAX),
            Self::Silent(_) => Some(Duration::ZERO),
            _ => None,
        }
    }
}

/// The error for the world of a refusal by the agent.
fn refusal(failure: Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::NotFound => Kind::NotFound,
        FailureKind::AlreadyExists => Kind::AlreadyExists,
        FailureKind::PermissionDenied => Kind::Forbidden,
        FailureKind::InvalidRequest => Kind::InvalidRequest,
        FailureKind::LimitReached => Kind::LimitReached,
        FailureKind::Timeout => Kind::Timeout,
        // The image is not in a state that allows this; the message says what to install.
        FailureKind::Missing => Kind::Conflict,
        FailureKind::Internal => Kind::Internal,
    };
    let cleaned = |c: char| if c.is_control() { ' ' } else { c };
    let message: String = failure
        .message
        .chars()
        .take(MESSAGE_CHARS_MAX)
        .map(cleaned)
        .collect();
    Error::new(kind, message)
}
