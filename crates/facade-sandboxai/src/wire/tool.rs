//! The two tools: what they are asked.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use utoipa::ToSchema;

use super::check;
use crate::{FacadeConfig, error::ApiError};

/// A command to run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunShellCommandRequest {
    /// Run by `/bin/sh -c`.
    #[schema(example = "echo hello")]
    command: Option<String>,
    /// Instead of `command`: program and arguments, run without a shell.
    argv: Option<Vec<String>>,
    /// Tell `stdout` and `stderr` apart instead of one `output`.
    split_output: Option<bool>,
    /// Kill the command after so many seconds.
    timeout_s: Option<f64>,
    /// Working directory.
    cwd: Option<String>,
    /// Environment on top of the sandbox's.
    env: Option<BTreeMap<String, String>>,
    /// Its standard input; empty when absent.
    stdin: Option<String>,
    /// Keep at most so many bytes of each output: its beginning and its end.
    max_output_bytes: Option<usize>,
}

/// A command, ready to run.
#[derive(Debug)]
pub(crate) struct ShellRun {
    /// The operation.
    pub(crate) exec: control::Exec,
    /// What it reads.
    pub(crate) stdin: Option<String>,
    /// How much output to keep, bytes.
    pub(crate) output_bytes_max: usize,
}

impl RunShellCommandRequest {
    /// The operation that this asks for.
    pub(crate) fn into_run(self, config: &FacadeConfig) -> Result<ShellRun, ApiError> {
        Ok(ShellRun {
            exec: control::Exec {
                command: check::command(self.command, self.argv)?,
                env: check::environment("env", self.env)?,
                cwd: self.cwd.map(|cwd| check::path("cwd", cwd)).transpose()?,
                timeout_ms: Some(timeout_ms(self.timeout_s, config)?),
                merge_output: !self.split_output.unwrap_or(false),
                stdin: self.stdin.is_some(),
                ..control::Exec::default()
            },
            stdin: self.stdin,
            output_bytes_max: output_bytes_max(self.max_output_bytes, config)?,
        })
    }
}

/// A Python cell to run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunIPythonCellRequest {
    /// The code, with IPython's syntax.
    #[schema(example = "1 + 1")]
    code: String,
    /// Tell `stdout` and `stderr` apart instead of one `output`.
    split_output: Option<bool>,
    /// Interrupt the cell after so many seconds; the kernel stays usable.
    timeout_s: Option<f64>,
    /// Which kernel; each has a state of its own and starts on first use.
    #[schema(example = "default")]
    context: Option<String>,
    /// Environment variables while the cell runs.
    env: Option<BTreeMap<String, String>>,
    /// Keep at most so many bytes of each output: its beginning and its end.
    max_output_bytes: Option<usize>,
}

/// A cell, ready to run.
#[derive(Debug)]
pub(crate) struct CellRun {
    /// The operation.
    pub(crate) cell: control::Cell,
    /// How much output to keep, bytes.
    pub(crate) output_bytes_max: usize,
}

impl RunIPythonCellRequest {
    /// The operation that this asks for.
    pub(crate) fn into_run(self, config: &FacadeConfig) -> Result<CellRun, ApiError> {
        Ok(CellRun {
            cell: control::Cell {
                code: self.code,
                context: context(self.context)?,
                timeout_ms: Some(timeout_ms(self.timeout_s, config)?),
                merge_output: !self.split_output.unwrap_or(false),
                env: check::environment("env", self.env)?,
                ..control::Cell::default()
            },
            output_bytes_max: output_bytes_max(self.max_output_bytes, config)?,
        })
    }
}

/// A kernel.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelRequest {
    /// Which one; `default` when absent.
    #[schema(example = "default")]
    context: Option<String>,
}

impl KernelRequest {
    /// The name of the kernel.
    pub(crate) fn into_context(self) -> Result<String, ApiError> {
        context(self.context)
    }
}

/// The name of a kernel, `default` when absent.
fn context(name: Option<String>) -> Result<String, ApiError> {
    const CHARS_MAX: usize = 128;
    let name = name.unwrap_or_else(|| "default".to_owned());
    let length = name.chars().count();
    if length == 0 || length > CHARS_MAX || name.chars().any(char::is_control) {
        return Err(ApiError::field(
            "context",
            format_args!("is not 1 to {CHARS_MAX} printable characters"),
        ));
    }
    Ok(name)
}

fn timeout_ms(seconds: Option<f64>, config: &FacadeConfig) -> Result<u64, ApiError> {
    let max: Duration = config.run_timeout_max;
    let timeout = match seconds {
        Some(seconds) => check::seconds("timeout_s", seconds, max)?,
        None => max,
    };
    Ok(check::milliseconds(timeout))
}

fn output_bytes_max(wanted: Option<usize>, config: &FacadeConfig) -> Result<usize, ApiError> {
    let max = config.output_bytes_max;
    match wanted {
        Some(wanted) if wanted > max => Err(ApiError::field(
            "max_output_bytes",
            format_args!("{wanted} is over the limit of {max}; stream the output instead"),
        )),
        wanted => Ok(wanted.unwrap_or(max)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn requests_get_the_limits_of_the_configuration() {
        let config = FacadeConfig::default();
        let request = |json: Value| {
            serde_json::from_value::<RunShellCommandRequest>(json)
                .unwrap()
                .into_run(&config)
        };
        let run = request(json!({"command": "x", "split_output": null})).unwrap();
        assert_eq!(run.exec.timeout_ms, Some(86_400_000));
        assert_eq!(run.output_bytes_max, config.output_bytes_max);
        assert!(run.exec.merge_output && !run.exec.stdin);
        assert!(request(json!({"command": "x", "timeout_s": 86_401})).is_err());
        assert!(request(json!({"command": "x", "max_output_bytes": usize::MAX})).is_err());
        let run = request(json!({"command": "x", "timeout_s": 0.000_001, "stdin": ""})).unwrap();
        assert_eq!(run.exec.timeout_ms, Some(1));
        assert!(run.exec.stdin);
    }

    #[test]
    fn contexts_are_names() {
        assert_eq!(context(None).unwrap(), "default");
        for bad in [String::new(), "a\nb".into(), "x".repeat(129)] {
            assert!(context(Some(bad)).is_err());
        }
    }
}
