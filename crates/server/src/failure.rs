//! An error as the person at the terminal sees it.

use std::fmt;

use crate::exit_code::ExitCode;

/// What went wrong, what to do about it, and how the program ends.
#[derive(Debug)]
pub struct Failure {
    /// What was wrong, with what.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// How the program ends.
    pub code: ExitCode,
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code,
        }
    }

    /// A failure of the general kind.
    #[must_use]
    pub fn general(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Failure, message)
    }

    /// A wrong command line or configuration.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, message)
    }

    /// The same with what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with another exit code.
    #[must_use]
    pub fn with_code(mut self, code: ExitCode) -> Self {
        self.code = code;
        self
    }

    /// For `map_err`: a general failure to do `action`.
    pub fn to<E: fmt::Display>(action: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self::general(format!("{action}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl From<sandbox::Error> for Failure {
    fn from(error: sandbox::Error) -> Self {
        let code = match error.kind {
            sandbox::Kind::NotFound => ExitCode::NotFound,
            _ => ExitCode::Failure,
        };
        let mut message = error.message;
        let mut source = error
            .source
            .as_deref()
            .map(|source| source as &dyn std::error::Error);
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(code, message)
    }
}

impl From<crate::config::Problems> for Failure {
    fn from(problems: crate::config::Problems) -> Self {
        Self::usage(problems.to_string())
    }
}
