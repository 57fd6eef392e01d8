//! The framing: five bytes of header, then the payload.
//!
//! ```text
//! ┌────────────────────┬──────┬─────────┐
//! │ payload length u32 │ kind │ payload │
//! │ little endian      │ u8   │         │
//! └────────────────────┴──────┴─────────┘
//! ```

use serde::{Serialize, de::DeserializeOwned};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 5;

/// Longest payload either side accepts. A rich result (a plot) must fit.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// How much file content or output goes into one frame: large enough that the
/// cost of a frame does not show, small enough to be held in memory per stream.
pub const CHUNK_BYTES: usize = 256 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A [`crate::Request`] or [`crate::Reply`] as JSON.
    Message = 1,
    /// Bytes for standard input, or content of a file to write.
    Input = 2,
    /// No more input; the payload is empty.
    InputEnd = 3,
    /// Bytes of standard output (of both outputs, when merged), or content of a file read.
    Output = 4,
    /// Bytes of standard error, when not merged.
    Error = 5,
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: FrameKind,
    /// Length of the payload in bytes, at most [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes: usize,
}

/// Why bytes are not a frame. The stream cannot be used any more after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The kind byte is unknown.
    #[error("frame of unknown kind {0}")]
    UnknownKind(u8),
    /// The announced payload is over [`PAYLOAD_BYTES_MAX`].
    #[error("frame of {0} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLong(u32),
    /// The payload is not the expected message.
    #[error("malformed message: {0}")]
    Malformed(String),
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Message,
            Self::Input,
            Self::InputEnd,
            Self::Output,
            Self::Error,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// When the kind is unknown or the payload over the limit.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [a, b, c, d, kind] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]);
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
        let payload_bytes = usize::try_from(length).map_err(|_| FrameError::TooLong(length))?;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        Ok(Self {
            kind,
            payload_bytes,
        })
    }

    /// Writes the header of a payload.
    ///
    /// # Panics
    /// When the payload is over [`PAYLOAD_BYTES_MAX`]: callers split before.
    #[must_use]
    pub fn encode(kind: FrameKind, payload_bytes: usize) -> [u8; HEADER_BYTES] {
        assert!(payload_bytes <= PAYLOAD_BYTES_MAX, "payload over the limit");
        let length = u32::try_from(payload_bytes).expect("the limit fits u32");
        let [a, b, c, d] = length.to_le_bytes();
        [a, b, c, d, kind as u8]
    }
}

/// A whole frame with a message in it.
///
/// # Errors
/// When the message does not serialize or is over the limit.
pub fn encode_message<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let payload_bytes = bytes.len() - HEADER_BYTES;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong(
            u32::try_from(payload_bytes).unwrap_or(u32::MAX),
        ));
    }
    bytes[..HEADER_BYTES].copy_from_slice(&Header::encode(FrameKind::Message, payload_bytes));
    Ok(bytes)
}

/// The message in a payload.
///
/// # Errors
/// When the payload is not that message.
pub fn decode_message<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|e| FrameError::Malformed(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_within_bounds(bytes in any::<[u8; HEADER_BYTES]>()) {
            if let Ok(header) = Header::decode(bytes) {
                prop_assert!(header.payload_bytes <= PAYLOAD_BYTES_MAX);
                prop_assert_eq!(Header::encode(header.kind, header.payload_bytes), bytes);
            }
        }
    }
}
