//! What the tools answer, at once or streamed.

use control::{CellEnd, CellStatus, Collected, MimeBundle, Output};
use sandbox::Error;
use serde::Serialize;
use utoipa::ToSchema;

use super::check;

/// The exit code of a command that ran out of time, as of `timeout(1)`.
const TIMED_OUT_CODE: i32 = 124;

/// What was printed. `output` when not split, else `stdout` and `stderr`.
///
/// Bytes that are not UTF-8 are replaced in the text; the exact bytes are then
/// in the field with `_base64`, unless a part was left out anyway.
#[derive(Debug, Default)]
struct Printed {
    output: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
    output_base64: Option<String>,
    stdout_base64: Option<String>,
    stderr_base64: Option<String>,
    truncated: Option<Truncated>,
}

/// How much was left out of an answer because it was over its limits.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Truncated {
    /// Bytes left out in the middle of `output`.
    output_bytes: u64,
    /// Bytes left out in the middle of `stdout`.
    stdout_bytes: u64,
    /// Bytes left out in the middle of `stderr`.
    stderr_bytes: u64,
    /// Rich results left out at the end.
    results: u64,
}

impl Printed {
    fn new(split: bool, stdout: Output, stderr: Output, results_omitted: u64) -> Self {
        let mut omitted = Truncated {
            results: results_omitted,
            ..Truncated::default()
        };
        let mut printed = Self::default();
        if split {
            omitted.stdout_bytes = stdout.omitted_bytes;
            omitted.stderr_bytes = stderr.omitted_bytes;
            let (text, base64) = texts(stdout);
            (printed.stdout, printed.stdout_base64) = (Some(text), base64);
            let (text, base64) = texts(stderr);
            (printed.stderr, printed.stderr_base64) = (Some(text), base64);
        } else {
            omitted.output_bytes = stdout.omitted_bytes;
            let (text, base64) = texts(stdout);
            (printed.output, printed.output_base64) = (Some(text), base64);
        }
        printed.truncated = (omitted != Truncated::default()).then_some(omitted);
        printed
    }
}

/// An output as text, and as base64 when the text is not exact.
fn texts(output: Output) -> (String, Option<String>) {
    if output.omitted_bytes > 0 {
        return (output.to_text(), None);
    }
    match String::from_utf8(output.bytes) {
        Ok(text) => (text, None),
        Err(error) => (
            String::from_utf8_lossy(error.as_bytes()).into_owned(),
            Some(check::base64(error.as_bytes())),
        ),
    }
}

/// How a command ended and what it printed.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct RunShellCommandResult {
    /// Both outputs in the order they came; absent with `split_output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// Standard output; only with `split_output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    /// Standard error; only with `split_output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    /// The exact bytes of `output`, when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
    /// The exact bytes of `stdout`, when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    /// The exact bytes of `stderr`, when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
    /// The exit code; 128 plus the signal when a signal ended it, 124 when its time was over.
    exit_code: i32,
    /// The signal that ended it.
    signal: Option<i32>,
    /// It was killed because its time was over.
    timed_out: bool,
    /// The kernel killed something in the sandbox for lack of memory meanwhile.
    out_of_memory: bool,
    /// What was left out of the output, when something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<Truncated>,
}

impl RunShellCommandResult {
    /// The result of a command whose output was collected.
    pub(crate) fn collected(split: bool, collected: Collected) -> Result<Self, Error> {
        let control::End::Exited(exit) = collected.end else {
            return Err(wrong_end("a command"));
        };
        let printed = Printed::new(split, collected.stdout, collected.stderr, 0);
        Ok(Self {
            output: printed.output,
            stdout: printed.stdout,
            stderr: printed.stderr,
            output_base64: printed.output_base64,
            stdout_base64: printed.stdout_base64,
            stderr_base64: printed.stderr_base64,
            truncated: printed.truncated,
            ..Self::streamed(&exit)
        })
    }

