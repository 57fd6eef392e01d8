//! Running git.

use std::{collections::BTreeMap, time::Duration};

use axum::http::StatusCode;
use bytes::Bytes;
use control::{Command, End, Exec, PieceStream, collect};
use futures_util::stream;
use sandbox::Kind;

use super::{credentials::Access, error};
use crate::{
    error::{ApiError, ApiResult},
    target::Target,
    toolbox::process::user,
};

/// How long a command may take that works on the repository alone.
const LOCAL_TIME_MAX: Duration = Duration::from_secs(120);
/// How long a command may take that talks to another repository.
const TRANSFER_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// What git may say in answer to one request, bytes.
const OUTPUT_BYTES_MAX: usize = 32 << 20;

/// A command of git.
#[derive(Debug)]
pub(super) struct Git<'a> {
    target: &'a Target,
    /// What comes before the command's name.
    options: Vec<String>,
    env: BTreeMap<String, String>,
    input: Option<Bytes>,
    time_max: Duration,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl<'a> Git<'a> {
    /// Git, in the sandbox's working directory.
    pub(super) fn new(target: &'a Target) -> Self {
        // Its messages are compared with known ones; nobody could answer a prompt.
        let env = [
            ("LC_ALL", "C"),
            ("LANGUAGE", ""),
            ("GIT_TERMINAL_PROMPT", "0"),
        ];
        Self {
            target,
            // All of the sandbox belongs to its caller, whoever owns the files.
            options: vec!["-c".to_owned(), "safe.directory=*".to_owned()],
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            input: None,
            time_max: LOCAL_TIME_MAX,
        }
    }

    /// Git, in a repository.
    pub(super) fn at(target: &'a Target, path: &str) -> ApiResult<Self> {
        if path.is_empty() {
            return Err(ApiError::bad_request("`path` of the repository is empty"));
        }
        let mut git = Self::new(target);
        git.options.extend(["-C".to_owned(), path.to_owned()]);
        Ok(git)
    }

    /// With a variable in its environment.
    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With a configuration of its own.
    pub(super) fn option(mut self, option: &str) -> Self {
        self.options.extend(["-c".to_owned(), option.to_owned()]);
        self
    }

    /// With input.
    pub(super) fn input(mut self, input: impl Into<Bytes>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// For a command that talks to another repository, with what opens it.
    pub(super) fn transfer(mut self, access: Option<&Access>) -> Self {
        self.time_max = TRANSFER_TIME_MAX;
        match access {
            Some(access) => access.give(self),
            None => self,
        }
    }

    /// Runs a command that must succeed; its output.
    pub(super) async fn run<S: Into<String>>(
        self,
        arguments: impl IntoIterator<Item = S>,
    ) -> ApiResult<Vec<u8>> {
        let said = self.ask(arguments).await?;
        match said.code {
            0 => Ok(said.stdout),
            _ => Err(error::failed(&said)),
        }
    }

    /// Runs a command that may fail.
    pub(super) async fn ask<S: Into<String>>(
        self,
        arguments: impl IntoIterator<Item = S>,
    ) -> ApiResult<Said> {
        let mut argv = vec!["git".to_owned()];
        argv.extend(self.options);
        argv.extend(arguments.into_iter().map(Into::into));
        let exec = Exec {
            command: Command::Argv(argv),
            env: self.env,
            timeout_ms: u64::try_from(self.time_max.as_millis()).ok(),
            user: user(self.target),
            ..Exec::default()
        };
        let input = self
            .input
            .map(|input| -> PieceStream<Bytes> { Box::pin(stream::once(async { Ok(input) })) });
        let target = self.target;
        let pieces = target
            .control
            .exec(target.space(), target.name(), exec, input)
            .await?;
        let collected = collect(pieces, OUTPUT_BYTES_MAX).await.map_err(unstarted)?;
        let End::Exited(exit) = collected.end else {
            return Err(sandbox::Error::internal("git ended without an exit code").into());
        };
        if exit.timed_out {
            let message = format!("git took longer than {:?} and was ended", self.time_max);
            return Err(sandbox::Error::timeout(message).into());
        }
        if collected.stdout.omitted_bytes > 0 {
            return Err(ApiError::bad_request(format!(
                "the answer of git is over the limit of {OUTPUT_BYTES_MAX} bytes"
            )));
        }
        Ok(Said {
            code: exit.code,
            stdout: collected.stdout.bytes,
            stderr: collected.stderr.to_text(),
        })
    }
}

/// The error of a command that did not start.
fn unstarted(error: sandbox::Error) -> ApiError {
    let is_missing = error.message.starts_with("git: not found");
    if is_missing
        && matches!(
            error.kind,
            Kind::NotFound | Kind::InvalidRequest | Kind::Conflict
        )
    {
        return ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the image has no git program; install it in the sandbox (`apt-get update && apt-get install -y git`), or use an image that has it",
        );
    }
    error.into()
}

/// A revision, branch, remote or file that git must not take for an option.
pub(super) fn name<'a>(field: &str, text: &'a str) -> ApiResult<&'a str> {
    if text.is_empty() {
        return Err(ApiError::bad_request(format!("field `{field}` is empty")));
    }
    if text.starts_with('-') || text.chars().any(|c| c.is_control()) {
        return Err(ApiError::bad_request(format!(
            "field `{field}`: {text:?} must not begin with `-` nor have control characters in it"
        )));
    }
    Ok(text)
}

/// A field that is absent when it is empty.
pub(super) fn given(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// One line of output.
pub(super) fn line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_options() {
        assert_eq!(name("branch", "feature/ü").unwrap(), "feature/ü");
        for wrong in ["", "--upload-pack=x", "-b", "a\nb"] {
            assert_eq!(name("branch", wrong).unwrap_err().status.as_u16(), 400);
        }
    }

    #[test]
    fn an_image_without_git_is_told_as_that() {
        let error = unstarted(sandbox::Error::not_found(
            "git: not found; give a path, or install it (PATH is /bin)",
        ));
        assert_eq!(error.status.as_u16(), 422);
        assert!(error.message.contains("apt-get install -y git"));
        assert_eq!(unstarted(sandbox::Error::lost("gone")).status.as_u16(), 410);
    }
}
