//! Which side a new sandbox goes to, and why.

use std::fmt;

use super::share::{Place, Share};
use crate::side::Side;

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) side: Side,
    pub(crate) reason: Reason,
}

/// Why a new sandbox goes to a side.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reason {
    /// By the place of its label.
    Place { place: Place, share: Share },
    /// Without a label, by turn.
    Turn { share: Share },
    /// It cannot be anywhere else.
    Only(String),
}

impl Choice {
    /// Here, since it cannot be anywhere else.
    pub(crate) fn only_here(why: impl Into<String>) -> Self {
        Self {
            side: Side::SandboxAi,
            reason: Reason::Only(why.into()),
        }
    }

    /// At the upstream, since it cannot be anywhere else.
    pub(crate) fn only_there(why: impl Into<String>) -> Self {
        Self {
            side: Side::Daytona,
            reason: Reason::Only(why.into()),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place { place, share } => write!(f, "place {place}, share {share}"),
            Self::Turn { share } => write!(f, "its turn, share {share}"),
            Self::Only(why) => f.write_str(why),
        }
    }
}
