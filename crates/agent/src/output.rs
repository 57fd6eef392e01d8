//! The last output of a background process, both streams in the order it came.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes kept per process; what came earlier is dropped.
const KEPT_BYTES: usize = 1 << 20;

/// Bytes kept of all processes together before those that go on writing get
/// less room: the agent has to live with a few dozen megabytes.
const ALL_BYTES: usize = 16 << 20;

/// Bytes kept per process from there on.
const KEPT_BYTES_LOW: usize = 64 << 10;

/// Changes between the streams that are kept, so that alternating single bytes
/// do not cost more memory than the bytes.
const SEGMENTS_MAX: usize = 16 << 10;

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// A ring of bytes with the stream of each.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: VecDeque<u8>,
    /// Streams and lengths of the pieces that `bytes` consists of.
    segments: VecDeque<(Stream, usize)>,
    /// How many bytes were dropped before the first one kept.
    dropped: u64,
    /// The bytes kept of all processes.
    all: Arc<AtomicUsize>,
}

impl Drop for Output {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Output {
    /// An output whose bytes count among these.
    pub(crate) fn sharing(all: &Arc<AtomicUsize>) -> Self {
        let mut output = Self::default();
        output.all = Arc::clone(all);
        output
    }

    /// Appends, dropping the oldest bytes beyond the bounds.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let room = match self.all.load(Ordering::Relaxed) + bytes.len() > ALL_BYTES {
            true => KEPT_BYTES_LOW,
            false => KEPT_BYTES,
        };
        let before = self.bytes.len();
        self.push_within(room, stream, bytes);
        self.bytes.shrink_to(room);
        self.all.fetch_add(self.bytes.len(), Ordering::Relaxed);
        self.all.fetch_sub(before, Ordering::Relaxed);
    }

    fn push_within(&mut self, room: usize, stream: Stream, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(room);
        let bytes = &bytes[skipped..];
        if bytes.is_empty() {
            return;
        }
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(room);
        self.drop_oldest(excess.min(self.bytes.len()));
        self.dropped += skipped as u64;
        match self.segments.back_mut() {
            Some((last, length)) if *last == stream => *length += bytes.len(),
            _ => self.segments.push_back((stream, bytes.len())),
        }
        self.bytes.extend(bytes);
        if self.segments.len() > SEGMENTS_MAX {
            let oldest = self.segments.front().map_or(0, |(_, length)| *length);
            self.drop_oldest(oldest);
        }
    }

    fn drop_oldest(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.dropped += count as u64;
        let mut left = count;
        while left > 0
            && let Some((_, length)) = self.segments.front_mut()
        {
            let taken = left.min(*length);
            *length -= taken;
            left -= taken;
            if *length == 0 {
                self.segments.pop_front();
            }
        }
    }

    /// The position after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.dropped + self.bytes.len() as u64
    }

    /// Whether anything was dropped.
    pub(crate) fn is_truncated(&self) -> bool {
        self.dropped > 0
    }

    /// The piece at `position` (bytes since the beginning, dropped ones
    /// included), of one stream and at most `length_max` bytes, with the
    /// position after it; `None` at the end.
    pub(crate) fn piece(&self, position: u64, length_max: usize) -> Option<(Stream, Vec<u8>, u64)> {
        let start = position.max(self.dropped);
        let mut index = usize::try_from(start - self.dropped).ok()?;
        let mut before = 0;
        for (stream, length) in &self.segments {
            if index < before + length {
                let end = (before + length).min(index + length_max);
                let piece: Vec<u8> = self.bytes.range(index..end).copied().collect();
                index = end;
                return Some((*stream, piece, self.dropped + index as u64));
            }
            before += length;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(output: &Output, mut position: u64) -> Vec<(Stream, Vec<u8>)> {
        let mut pieces = Vec::new();
        while let Some((stream, piece, after)) = output.piece(position, 7) {
            assert!(after > position && !piece.is_empty());
            position = after;
            pieces.push((stream, piece));
        }
        pieces
    }

    fn joined(pieces: &[(Stream, Vec<u8>)], wanted: Stream) -> Vec<u8> {
        let of_stream = pieces.iter().filter(|(stream, _)| *stream == wanted);
        of_stream.flat_map(|(_, piece)| piece.clone()).collect()
    }

    #[test]
    fn the_tail_is_kept_and_the_loss_is_told() {
        let mut output = Output::default();
        output.push(Stream::Error, b"lost");
        output.push(Stream::Output, &vec![1; KEPT_BYTES - 2]);
        assert!(output.is_truncated());
        assert_eq!(all(&output, 0)[0], (Stream::Error, b"st".to_vec()));
        output.push(Stream::Output, &vec![2; KEPT_BYTES + 5]);
        assert_eq!(
            joined(&all(&output, 0), Stream::Output),
            vec![2; KEPT_BYTES]
        );
    }

    #[test]
    fn many_outputs_share_the_memory_of_few() {
        let all = Arc::new(AtomicUsize::new(0));
        let mut outputs: Vec<Output> = (0..60).map(|_| Output::sharing(&all)).collect();
        for output in &mut outputs {
            output.push(Stream::Output, &vec![1; KEPT_BYTES]);
            output.push(Stream::Output, b"last");
            assert_eq!(output.end(), KEPT_BYTES as u64 + 4);
            let (_, last, _) = output.piece(output.end() - 4, 9).unwrap();
            assert_eq!(last, b"last");
        }
        assert!(all.load(Ordering::Relaxed) <= ALL_BYTES + 60 * KEPT_BYTES_LOW);
        drop(outputs);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn alternating_bytes_are_bounded() {
        let mut output = Output::default();
        for number in 0..100_000_u32 {
            let stream = [Stream::Output, Stream::Error][(number % 2) as usize];
            output.push(stream, b"x");
        }
        assert!(output.segments.len() <= SEGMENTS_MAX);
        assert!(output.is_truncated());
    }

    proptest! {
        #[test]
        fn what_fits_comes_back_in_order(
            pushed in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)), 0..50),
            skipped in 0_usize..30,
        ) {
            let mut output = Output::default();
            let mut plain = Vec::new();
            for (is_error, bytes) in &pushed {
                let stream = if *is_error { Stream::Error } else { Stream::Output };
                output.push(stream, bytes);
                plain.extend(bytes.iter().map(|byte| (stream, *byte)));
            }
            let read: Vec<(Stream, u8)> = all(&output, skipped as u64)
                .into_iter()
                .flat_map(|(stream, piece)| piece.into_iter().map(move |byte| (stream, byte)))
                .collect();
            prop_assert_eq!(&read[..], plain.get(skipped..).unwrap_or_default());
        }
    }
}
