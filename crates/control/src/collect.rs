//! Collects the pieces of a command or cell into bounded buffers.
//!
//! The rule of truncation: of each output the first half and the last half of
//! the limit are kept, what lies between is dropped and counted. The beginning
//! tells what was run, the end how it failed; the middle is repetition.

use std::collections::VecDeque;

use futures_util::StreamExt;
use sandbox::{Error, Result};
use serde_json::Value;

use crate::{CellEnd, Exit, MimeBundle, Piece, PieceStream};

/// Rich results kept of one cell, bytes; beyond it they are dropped and counted.
const DISPLAY_BYTES_MAX: usize = 32 << 20;
/// Rich results kept of one cell.
const DISPLAYS_MAX: usize = 1000;

/// Everything a command or cell said, within bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Collected {
    /// Standard output, or both outputs when merged.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// Rich results in order; `true` marks the value of the last expression.
    pub displays: Vec<(MimeBundle, bool)>,
    /// Rich results that were dropped because there were too many or too large ones.
    pub displays_omitted: u64,
    /// How it ended.
    pub end: End,
}

/// How a stream of pieces ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// A command ended.
    Exited(Exit),
    /// A cell ended.
    CellEnded(CellEnd),
    /// A part of a longer answer ended.
    Done,
}

/// One output: its beginning and its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// What was kept: the beginning, then the end.
    pub bytes: Vec<u8>,
    /// Where in `bytes` something was left out, when something was.
    pub head_bytes: usize,
    /// How much was left out there.
    pub omitted_bytes: u64,
}

impl Output {
    /// The output as text, with a line in place of what was left out. Bytes
    /// that are not UTF-8 are replaced.
    #[must_use]
    pub fn to_text(&self) -> String {
        if self.omitted_bytes == 0 {
            return String::from_utf8_lossy(&self.bytes).into_owned();
        }
        let (head, tail) = self.bytes.split_at(self.head_bytes.min(self.bytes.len()));
        format!(
            "{}\n[... {} bytes left out ...]\n{}",
            String::from_utf8_lossy(head),
            self.omitted_bytes,
            String::from_utf8_lossy(tail)
        )
    }
}

/// Collects a stream of pieces until its last one.
///
/// Of each output at most `output_bytes_max` bytes are kept: the first half and
/// the last half.
///
/// # Errors
/// The error of the stream, or `SandboxLost` when it ends without a last piece.
pub async fn collect(mut stream: PieceStream<Piece>, output_bytes_max: usize) -> Result<Collected> {
    let mut stdout = Keeper::new(output_bytes_max);
    let mut stderr = Keeper::new(output_bytes_max);
    let mut displays = Displays::default();
    while let Some(piece) = stream.next().await {
        let end = match piece? {
            Piece::Stdout(bytes) => {
                stdout.push(&bytes);
                continue;
            }
            Piece::Stderr(bytes) => {
                stderr.push(&bytes);
                continue;
            }
            Piece::Display { data, is_result } => {
                displays.push(data, is_result);
                continue;
            }
            Piece::Exited(exit) => End::Exited(exit),
            Piece::CellEnded(end) => End::CellEnded(end),
            Piece::Done => End::Done,
        };
        return Ok(Collected {
            stdout: stdout.finish(),
            stderr: stderr.finish(),
            displays: displays.kept,
            displays_omitted: displays.omitted,
            end,
        });
    }
    Err(Error::lost(
        "the output ended without a result; the sandbox may have ended",
    ))
}

/// Keeps the first and the last bytes of an output.
struct Keeper {
    head: Vec<u8>,
    head_bytes_max: usize,
    tail: VecDeque<u8>,
    tail_bytes_max: usize,
    omitted_bytes: u64,
}

