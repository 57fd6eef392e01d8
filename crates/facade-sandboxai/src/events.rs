//! Pieces of a running command or cell as server-sent events.
//!
//! ```text
//! event: stdout
//! data: {"text":"hello\n"}
//!
//! : heartbeat
//!
//! event: end
//! data: {"exit_code":0,…}
//! ```
//! `end` or `error` is the last event. A client that goes away drops the
//! stream, which ends what produces it.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use control::{Piece, PieceStream};
use futures_util::StreamExt;
use sandbox::Error;
use serde::Serialize;

use crate::{
    error::ApiError,
    request_id::RequestId,
    utf8::{Decoded, Decoder},
    wire::{
        DisplayEvent, OutputEvent, ProcessOutputEnd, RunIPythonCellResult, RunShellCommandResult,
    },
};

/// How often something is sent when there is nothing to say, so that proxies
/// keep the connection and a client that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is being streamed, which decides the form of the last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A command in the foreground.
    Shell,
    /// A cell.
    Cell,
    /// The output of a background process.
    Process,
}

/// The answer that streams `pieces`.
pub(crate) fn respond(pieces: PieceStream<Piece>, source: Source, id: RequestId) -> Response {
    let state = Some(Streaming {
        pieces,
        translator: Translator::new(source, id),
        ready: VecDeque::new(),
    });
    let events = futures_util::stream::unfold(state, |state| async move {
        let mut state = state?;
        let event = state.next().await?;
        let is_last = event.is_last();
        Some((
            Ok::<_, Infallible>(event.into_sse()),
            (!is_last).then_some(state),
        ))
    });
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    // Without the header some proxies hold events back until they have many.
    let unbuffered = [("x-accel-buffering", "no")];
    (unbuffered, Sse::new(events).keep_alive(heartbeat)).into_response()
}

/// An event before it is framed.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    name: &'static str,
    data: String,
}

impl Named {
    fn new(name: &'static str, data: &impl Serialize) -> Self {
        // Only a map with keys that are not text does not serialize.
        let data = serde_json::to_string(data).unwrap_or_else(|_| "{}".to_owned());
        Self { name, data }
    }

    fn is_last(&self) -> bool {
        matches!(self.name, "end" | "error")
    }

    fn into_sse(self) -> Event {
        // JSON text has no line breaks, so it is always one `data:` line.
        Event::default().event(self.name).data(self.data)
    }
}

/// A stream of pieces and the events that it has become so far.
struct Streaming {
    pieces: PieceStream<Piece>,
    translator: Translator,
    /// At most three: what is left of both outputs, then the end.
    ready: VecDeque<Named>,
}

impl Streaming {
    async fn next(&mut self) -> Option<Named> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let piece = self.pieces.next().await.unwrap_or_else(|| {
                Err(Error::lost(
                    "the output ended without a result; the sandbox may have ended",
                ))
            });
            self.ready.extend(self.translator.translate(piece));
        }
    }
}

/// From pieces to events; knows no stream.
struct Translator {
    source: Source,
    id: RequestId,
    stdout: Decoder,
    stderr: Decoder,
}

impl Translator {
    fn new(source: Source, id: RequestId) -> Self {
        Self {
            source,
            id,
            stdout: Decoder::default(),
            stderr: Decoder::default(),
        }
    }

    fn translate(&mut self, piece: sandbox::Result<Piece>) -> Vec<Named> {
        let end = match piece {
            Ok(Piece::Stdout(bytes)) => return output("stdout", self.stdout.feed(&bytes)),
            Ok(Piece::Stderr(bytes)) => return output("stderr", self.stderr.feed(&bytes)),
            Ok(Piece::Display { data, is_result }) => {
                return vec![Named::new("display", &DisplayEvent { data, is_result })];
            }
            Ok(piece) => self.end(piece),
            Err(error) => self.error(error),
        };
        let mut events = output("stdout", self.stdout.finish());
        events.extend(output("stderr", self.stderr.finish()));
        events.push(end);
        events
    }

    fn end(&self, piece: Piece) -> Named {
        match (self.source, piece) {
            (Source::Shell, Piece::Exited(exit)) => {
                Named::new("end", &RunShellCommandResult::streamed(&exit))
            }
            (Source::Cell, Piece::CellEnded(end)) => {
                Named::new("end", &RunIPythonCellResult::streamed(end))
            }
            (Source::Process, Piece::Exited(exit)) => {
                Named::new("end", &ProcessOutputEnd::new(Some(&exit)))
            }
            (Source::Process, Piece::Done) => Named::new("end", &ProcessOutputEnd::new(None)),
            _ => self.error(Error::lost(
                "the sandbox's agent ended with an answer to another request; the sandbox may be damaged: delete it and create another",
            )),
        }
    }

    fn error(&self, error: Error) -> Named {
        let error = ApiError::from(error);
        error.log();
        Named::new("error", &error.body(self.id.as_str(), None))
    }
}

