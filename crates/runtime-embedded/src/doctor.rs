//! What this host can and cannot do for sandboxes, and what should not be there.

use crate::config::Config;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Pass,
    /// Sandboxes work, with less.
    Warn,
    /// Sandboxes do not work.
    Fail,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, in a few words.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub finding: String,
    /// What the operator can do about it.
    pub fix: Option<String>,
}

/// Something on the host that belongs to no known sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// What kind of thing, e.g. `control group`.
    pub kind: String,
    /// Which one.
    pub object: String,
}

/// Looks at everything that sandboxes need. Changes nothing.
#[must_use]
pub fn checks(config: &Config) -> Vec<Check> {
    let _ = config;
    Vec::new()
}

/// Looks for what belongs to no known sandbox. Changes nothing; what a running
/// server is just making or removing may appear.
#[must_use]
pub fn leaks(config: &Config) -> Vec<Leak> {
    let _ = config;
    Vec::new()
}