impl Keeper {
    fn new(bytes_max: usize) -> Self {
        let tail_bytes_max = bytes_max / 2;
        Self {
            head: Vec::new(),
            head_bytes_max: bytes_max - tail_bytes_max,
            tail: VecDeque::new(),
            tail_bytes_max,
            omitted_bytes: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let to_head = bytes.len().min(self.head_bytes_max - self.head.len());
        let (head, rest) = bytes.split_at(to_head);
        self.head.extend_from_slice(head);
        // Of more than the tail holds, only the end can stay.
        let skipped = rest.len().saturating_sub(self.tail_bytes_max);
        let dropped = (self.tail.len() + rest.len() - skipped).saturating_sub(self.tail_bytes_max);
        self.tail.drain(..dropped);
        self.tail.extend(&rest[skipped..]);
        self.omitted_bytes += (skipped + dropped) as u64;
    }

    fn finish(self) -> Output {
        let head_bytes = self.head.len();
        let mut bytes = self.head;
        let (front, back) = self.tail.as_slices();
        bytes.reserve_exact(front.len() + back.len());
        bytes.extend_from_slice(front);
        bytes.extend_from_slice(back);
        Output {
            bytes,
            head_bytes,
            omitted_bytes: self.omitted_bytes,
        }
    }
}

/// Keeps rich results within bounds.
#[derive(Default)]
struct Displays {
    kept: Vec<(MimeBundle, bool)>,
    bytes: usize,
    omitted: u64,
}

impl Displays {
    fn push(&mut self, data: MimeBundle, is_result: bool) {
        let bytes: usize = data
            .iter()
            .map(|(mime, value)| mime.len() + weight(value))
            .sum();
        if self.kept.len() >= DISPLAYS_MAX || self.bytes + bytes > DISPLAY_BYTES_MAX {
            self.omitted += 1;
            return;
        }
        self.bytes += bytes;
        self.kept.push((data, is_result));
    }
}

/// Roughly the memory of a JSON value, bytes.
fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(weight).sum(),
            Value::Object(members) => members
                .iter()
                .map(|(name, value)| name.len() + weight(value))
                .sum(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn keep(pieces: &[Vec<u8>], bytes_max: usize) -> Output {
        let mut keeper = Keeper::new(bytes_max);
        for piece in pieces {
            keeper.push(piece);
        }
        keeper.finish()
    }

    proptest! {
        #[test]
        fn head_and_tail_are_exactly_the_ends_of_the_output(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            bytes_max in 0usize..120,
        ) {
            let whole = pieces.concat();
            let output = keep(&pieces, bytes_max);
            prop_assert!(output.bytes.len() <= bytes_max);
            prop_assert_eq!(output.bytes.len() as u64 + output.omitted_bytes, whole.len() as u64);
            let (head, tail) = output.bytes.split_at(output.head_bytes);
            prop_assert!(whole.starts_with(head) && whole.ends_with(tail));
            if whole.len() <= bytes_max {
                prop_assert_eq!(output.bytes, whole);
            }
        }
    }

    fn stream(pieces: Vec<Piece>) -> PieceStream<Piece> {
        Box::pin(futures_util::stream::iter(pieces.into_iter().map(Ok)))
    }

    #[tokio::test]
    async fn outputs_and_end_are_told_apart() {
        let collected = collect(
            stream(vec![
                Piece::Stdout(Bytes::from_static(b"out")),
                Piece::Stderr(Bytes::from_static(b"err")),
                Piece::Exited(Exit {
                    code: 3,
                    ..Exit::default()
                }),
            ]),
            100,
        )
        .await
        .unwrap();
        assert_eq!(collected.stdout.to_text(), "out");
        assert_eq!(collected.stderr.to_text(), "err");
        assert!(matches!(collected.end, End::Exited(Exit { code: 3, .. })));
    }

    #[tokio::test]
    async fn a_cut_output_says_where_and_how_much() {
        let collected = collect(
            stream(vec![
                Piece::Stdout(Bytes::from_static(b"0123456789")),
                Piece::Done,
            ]),
            4,
        )
        .await
        .unwrap();
        assert_eq!(
            collected.stdout.to_text(),
            "01\n[... 6 bytes left out ...]\n89"
        );
    }

    #[tokio::test]
    async fn rich_results_are_bounded() {
        let large = Piece::Display {
            data: MimeBundle::from([("text/plain".into(), "x".repeat(10 << 20).into())]),
            is_result: false,
        };
        let collected = collect(
            stream(vec![
                large.clone(),
                large.clone(),
                large.clone(),
                large,
                Piece::Done,
            ]),
            4,
        )
        .await
        .unwrap();
        assert_eq!(
            (collected.displays.len(), collected.displays_omitted),
            (3, 1)
        );
    }

    #[tokio::test]
    async fn a_stream_without_an_end_is_an_error() {
        let error = collect(stream(vec![]), 4).await.unwrap_err();
        assert_eq!(error.kind, sandbox::Kind::SandboxLost);
    }
}