fn output(name: &'static str, decoded: Option<Decoded>) -> Vec<Named> {
    let event = decoded.map(|decoded| match decoded {
        Decoded::Text(text) => OutputEvent::Text { text },
        Decoded::Bytes(bytes) => OutputEvent::bytes(&bytes),
    });
    event.iter().map(|event| Named::new(name, event)).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use control::{CellEnd, CellStatus, Exit};
    use serde_json::{Value, json};

    use super::*;

    fn events(source: Source, pieces: Vec<sandbox::Result<Piece>>) -> Vec<(&'static str, Value)> {
        let mut translator = Translator::new(source, "r1".parse().unwrap());
        let events = pieces
            .into_iter()
            .flat_map(|piece| translator.translate(piece));
        events
            .map(|event| (event.name, serde_json::from_str(&event.data).unwrap()))
            .collect()
    }

    fn stdout(bytes: &'static [u8]) -> sandbox::Result<Piece> {
        Ok(Piece::Stdout(Bytes::from_static(bytes)))
    }

    fn stderr(bytes: &'static [u8]) -> sandbox::Result<Piece> {
        Ok(Piece::Stderr(Bytes::from_static(bytes)))
    }

    #[test]
    fn outputs_are_decoded_apart() {
        let told = events(
            Source::Shell,
            vec![
                stdout(b"gr\xc3"),
                stderr(b"\xff"),
                stdout(b"\xbc\n"),
                stdout(b"\xe2\x9c"),
                Ok(Piece::Exited(Exit {
                    code: 3,
                    ..Exit::default()
                })),
            ],
        );
        assert_eq!(
            told,
            [
                ("stdout", json!({"text": "gr"})),
                ("stderr", json!({"base64": "/w=="})),
                ("stdout", json!({"text": "ü\n"})),
                ("stdout", json!({"base64": "4pw="})),
                (
                    "end",
                    json!({"exit_code": 3, "signal": null, "timed_out": false, "out_of_memory": false})
                ),
            ]
        );
    }

    #[test]
    fn a_cell_ends_with_its_result() {
        let end = CellEnd {
            status: CellStatus::Error,
            error_name: Some("NameError".into()),
            error_value: Some("name 'foo' is not defined".into()),
            traceback: vec!["t".into()],
        };
        let told = events(
            Source::Cell,
            vec![
                Ok(Piece::Display {
                    data: [("text/plain".to_owned(), json!("1"))].into(),
                    is_result: true,
                }),
                Ok(Piece::CellEnded(end)),
            ],
        );
        assert_eq!(
            told[0],
            (
                "display",
                json!({"data": {"text/plain": "1"}, "is_result": true})
            )
        );
        assert_eq!(
            told[1],
            (
                "end",
                json!({"status": "error", "results": [], "error": {"name": "NameError", "value": "name 'foo' is not defined", "traceback": ["t"]}})
            )
        );
    }

    #[test]
    fn a_process_ends_or_runs_on() {
        let told = events(Source::Process, vec![Ok(Piece::Done)]);
        assert_eq!(told, [("end", json!({"exit": null, "truncated": false}))]);
        let exit = Exit {
            truncated: true,
            ..Exit::default()
        };
        let told = events(Source::Process, vec![Ok(Piece::Exited(exit))]);
        assert_eq!(
            told,
            [(
                "end",
                json!({"exit": {"exit_code": 0, "signal": null, "out_of_memory": false}, "truncated": true})
            )]
        );
    }

    #[test]
    fn an_error_is_the_last_event() {
        let told = events(
            Source::Shell,
            vec![stdout(b"\xc3"), Err(Error::lost("it ran out of memory"))],
        );
        assert_eq!(told[0], ("stdout", json!({"base64": "ww=="})));
        assert_eq!(
            told[1],
            (
                "error",
                json!({"message": "it ran out of memory", "kind": "sandbox_lost", "request_id": "r1"})
            )
        );
        let wrong = events(Source::Cell, vec![Ok(Piece::Exited(Exit::default()))]);
        assert_eq!(wrong[0].0, "error");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_has_a_heartbeat() {
        use http_body_util::BodyExt;
        let silent: PieceStream<Piece> = Box::pin(futures_util::stream::pending());
        let response = respond(silent, Source::Shell, "r1".parse().unwrap());
        let begun = tokio::time::Instant::now();
        let frame = response.into_body().frame().await.unwrap().unwrap();
        assert_eq!(begun.elapsed(), HEARTBEAT);
        assert_eq!(frame.into_data().unwrap().as_ref(), b": heartbeat\n\n");
    }

    #[tokio::test]
    async fn a_client_that_goes_away_drops_what_it_waits_for() {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let pieces: PieceStream<Piece> = Box::pin(futures_util::stream::poll_fn(move |_| {
            // Held by the stream, as a running command would be.
            let _ = &alive;
            std::task::Poll::Pending
        }));
        drop(respond(pieces, Source::Cell, "r1".parse().unwrap()));
        assert!(gone.await.is_err(), "the stream was dropped");
    }
}
