//! The content of an upload, out of the framing that S3's clients may put around it.
//!
//! `aws-chunked`: `SIZE[;extension]\r\n`, that many bytes, `\r\n`, and so on; a
//! size of 0 ends it, followed by trailers and an empty line. Sizes are hexadecimal.

use std::{collections::VecDeque, pin::Pin};

use axum::{extract::Request, http::HeaderMap};
use bytes::{Buf as _, Bytes};
use control::PieceStream;
use futures_util::{Stream, StreamExt as _, stream};
use sandbox::{Error, Result};

/// Longest line of the framing, bytes.
const LINE_BYTES_MAX: usize = 8 << 10;

/// The content of a request, unframed.
pub(super) fn content(request: Request) -> PieceStream<Bytes> {
    let framed = is_framed(request.headers());
    let pieces = request.into_body().into_data_stream();
    let pieces = pieces.map(|piece| {
        piece.map_err(|error| Error::invalid(format!("the upload broke off: {error}")))
    });
    if !framed {
        return Box::pin(pieces);
    }
    Box::pin(unframed(Box::pin(pieces)))
}

fn is_framed(headers: &HeaderMap) -> bool {
    let says = |name: &str, word: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains(word))
    };
    says("content-encoding", "aws-chunked") || says("x-amz-content-sha256", "STREAMING-")
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

fn unframed(pieces: Pieces) -> impl Stream<Item = Result<Bytes>> + Send {
    let state = (pieces, Decoder::default(), VecDeque::new(), false);
    stream::unfold(
        state,
        |(mut pieces, mut decoder, mut ready, over)| async move {
            if over {
                return None;
            }
            loop {
                if let Some(piece) = ready.pop_front() {
                    return Some((Ok(piece), (pieces, decoder, ready, false)));
                }
                let failed = match pieces.next().await {
                    Some(Ok(mut piece)) => match decoder.push(&mut piece, &mut ready) {
                        Ok(()) => continue,
                        Err(why) => Error::invalid(format!("the framing of the upload: {why}")),
                    },
                    Some(Err(error)) => error,
                    None if decoder.is_done() => return None,
                    None => Error::invalid("the upload ended in the middle"),
                };
                return Some((Err(failed), (pieces, decoder, ready, true)));
            }
        },
    )
}

/// Where the decoder is.
#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    /// In the line with the size.
    #[default]
    Size,
    /// So many bytes of content are still to come.
    Content(u64),
    /// In the empty line after content.
    Gap,
    /// In the trailers.
    Trailers,
    /// Behind the end.
    Done,
}

#[derive(Debug, Default)]
struct Decoder {
    place: Place,
    /// The line that has begun.
    line: Vec<u8>,
}

impl Decoder {
    fn is_done(&self) -> bool {
        // Some clients leave out the empty line after the last chunk.
        matches!(self.place, Place::Done) || (self.place == Place::Trailers && self.line.is_empty())
    }

    /// Takes framed bytes and appends the content in them.
    fn push(
        &mut self,
        input: &mut Bytes,
        content: &mut VecDeque<Bytes>,
    ) -> Result<(), &'static str> {
        while input.has_remaining() {
            match self.place {
                Place::Content(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    content.push_back(input.split_to(count));
                    self.place = match left - count as u64 {
                        0 => Place::Gap,
                        left => Place::Content(left),
                    };
                }
                Place::Done => return Err("something follows its end"),
                Place::Size | Place::Gap | Place::Trailers => {
                    if let Some(line) = self.next_line(input)? {
                        self.place = self.after(&line)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The line that ends in `input`, without its end; `None` when it goes on.
    fn next_line(&mut self, input: &mut Bytes) -> Result<Option<Vec<u8>>, &'static str> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(input.len(), |at| at + 1);
        if self.line.len() + count > LINE_BYTES_MAX {
            return Err("a line is too long");
        }
        self.line.extend_from_slice(&input.split_to(count));
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.line);
        line.pop();
        match line.pop() {
            Some(b'\r') => Ok(Some(line)),
            _ => Err("a line does not end with CR LF"),
        }
    }

    fn after(&self, line: &[u8]) -> Result<Place, &'static str> {
        match self.place {
            Place::Size => {
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
                let digits = std::str::from_utf8(digits).map_err(|_| "a size is no number")?;
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err("a size is no number");
                }
                match u64::from_str_radix(digits, 16) {
                    Ok(0) => Ok(Place::Trailers),
                    Ok(size) => Ok(Place::Content(size)),
                    Err(_) => Err("a size is too large"),
                }
            }
            Place::Gap if line.is_empty() => Ok(Place::Size),
            Place::Gap => Err("content is longer than its size"),
            _ if line.is_empty() => Ok(Place::Done),
            _ => Ok(Place::Trailers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Result<Vec<u8>, &'static str> {
        let (mut decoder, mut content) = (Decoder::default(), VecDeque::new());
        for piece in pieces {
            decoder.push(&mut Bytes::copy_from_slice(piece), &mut content)?;
        }
        match decoder.is_done() {
            true => Ok(Vec::from(content).concat()),
            false => Err("not at its end"),
        }
    }

    #[test]
    fn signed_chunks_and_trailers_are_only_framing() {
        let framed = b"5;chunk-signature=ab\r\nhello\r\n0;chunk-signature=cd\r\nx-amz-checksum-crc32:AA==\r\n\r\n";
        assert_eq!(decode(&[framed]).unwrap(), b"hello");
        assert_eq!(decode(&[b"0\r\n"]).unwrap(), b"");
    }

    #[test]
    fn what_is_no_framing_is_refused() {
        for bad in [
            b"hello\r\n".as_slice(),
            b"5\nhello",
            b"5\r\nhello!\r\n",
            b"5\r\nhel",
            b"fffffffffffffffff\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"0\r\n\r\nmore",
            b"",
        ] {
            assert!(
                decode(&[bad]).is_err(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
        assert!(decode(&[&vec![b'1'; LINE_BYTES_MAX + 1]]).is_err());
    }

    proptest! {
        #[test]
        fn content_comes_out_as_it_went_in(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cut in 1usize..30,
        ) {
            let mut framed = Vec::new();
            for chunk in &chunks {
                framed.extend(format!("{:x}\r\n", chunk.len()).bytes());
                framed.extend(chunk);
                framed.extend(b"\r\n");
            }
            framed.extend(b"0\r\n\r\n");
            let pieces: Vec<&[u8]> = framed.chunks(cut).collect();
            prop_assert_eq!(decode(&pieces).unwrap(), chunks.concat());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _refused_or_not = decode(&[&bytes]);
        }
    }
}
