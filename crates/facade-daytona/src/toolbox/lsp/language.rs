//! Which program serves which language.

use std::time::Duration;

use axum::http::StatusCode;
use control::{Command, End, Exec, collect};

use crate::{
    error::{ApiError, ApiResult},
    target::Target,
    toolbox::process::user,
};

/// How long looking for a program may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(20);
/// A path, and what shells say before it.
const LOOK_BYTES_MAX: usize = 64 << 10;
/// Prints the first of its arguments that is a program.
const LOOK: &str = r#"for program; do command -v "$program" >/dev/null 2>&1 && echo "$program" && exit; done; exit 1"#;

/// A language that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Language {
    Python,
    TypeScript,
    JavaScript,
}

/// A program, with what makes it talk over its standard streams.
type Program = (&'static str, &'static [&'static str]);

const PYTHON: &[Program] = &[
    ("pyright-langserver", &["--stdio"]),
    ("basedpyright-langserver", &["--stdio"]),
    ("jedi-language-server", &[]),
    ("pylsp", &[]),
];
const TYPESCRIPT: &[Program] = &[("typescript-language-server", &["--stdio"])];

impl Language {
    /// From its name in the protocol.
    pub(super) fn named(name: &str) -> ApiResult<Self> {
        match name.to_ascii_lowercase().as_str() {
            "python" => Ok(Self::Python),
            "typescript" => Ok(Self::TypeScript),
            "javascript" => Ok(Self::JavaScript),
            _ => Err(ApiError::bad_request(format!(
                "field `languageId`: {name:?} is none of python, typescript and javascript"
            ))),
        }
    }

    /// Its name in the protocol.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::TypeScript => "typescript",
            Self::JavaScript => "javascript",
        }
    }

    /// What a file is written in.
    pub(super) fn of_file(self, path: &str) -> &'static str {
        match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("tsx") => "typescriptreact",
            Some("jsx") => "javascriptreact",
            Some("ts" | "mts" | "cts") => "typescript",
            Some("js" | "mjs" | "cjs") => "javascript",
            _ => self.name(),
        }
    }

    fn programs(self) -> &'static [Program] {
        match self {
            Self::Python => PYTHON,
            Self::TypeScript | Self::JavaScript => TYPESCRIPT,
        }
    }

    fn missing(self) -> ApiError {
        let (what, how) = match self {
            Self::Python => (
                "a Python language server",
                "`pip install python-lsp-server` (or `jedi-language-server`, or `npm install -g pyright`)",
            ),
            Self::TypeScript | Self::JavaScript => (
                "typescript-language-server",
                "`npm install -g typescript@5 typescript-language-server`",
            ),
        };
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!(
                "the image lacks {what}; run {how} in the sandbox, or use an image that has it"
            ),
        )
    }

    /// The command line of the first of its programs that the sandbox has.
    pub(super) async fn find(self, target: &Target) -> ApiResult<Vec<String>> {
        let programs = self.programs();
        let mut argv = ["sh", "-c", LOOK, "sh"].map(str::to_owned).to_vec();
        argv.extend(programs.iter().map(|(program, _)| (*program).to_owned()));
        let exec = Exec {
            command: Command::Argv(argv),
            timeout_ms: u64::try_from(LOOK_TIME_MAX.as_millis()).ok(),
            user: user(target),
            ..Exec::default()
        };
        let pieces = target
            .control
            .exec(target.space(), target.name(), exec, None)
            .await?;
        let found = collect(pieces, LOOK_BYTES_MAX).await?;
        if !matches!(&found.end, End::Exited(exit) if exit.code == 0) {
            return Err(self.missing());
        }
        let found = String::from_utf8_lossy(&found.stdout.bytes);
        let found = programs
            .iter()
            .find(|(program, _)| *program == found.trim());
        let (program, arguments) = found.ok_or_else(|| self.missing())?;
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        Ok([(*program).to_owned()]
            .into_iter()
            .chain(arguments)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_have_names_and_files() {
        for language in [Language::Python, Language::TypeScript, Language::JavaScript] {
            assert_eq!(Language::named(language.name()).unwrap(), language);
        }
        assert_eq!(Language::named("cobol").unwrap_err().status.as_u16(), 400);
        assert_eq!(Language::TypeScript.of_file("/a/b.tsx"), "typescriptreact");
        assert_eq!(Language::TypeScript.of_file("/a/b.mjs"), "javascript");
        assert_eq!(Language::Python.of_file("/a/b"), "python");
    }

    #[test]
    fn what_is_missing_is_told_with_its_remedy() {
        let message = Language::JavaScript.missing().message;
        assert!(message.contains("npm install -g typescript@5 typescript-language-server"));
        assert!(
            Language::Python
                .missing()
                .message
                .contains("pip install python-lsp-server")
        );
    }
}