    /// The result of a command whose output was streamed before.
    pub(crate) fn streamed(exit: &control::Exit) -> Self {
        Self {
            exit_code: exit_code(exit),
            signal: exit.signal,
            timed_out: exit.timed_out,
            out_of_memory: exit.out_of_memory,
            ..Self::default()
        }
    }
}

/// The exit code as the protocol tells it.
pub(super) fn exit_code(exit: &control::Exit) -> i32 {
    if exit.timed_out {
        TIMED_OUT_CODE
    } else {
        exit.code
    }
}

/// How a cell ended, what it printed and what it displayed.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct RunIPythonCellResult {
    /// Both outputs in the order they came; absent with `split_output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// Standard output; only with `split_output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    /// Standard error; only with `split_output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    /// The exact bytes of `output`, when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
    /// The exact bytes of `stdout`, when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    /// The exact bytes of `stderr`, when they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
    /// `ok`, `error`, `timed_out`, `interrupted` or `kernel_died`.
    #[schema(example = "ok")]
    status: &'static str,
    /// What went wrong; set for every status but `ok`.
    error: Option<CellError>,
    /// What the cell displayed and returned, in order; empty when it was streamed before.
    results: Vec<DisplayEvent>,
    /// What was left out of the answer, when something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<Truncated>,
}

/// Why a cell did not end well.
#[derive(Debug, Serialize, ToSchema)]
struct CellError {
    /// Name of the exception, e.g. `NameError`.
    name: String,
    /// Its text.
    value: String,
    /// The traceback as IPython prints it.
    traceback: Vec<String>,
}

impl RunIPythonCellResult {
    /// The result of a cell whose output was collected.
    pub(crate) fn collected(split: bool, collected: Collected) -> Result<Self, Error> {
        let control::End::CellEnded(end) = collected.end else {
            return Err(wrong_end("a cell"));
        };
        let printed = Printed::new(
            split,
            collected.stdout,
            collected.stderr,
            collected.displays_omitted,
        );
        let displays = collected.displays.into_iter();
        Ok(Self {
            output: printed.output,
            stdout: printed.stdout,
            stderr: printed.stderr,
            output_base64: printed.output_base64,
            stdout_base64: printed.stdout_base64,
            stderr_base64: printed.stderr_base64,
            truncated: printed.truncated,
            results: displays
                .map(|(data, is_result)| DisplayEvent { data, is_result })
                .collect(),
            ..Self::streamed(end)
        })
    }

    /// The result of a cell whose output was streamed before.
    pub(crate) fn streamed(end: CellEnd) -> Self {
        let (status, name, value) = match end.status {
            CellStatus::Ok => ("ok", "", ""),
            CellStatus::Error => ("error", "Error", ""),
            CellStatus::TimedOut => (
                "timed_out",
                "TimeoutError",
                "the cell's time was over; it was interrupted and the kernel is usable",
            ),
            CellStatus::Interrupted => (
                "interrupted",
                "KeyboardInterrupt",
                "the cell was interrupted; the kernel is usable",
            ),
            CellStatus::KernelDied => (
                "kernel_died",
                "KernelDied",
                "the kernel process died; its state is lost and the next cell starts a new one",
            ),
        };
        let error = (end.status != CellStatus::Ok).then(|| CellError {
            name: end.error_name.unwrap_or_else(|| name.to_owned()),
            value: end.error_value.unwrap_or_else(|| value.to_owned()),
            traceback: end.traceback,
        });
        Self {
            status,
            error,
            ..Self::default()
        }
    }
}

fn wrong_end(of: &str) -> Error {
    Error::lost(format!(
        "the sandbox's agent ended {of} with an answer to another request; the sandbox may be damaged: delete it and create another"
    ))
}

/// A rich result or display: representations of one value by MIME type.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RichResult)]
pub(crate) struct DisplayEvent {
    /// By MIME type, as in Jupyter: text as it is, images in base64, JSON as values.
    #[schema(value_type = std::collections::HashMap<String, Object>)]
    pub(crate) data: MimeBundle,
    /// Whether it is the value of the last expression.
    pub(crate) is_result: bool,
}

