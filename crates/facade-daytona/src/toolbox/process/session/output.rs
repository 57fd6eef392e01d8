//! The outputs of a session's command in the order they came, and the forms in
//! which the generations of SDKs want them.

use std::collections::VecDeque;

use bytes::Bytes;
use control::{Exit, Piece, PieceStream};
use futures_util::StreamExt;
use sandbox::{Error, Result};

use crate::version::SdkVersion;

/// Before bytes of standard output.
const STDOUT_MARK: &[u8] = b"\x01\x01\x01";
/// Before bytes of standard error.
const STDERR_MARK: &[u8] = b"\x02\x02\x02";

/// Changes between the outputs that are kept, so that alternating single bytes
/// do not cost much more memory than the bytes.
const SEGMENTS_MAX: usize = 16 << 10;

/// From this version on the SDKs tell the outputs apart by marks.
const MARKS_SINCE: SdkVersion = SdkVersion::new(0, 27);
/// From this version on the server tells the outputs apart.
const SPLIT_SINCE: SdkVersion = SdkVersion::new(0, 167);

/// How a caller wants the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One text.
    Merged,
    /// One text with marks in it.
    Marked,
    /// Both outputs, and one text of both.
    Split,
}

impl Form {
    pub(crate) fn of(version: SdkVersion) -> Self {
        match version {
            version if version < MARKS_SINCE => Self::Merged,
            version if version < SPLIT_SINCE => Self::Marked,
            _ => Self::Split,
        }
    }
}

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn mark(self) -> &'static [u8] {
        match self {
            Self::Stdout => STDOUT_MARK,
            Self::Stderr => STDERR_MARK,
        }
    }

    /// A piece that stands alone: with its mark.
    pub(crate) fn marked(self, bytes: &[u8]) -> Vec<u8> {
        [self.mark(), bytes].concat()
    }
}

/// Both outputs in order; the end of them, when they are long.
#[derive(Debug)]
pub(crate) struct Log {
    segments: VecDeque<(Stream, Vec<u8>)>,
    bytes: usize,
    bytes_max: usize,
}

impl Log {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            segments: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Reads a stream of pieces to its end; the exit, if the command has ended.
    pub(crate) async fn read(&mut self, mut pieces: PieceStream<Piece>) -> Result<Option<Exit>> {
        while let Some(piece) = pieces.next().await {
            match piece? {
                Piece::Stdout(bytes) => self.push(Stream::Stdout, &bytes),
                Piece::Stderr(bytes) => self.push(Stream::Stderr, &bytes),
                Piece::Exited(exit) => return Ok(Some(exit)),
                Piece::Done => return Ok(None),
                Piece::Display { .. } | Piece::CellEnded(_) => {
                    return Err(Error::internal("a command's output is no command's"));
                }
            }
        }
        Err(Error::lost(
            "the output ended without a result; the sandbox may have ended",
        ))
    }

    fn push(&mut self, stream: Stream, bytes: &[u8]) {
        match self.segments.back_mut() {
            Some((last, kept)) if *last == stream => kept.extend_from_slice(bytes),
            _ => self.segments.push_back((stream, bytes.to_vec())),
        }
        self.bytes += bytes.len();
        while self.segments.len() > SEGMENTS_MAX {
            let dropped = self.segments.pop_front();
            self.bytes -= dropped.map_or(0, |(_, bytes)| bytes.len());
        }
        self.drop_oldest(self.bytes.saturating_sub(self.bytes_max));
    }

    fn drop_oldest(&mut self, mut excess: usize) {
        self.bytes -= excess;
        while excess > 0
            && let Some((_, oldest)) = self.segments.front_mut()
        {
            let dropped = excess.min(oldest.len());
            oldest.drain(..dropped);
            excess -= dropped;
            if oldest.is_empty() {
                self.segments.pop_front();
            }
        }
    }

    /// Both outputs as one.
    pub(crate) fn merged(&self) -> Vec<u8> {
        self.segments
            .iter()
            .flat_map(|(_, bytes)| bytes)
            .copied()
            .collect()
    }

    /// Both outputs as one, marked where they change.
    pub(crate) fn marked(&self) -> Vec<u8> {
        self.segments
            .iter()
            .flat_map(|(stream, bytes)| stream.mark().iter().chain(bytes))
            .copied()
            .collect()
    }

    /// One of the outputs.
    pub(crate) fn only(&self, wanted: Stream) -> Vec<u8> {
        self.segments
            .iter()
            .filter(|(stream, _)| *stream == wanted)
            .flat_map(|(_, bytes)| bytes)
            .copied()
            .collect()
    }

