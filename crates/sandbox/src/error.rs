//! The one error that crosses crate borders.

use std::fmt;

/// Shorthand for results that cross crate borders.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a closed list that every facade maps exhaustively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The named thing does not exist (any more).
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request itself is wrong; the message names the field and the fix.
    InvalidRequest,
    /// No or wrong credentials.
    Unauthenticated,
    /// Valid credentials that may not do this.
    Forbidden,
    /// The thing exists but is in a state that does not allow this.
    Conflict,
    /// A configured limit is reached; the message names it.
    LimitReached,
    /// A deadline passed.
    Timeout,
    /// The caller went away or asked to stop.
    Cancelled,
    /// A part is not ready or overloaded; trying again later may help.
    Unavailable,
    /// The sandbox ended underneath the request; the message says why.
    SandboxLost,
    /// Our fault; details are in the log.
    Internal,
}

impl Kind {
    /// The kind as it appears in native answers, e.g. `not_found`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::InvalidRequest => "invalid_request",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Conflict => "conflict",
            Self::LimitReached => "limit_reached",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::SandboxLost => "sandbox_lost",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error with a public message and an optional internal cause.
///
/// The message is for the person who made the request: what was wrong, with
/// what, and what to do; lower case, without a full stop at the end. The source
/// is for the operator and is logged where the error is handled, never sent.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The class of the error.
    pub kind: Kind,
    /// The public message.
    pub message: String,
    /// What caused it, for the log.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),+ $(,)?) => {
        $( $(#[$doc])* #[must_use] pub fn $name(message: impl Into<String>) -> Self { Self::new(Kind::$kind, message) } )+
    };
}

impl Error {
    /// An error without a cause.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same error with its cause attached.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    constructors! {
        /// [`Kind::NotFound`].
        not_found => NotFound,
        /// [`Kind::AlreadyExists`].
        already_exists => AlreadyExists,
        /// [`Kind::InvalidRequest`].
        invalid => InvalidRequest,
        /// [`Kind::Conflict`].
        conflict => Conflict,
        /// [`Kind::LimitReached`].
        limit => LimitReached,
        /// [`Kind::Timeout`].
        timeout => Timeout,
        /// [`Kind::Cancelled`].
        cancelled => Cancelled,
        /// [`Kind::Unavailable`].
        unavailable => Unavailable,
        /// [`Kind::SandboxLost`].
        lost => SandboxLost,
        /// [`Kind::Internal`].
        internal => Internal,
    }
}
