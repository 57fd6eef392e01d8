//! The two sides of a server that stands in front of a real Daytona.

/// Where a sandbox is, and who has answered; an extension of responses that
/// came from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// This server.
    SandboxAi,
    /// The upstream.
    Daytona,
}

impl Side {
    /// The word for it in JSON, in labels of metrics and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SandboxAi => "sandboxai",
            Self::Daytona => "daytona",
        }
    }
}