    /// The one text of a form.
    pub(crate) fn in_form(&self, form: Form) -> Vec<u8> {
        match form {
            Form::Marked => self.marked(),
            Form::Merged | Form::Split => self.merged(),
        }
    }
}

/// A piece of a followed log in a form; nothing for what is no output.
pub(crate) fn piece_in_form(piece: &Piece, form: Form) -> Option<Bytes> {
    let (stream, bytes) = match piece {
        Piece::Stdout(bytes) => (Stream::Stdout, bytes),
        Piece::Stderr(bytes) => (Stream::Stderr, bytes),
        Piece::Display { .. } | Piece::Exited(_) | Piece::CellEnded(_) | Piece::Done => {
            return None;
        }
    };
    Some(match form {
        Form::Marked => stream.marked(bytes).into(),
        Form::Merged | Form::Split => bytes.clone(),
    })
}

/// Bytes as text; what is not UTF-8 is replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use proptest::prelude::*;

    fn log(pieces: &[(Stream, &[u8])], bytes_max: usize) -> Log {
        let mut log = Log::new(bytes_max);
        for (stream, bytes) in pieces {
            log.push(*stream, bytes);
        }
        log
    }

    #[test]
    fn each_generation_has_its_form() {
        assert_eq!(Form::of(SdkVersion::new(0, 21)), Form::Merged);
        assert_eq!(Form::of(SdkVersion::new(0, 115)), Form::Marked);
        assert_eq!(Form::of(SdkVersion::new(0, 226)), Form::Split);
        assert_eq!(Form::of(SdkVersion::NEWEST), Form::Split);
    }

    #[test]
    fn outputs_are_told_apart() {
        let log = log(
            &[
                (Stream::Stdout, b"a"),
                (Stream::Stdout, b"b\n"),
                (Stream::Stderr, b"E"),
                (Stream::Stdout, b"c"),
            ],
            100,
        );
        assert_eq!(log.merged(), b"ab\nEc");
        assert_eq!(log.marked(), b"\x01\x01\x01ab\n\x02\x02\x02E\x01\x01\x01c");
        assert_eq!(log.only(Stream::Stdout), b"ab\nc");
        assert_eq!(log.only(Stream::Stderr), b"E");
    }

    #[tokio::test]
    async fn the_exit_is_the_end_and_a_torn_stream_an_error() {
        let exit = Exit {
            code: 3,
            ..Exit::default()
        };
        let pieces = [
            Ok(Piece::Stdout("x".into())),
            Ok(Piece::Exited(exit.clone())),
        ];
        let mut log = Log::new(10);
        let read = log.read(Box::pin(stream::iter(pieces))).await;
        assert_eq!(read.unwrap(), Some(exit));
        assert_eq!(log.merged(), b"x");
        let torn = log.read(Box::pin(stream::empty())).await;
        assert_eq!(torn.unwrap_err().kind, sandbox::Kind::SandboxLost);
    }

    /// The SDKs' way to tell the outputs apart: every mark switches.
    fn demultiplexed(mut marked: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut into = &mut stdout;
        while let Some(first) = marked.first() {
            if let Some(rest) = marked.strip_prefix(STDOUT_MARK) {
                (into, marked) = (&mut stdout, rest);
            } else if let Some(rest) = marked.strip_prefix(STDERR_MARK) {
                (into, marked) = (&mut stderr, rest);
            } else {
                into.push(*first);
                marked = &marked[1..];
            }
        }
        (stdout, stderr)
    }

    proptest! {
        #[test]
        fn the_end_is_kept_within_the_bound(
            pushed in prop::collection::vec((any::<bool>(), prop::collection::vec(3_u8.., 0..20)), 0..50),
            bytes_max in 0_usize..200,
        ) {
            let mut log = Log::new(bytes_max);
            let mut all = Vec::new();
            for (is_error, bytes) in &pushed {
                log.push(if *is_error { Stream::Stderr } else { Stream::Stdout }, bytes);
                all.extend_from_slice(bytes);
            }
            let kept = &all[all.len().saturating_sub(bytes_max)..];
            prop_assert_eq!(log.merged(), kept);
            prop_assert_eq!(log.bytes, kept.len());
            let (stdout, stderr) = demultiplexed(&log.marked());
            prop_assert_eq!(stdout, log.only(Stream::Stdout));
            prop_assert_eq!(stderr, log.only(Stream::Stderr));
        }
    }
}
