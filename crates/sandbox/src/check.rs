//! One thing that was looked at on a host, and how it is.

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// All is well.
    Pass,
    /// Sandboxes work, with less.
    Warn,
    /// Sandboxes do not work.
    Fail,
}

impl Status {
    /// The word for people and for JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
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

impl Check {
    /// A check without a fix.
    #[must_use]
    pub fn new(name: &str, status: Status, finding: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status,
            finding: finding.into(),
            fix: None,
        }
    }

    /// One with which all is well.
    #[must_use]
    pub fn pass(name: &str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Pass, finding)
    }

    /// One with which sandboxes work, with less.
    #[must_use]
    pub fn warn(name: &str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Warn, finding)
    }

    /// One with which sandboxes do not work.
    #[must_use]
    pub fn fail(name: &str, finding: impl Into<String>) -> Self {
        Self::new(name, Status::Fail, finding)
    }

    /// The same with what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}
