//! Code that is run in a fresh process: Python, JavaScript, TypeScript.
//!
//! The code comes by standard input, which has no bound on its length, and is
//! at its end for the code itself. Python runs below a wrapper of ours
//! (`wrapper.py`) that merges the outputs and tells of charts by what would be
//! standard error, so that nothing printed can be mistaken for a chart.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use bytes::Bytes;
use control::{Command, Exec, PieceStream};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    execute::{self, start_directory, timeout_ms},
    user,
};
use crate::{
    Facade,
    error::{ApiError, ApiResult},
    extract::JsonBody,
    target::Target,
    version::SdkVersion,
};

/// Runs Python code below the wrapper, which is the first argument.
const PYTHON: &str = include_str!("python.sh");
/// Runs JavaScript.
const JAVASCRIPT: &str = include_str!("javascript.sh");
/// Runs TypeScript by what there is for it.
const TYPESCRIPT: &str = include_str!("typescript.sh");
/// Around Python code.
const WRAPPER: &str = include_str!("wrapper.py");

/// How a line begins that tells of a chart.
const CHART_LINE_PREFIX: &[u8] = b"chart:";

/// The label that tells the language of a sandbox.
const LANGUAGE_LABEL: &str = "code-toolbox-language";

/// The body of `POST /process/code-run`.
#[derive(Debug, Deserialize)]
pub(super) struct CodeRunRequest {
    code: String,
    #[serde(default)]
    language: Option<String>,
    #[serde(default)]
    argv: Option<Vec<String>>,
    #[serde(default)]
    envs: Option<BTreeMap<String, String>>,
    /// As some clients write it.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// Seconds.
    #[serde(default)]
    timeout: Option<f64>,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CodeRunResponse {
    exit_code: i32,
    code: i32,
    result: String,
    artifacts: Artifacts,
}

/// What the code made besides text.
#[derive(Debug, Default, Serialize)]
struct Artifacts {
    /// As the wrapper tells them; their fields are those of the SDKs' charts.
    charts: Vec<Value>,
}

/// What code is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    JavaScript,
    TypeScript,
}

impl Language {
    fn of(name: &str) -> ApiResult<Self> {
        match name.to_ascii_lowercase().as_str() {
            "" | "python" | "python3" => Ok(Self::Python),
            "javascript" | "js" => Ok(Self::JavaScript),
            "typescript" | "ts" => Ok(Self::TypeScript),
            _ => Err(ApiError::bad_request(format!(
                "field `language`: {name:?} is not served; use python, javascript or typescript, or run its program by exec"
            ))),
        }
    }

    fn command(self, argv: Vec<String>) -> Command {
        let (script, first) = match self {
            Self::Python => (PYTHON, WRAPPER),
            Self::JavaScript => (JAVASCRIPT, "sh"),
            Self::TypeScript => (TYPESCRIPT, "sh"),
        };
        let mut all = ["/bin/sh", "-c", script, first].map(str::to_owned).to_vec();
        all.extend(argv);
        Command::Argv(all)
    }
}

/// `POST /process/code-run`.
pub(super) async fn code_run(
    State(facade): State<Facade>,
    target: Target,
    version: SdkVersion,
    JsonBody(request): JsonBody<CodeRunRequest>,
) -> ApiResult<Json<CodeRunResponse>> {
    let labelled = target.sandbox.labels.get(LANGUAGE_LABEL).cloned();
    let language = Language::of(&request.language.or(labelled).unwrap_or_default())?;
    let exec = Exec {
        command: language.command(request.argv.unwrap_or_default()),
        env: request.envs.or(request.env).unwrap_or_default(),
        cwd: start_directory(&target, version, None).await?,
        timeout_ms: timeout_ms(request.timeout, facade.config.exec_timeout_default)?,
        merge_output: language != Language::Python,
        user: user(&target),
        ..Exec::default()
    };
    let stdin: PieceStream<Bytes> = Box::pin(stream::iter([Ok(Bytes::from(request.code))]));
    let outcome = execute::run(&facade, &target, exec, Some(stdin)).await?;
    let (charts, other) = charts(&outcome.stderr);
    Ok(Json(CodeRunResponse {
        exit_code: outcome.exit_code,
        code: outcome.exit_code,
        result: outcome.stdout + &other,
        artifacts: Artifacts { charts },
    }))
}

/// The charts that the wrapper told of, and what else was said there, e.g. that
/// there is no Python.
fn charts(told: &[u8]) -> (Vec<Value>, String) {
    let mut charts = Vec::new();
    let mut other = Vec::new();
    for line in told.split_inclusive(|byte| *byte == b'\n') {
        let Some(json) = line.strip_prefix(CHART_LINE_PREFIX) else {
            other.extend_from_slice(line);
            continue;
        };
        // What is no whole chart was torn when the code was killed.
        charts.extend(serde_json::from_slice(json).ok().filter(Value::is_object));
    }
    (charts, String::from_utf8_lossy(&other).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_told_apart_from_what_else_is_said() {
        let told = b"chart:{\"type\":\"line\"}\nno python\nchart:torn\nchart:{\"type\":\"pie\"}\n";
        let (charts, other) = charts(told);
        let types: Vec<&Value> = charts.iter().map(|chart| &chart["type"]).collect();
        assert_eq!(types, ["line", "pie"]);
        assert_eq!(other, "no python\n");
    }

    #[test]
    fn languages_have_their_programs() {
        assert_eq!(Language::of("").unwrap(), Language::Python);
        assert_eq!(Language::of("TypeScript").unwrap(), Language::TypeScript);
        assert!(Language::of("cobol").unwrap_err().message.contains("cobol"));
        let Command::Argv(argv) = Language::Python.command(vec!["a".to_owned()]) else {
            panic!("no argument vector")
        };
        assert_eq!((argv[3].as_str(), argv[4].as_str()), (WRAPPER, "a"));
    }
}
