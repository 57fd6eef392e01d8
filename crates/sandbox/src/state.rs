//! The states of a sandbox, and why one ends.

use std::fmt;

/// Where a sandbox is in its life. `Gone` and `Failed` are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Being made.
    Creating,
    /// Ready for work.
    Running,
    /// Frozen; its processes exist but do not run.
    Paused,
    /// Its processes are being ended; its files are kept or removed.
    Stopping,
    /// Its processes are gone, its files are kept.
    Stopped,
    /// Being started again from its kept files.
    Starting,
    /// Its files are being packed.
    Archiving,
    /// Its files are packed and take little space.
    Archived,
    /// Its files are being unpacked; it is started then.
    Restoring,
    /// Nothing of it is left but its tombstone.
    Gone,
    /// It could not be made; nothing of it is left but its tombstone.
    Failed,
}

impl State {
    /// The state in lower case, e.g. `running`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Archiving => "archiving",
            Self::Archived => "archived",
            Self::Restoring => "restoring",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing can follow.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Gone | Self::Failed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a sandbox ended; kept as its tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Somebody asked for it.
    Deleted,
    /// No operation for as long as its lease allows.
    Idle,
    /// Its maximum lifetime passed.
    LifetimeOver,
    /// The kernel killed its first process for lack of memory.
    OutOfMemory,
    /// Its agent stopped answering or exited; the text says how.
    AgentLost(String),
    /// It never became ready; the text says which step failed and why.
    FailedToStart(String),
    /// The host was restarted underneath it.
    HostRestarted,
    /// Its server was shut down with "delete on shutdown".
    Shutdown,
    /// It was stopped, and its lease ends what is stopped, at once or later.
    Stopped,
}

impl EndReason {
    /// The reason as one word, e.g. `out_of_memory`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Idle => "idle",
            Self::LifetimeOver => "lifetime_over",
            Self::OutOfMemory => "out_of_memory",
            Self::AgentLost(_) => "agent_lost",
            Self::FailedToStart(_) => "failed_to_start",
            Self::HostRestarted => "host_restarted",
            Self::Shutdown => "shutdown",
            Self::Stopped => "stopped",
        }
    }

    /// What is known beyond the word.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::AgentLost(detail) | Self::FailedToStart(detail) => Some(detail),
            _ => None,
        }
    }

    /// The reason made again from its stored form.
    #[must_use]
    pub fn from_parts(word: &str, detail: Option<&str>) -> Option<Self> {
        let detail = || detail.unwrap_or_default().to_owned();
        Some(match word {
            "deleted" => Self::Deleted,
            "idle" => Self::Idle,
            "lifetime_over" => Self::LifetimeOver,
            "out_of_memory" => Self::OutOfMemory,
            "agent_lost" => Self::AgentLost(detail()),
            "failed_to_start" => Self::FailedToStart(detail()),
            "host_restarted" => Self::HostRestarted,
            "shutdown" => Self::Shutdown,
            "stopped" => Self::Stopped,
            _ => return None,
        })
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => f.write_str("it was deleted"),
            Self::Idle => f.write_str("it was idle for longer than its lease allows"),
            Self::LifetimeOver => f.write_str("its maximum lifetime was over"),
            Self::OutOfMemory => f.write_str("it ran out of memory"),
            Self::AgentLost(detail) => write!(f, "its agent was lost: {detail}"),
            Self::FailedToStart(detail) => write!(f, "it failed to start: {detail}"),
            Self::HostRestarted => f.write_str("the host was restarted"),
            Self::Shutdown => f.write_str("its server was shut down"),
            Self::Stopped => f.write_str("it was stopped, and its lease ends what is stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_reason_survives_storage() {
        for reason in [
            EndReason::Deleted,
            EndReason::Idle,
            EndReason::LifetimeOver,
            EndReason::OutOfMemory,
            EndReason::AgentLost("exit status 3".into()),
            EndReason::FailedToStart("mount overlay: EINVAL".into()),
            EndReason::HostRestarted,
            EndReason::Shutdown,
            EndReason::Stopped,
        ] {
            assert_eq!(
                Some(reason.clone()),
                EndReason::from_parts(reason.as_str(), reason.detail())
            );
        }
    }
}
