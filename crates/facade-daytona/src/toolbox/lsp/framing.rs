//! Messages of the language server protocol in a stream of bytes: headers that
//! tell the length, an empty line, and JSON.

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;

/// Bytes of the headers of one message.
const HEADERS_BYTES_MAX: usize = 8 << 10;
/// Bytes of one message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What comes is not of the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FramingError {
    #[error("the headers of a message are too long or tell no length")]
    Headers,
    #[error("a message of {0} bytes is over the limit of {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    #[error("a message is not JSON")]
    NotJson,
}

/// Puts messages together from pieces.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes a piece.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next message, when all of it is there.
    pub(super) fn next(&mut self) -> Result<Option<Value>, FramingError> {
        let window = &self.buffer[..self.buffer.len().min(HEADERS_BYTES_MAX)];
        let Some(end) = window.windows(4).position(|four| four == b"\r\n\r\n") else {
            return match window.len() < HEADERS_BYTES_MAX {
                true => Ok(None),
                false => Err(FramingError::Headers),
            };
        };
        let length = length(&self.buffer[..end]).ok_or(FramingError::Headers)?;
        if length > MESSAGE_BYTES_MAX {
            return Err(FramingError::TooLong(length));
        }
        let start = end + 4;
        if self.buffer.len() < start + length {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.buffer[start..start + length]);
        self.buffer.advance(start + length);
        message.map(Some).map_err(|_| FramingError::NotJson)
    }
}

/// The value of `Content-Length`.
fn length(headers: &[u8]) -> Option<usize> {
    let headers = std::str::from_utf8(headers).ok()?;
    headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.trim().eq_ignore_ascii_case("content-length");
        is_it.then(|| value.trim().parse().ok())?
    })
}

/// A message as bytes.
pub(super) fn encode(message: &Value) -> Bytes {
    let body = message.to_string();
    format!("Content-Length: {}\r\n\r\n{body}", body.len()).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_a_message_is_an_error() {
        let next = |text: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(text);
            decoder.next()
        };
        assert_eq!(next(b"Content-Length: 2\r\n\r\n{"), Ok(None));
        assert_eq!(
            next(b"Content-Type: x\r\n\r\n{}"),
            Err(FramingError::Headers)
        );
        assert_eq!(next(&[b'x'; HEADERS_BYTES_MAX]), Err(FramingError::Headers));
        assert_eq!(
            next(b"Content-Length: 2\r\n\r\n{x"),
            Err(FramingError::NotJson)
        );
        let huge = b"content-length: 99999999\r\n\r\n";
        assert_eq!(next(huge), Err(FramingError::TooLong(99_999_999)));
        let typed = b"Content-Type: a/b\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(next(typed), Ok(Some(json!({}))));
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(texts in prop::collection::vec(".{0,20}", 1..5), step in 1usize..40) {
            let messages: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
            let bytes: Vec<u8> = messages.iter().flat_map(encode).collect();
            let mut decoder = Decoder::default();
            let mut read = Vec::new();
            for piece in bytes.chunks(step) {
                decoder.push(piece);
                while let Some(message) = decoder.next().unwrap() {
                    read.push(message);
                }
            }
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
