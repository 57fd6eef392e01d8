//! Output of commands and cells from events to the terminal.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::StreamExt as _;
use serde_json::Value;

use super::{
    client::Events,
    output::{self, Output},
    plain::Plain,
    sse::Event,
};
use crate::{exit_code::ExitCode, failure::Failure};

/// One event, understood.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// The last event: the result.
    End(Value),
    /// Something that is not shown on a terminal.
    Other,
}

/// What an event means.
pub(super) fn understand(event: &Event) -> Result<Piece, Failure> {
    let data: Value = serde_json::from_str(&event.data)
        .map_err(Failure::to("the server sent an event that is not JSON"))?;
    Ok(match event.name.as_str() {
        "stdout" => Piece::Stdout(bytes(&data)?),
        "stderr" => Piece::Stderr(bytes(&data)?),
        "end" => Piece::End(data),
        "error" => {
            let message = data["message"]
                .as_str()
                .unwrap_or("the server gave no reason");
            return Err(Failure::general(message));
        }
        _ => Piece::Other,
    })
}

fn bytes(data: &Value) -> Result<Vec<u8>, Failure> {
    match (data["text"].as_str(), data["base64"].as_str()) {
        (Some(text), _) => Ok(text.as_bytes().to_vec()),
        (None, Some(base64)) => BASE64_STANDARD
            .decode(base64)
            .map_err(Failure::to("the server sent output that is not base64")),
        (None, None) => Err(Failure::general("the server sent output without content")),
    }
}

/// Writes the output as it comes and returns the result.
pub(super) async fn print(mut events: Events, to: Output) -> Result<Value, Failure> {
    while let Some(event) = events.next().await {
        match understand(&event?)? {
            Piece::Stdout(bytes) => to.bytes(&bytes)?,
            Piece::Stderr(bytes) => output::error_bytes(&bytes),
            Piece::End(result) => return Ok(result),
            Piece::Other => {}
        }
    }
    Err(unfinished())
}

/// As [`print()`], without the colours that IPython always gives its tracebacks.
pub(super) async fn print_plain(mut events: Events, to: Output) -> Result<Value, Failure> {
    let (mut stdout, mut stderr) = (Plain::default(), Plain::default());
    while let Some(event) = events.next().await {
        match understand(&event?)? {
            Piece::Stdout(bytes) => to.bytes(&stdout.push(&bytes))?,
            Piece::Stderr(bytes) => output::error_bytes(&stderr.push(&bytes)),
            Piece::End(result) => {
                to.bytes(&stdout.rest())?;
                output::error_bytes(&stderr.rest());
                return Ok(result);
            }
            Piece::Other => {}
        }
    }
    Err(unfinished())
}

fn unfinished() -> Failure {
    Failure::general("the output ended without a result; the server may have been stopped")
}

/// The exit code that a result tells.
pub(super) fn exit_code(result: &Value) -> Result<ExitCode, Failure> {
    result["exit_code"]
        .as_i64()
        .map(|code| {
            // As the kernel does with a code that is too large: the low byte.
            let byte = u8::try_from(code & 0xff).expect("the low byte fits a byte");
            ExitCode::Command(byte)
        })
        .ok_or_else(|| Failure::general("the server's answer has no exit code"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(name: &str, data: &Value) -> Event {
        Event {
            name: name.to_owned(),
            data: data.to_string(),
        }
    }

    #[test]
    fn output_is_text_or_bytes() {
        let piece = |name, data: Value| understand(&event(name, &data)).ok();
        assert_eq!(
            piece("stdout", json!({"text": "é"})),
            Some(Piece::Stdout("é".into()))
        );
        assert_eq!(
            piece("stderr", json!({"base64": "/w=="})),
            Some(Piece::Stderr(vec![255]))
        );
        assert_eq!(piece("stdout", json!({})), None);
        assert_eq!(piece("display", json!({})), Some(Piece::Other));
        let failure = understand(&event("error", &json!({"message": "gone"}))).unwrap_err();
        assert_eq!(failure.message, "gone");
    }

    #[test]
    fn codes_keep_their_low_byte() {
        assert_eq!(exit_code(&json!({"exit_code": 7})).unwrap().code(), 7);
        assert_eq!(exit_code(&json!({"exit_code": 256})).unwrap().code(), 0);
        assert_eq!(exit_code(&json!({"exit_code": -1})).unwrap().code(), 255);
        assert!(exit_code(&json!({})).is_err());
    }
}