/// A piece of output: `text`, or `base64` when it is not UTF-8.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum OutputEvent {
    /// As text.
    Text {
        /// The text.
        text: String,
    },
    /// As bytes.
    Bytes {
        /// The bytes in base64.
        base64: String,
    },
}

impl OutputEvent {
    /// A piece that is not UTF-8.
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes {
            base64: check::base64(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use control::{End, Exit};
    use serde_json::{Value, json};

    use super::*;

    fn output(bytes: &[u8], omitted_bytes: u64) -> Output {
        Output {
            bytes: bytes.to_vec(),
            head_bytes: bytes.len() / 2,
            omitted_bytes,
        }
    }

    fn collected(stdout: Output, stderr: Output, end: End) -> Collected {
        Collected {
            stdout,
            stderr,
            displays: vec![],
            displays_omitted: 0,
            end,
        }
    }

    fn shell(split: bool, stdout: Output, stderr: Output, exit: Exit) -> Value {
        let result =
            RunShellCommandResult::collected(split, collected(stdout, stderr, End::Exited(exit)));
        serde_json::to_value(result.unwrap()).unwrap()
    }

    #[test]
    fn output_is_one_or_two_fields() {
        let exit = Exit::default();
        let whole = shell(false, output(b"a\n", 0), output(b"", 0), exit.clone());
        assert_eq!(
            whole,
            json!({"output": "a\n", "exit_code": 0, "signal": null, "timed_out": false, "out_of_memory": false})
        );
        let split = shell(true, output(b"a\n", 0), output(b"", 0), exit);
        assert_eq!(
            split,
            json!({"stdout": "a\n", "stderr": "", "exit_code": 0, "signal": null, "timed_out": false, "out_of_memory": false})
        );
    }

    #[test]
    fn a_timeout_has_the_code_of_timeout_1() {
        let exit = Exit {
            code: 137,
            signal: Some(9),
            timed_out: true,
            ..Exit::default()
        };
        let result = shell(false, output(b"so far", 0), output(b"", 0), exit);
        assert_eq!(result["exit_code"], 124);
        assert_eq!(result["timed_out"], true);
        assert_eq!(result["output"], "so far");
    }

    #[test]
    fn bytes_that_are_not_text_are_also_given_exactly() {
        let result = shell(false, output(b"a\xffb", 0), output(b"", 0), Exit::default());
        assert_eq!(result["output"], "a\u{fffd}b");
        assert_eq!(result["output_base64"], "Yf9i");
    }

    #[test]
    fn what_was_left_out_is_counted() {
        let result = shell(
            true,
            output(b"abcd", 0),
            output(b"\xffbcd", 96),
            Exit::default(),
        );
        assert_eq!(
            result["truncated"],
            json!({"output_bytes": 0, "stdout_bytes": 0, "stderr_bytes": 96, "results": 0})
        );
        assert!(
            result["stderr"]
                .as_str()
                .unwrap()
                .contains("96 bytes left out")
        );
        assert!(result.get("stderr_base64").is_none());
    }

    #[test]
    fn every_end_of_a_cell_but_ok_has_an_error() {
        for (status, word) in [
            (CellStatus::Error, "error"),
            (CellStatus::TimedOut, "timed_out"),
            (CellStatus::Interrupted, "interrupted"),
            (CellStatus::KernelDied, "kernel_died"),
        ] {
            let end = CellEnd {
                status,
                error_name: None,
                error_value: Some("out of memory".into()),
                traceback: vec![],
            };
            let result = serde_json::to_value(RunIPythonCellResult::streamed(end)).unwrap();
            assert_eq!(result["status"], word);
            assert_eq!(result["error"]["value"], "out of memory");
            assert!(!result["error"]["name"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn an_end_of_another_kind_is_an_error() {
        let ended = collected(output(b"", 0), output(b"", 0), End::Done);
        assert!(RunShellCommandResult::collected(false, ended.clone()).is_err());
        assert!(RunIPythonCellResult::collected(false, ended).is_err());
    }
}
