//! Text from a stream of bytes that is cut anywhere.
//!
//! ```text
//! chunks   "gr\xc3" "\xbc\xc3\x9f" "e\xff"
//! pieces   "gr"     "üß"           e\xff as bytes
//! ```
//! Nothing is lost or changed: the pieces, put together, are the chunks.

/// A character is cut at most so many bytes before its end.
const CUT_BYTES_MAX: usize = 3;

/// What one chunk becomes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// It is text.
    Text(String),
    /// It is not UTF-8; the bytes as they are.
    Bytes(Vec<u8>),
}

/// Decodes one stream of bytes, chunk by chunk.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The beginning of a character whose rest is still to come.
    cut: Vec<u8>,
}

impl Decoder {
    /// What to pass on now that `chunk` has come; nothing when that is only
    /// part of a character.
    ///
    /// A chunk with a wrong byte is passed on as bytes as a whole, so that
    /// binary output becomes one piece per chunk and not one per byte.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Option<Decoded> {
        let mut bytes = std::mem::take(&mut self.cut);
        bytes.extend_from_slice(chunk);
        match String::from_utf8(bytes) {
            Ok(text) => (!text.is_empty()).then_some(Decoded::Text(text)),
            Err(error) => {
                let problem = error.utf8_error();
                let mut bytes = error.into_bytes();
                if problem.error_len().is_some() {
                    return Some(Decoded::Bytes(bytes));
                }
                self.cut = bytes.split_off(problem.valid_up_to());
                debug_assert!(
                    self.cut.len() <= CUT_BYTES_MAX,
                    "UTF-8 takes 4 bytes at most"
                );
                match String::from_utf8(bytes) {
                    Ok(text) => (!text.is_empty()).then_some(Decoded::Text(text)),
                    Err(error) => Some(Decoded::Bytes(error.into_bytes())),
                }
            }
        }
    }

    /// What is left when the stream has ended: a character that stayed cut.
    pub(crate) fn finish(&mut self) -> Option<Decoded> {
        let cut = std::mem::take(&mut self.cut);
        (!cut.is_empty()).then_some(Decoded::Bytes(cut))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts `bytes` at `cuts` and decodes the chunks.
    fn decode(bytes: &[u8], cuts: &[usize]) -> Vec<Decoded> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut decoder = Decoder::default();
        let mut pieces: Vec<Decoded> = cuts
            .windows(2)
            .filter_map(|ends| decoder.feed(&bytes[ends[0]..ends[1]]))
            .collect();
        pieces.extend(decoder.finish());
        pieces
    }

    fn together(pieces: &[Decoded]) -> Vec<u8> {
        let bytes = pieces.iter().flat_map(|piece| match piece {
            Decoded::Text(text) => text.as_bytes().to_vec(),
            Decoded::Bytes(bytes) => bytes.clone(),
        });
        bytes.collect()
    }

    proptest! {
        #[test]
        fn any_bytes_cut_anywhere_come_out_unchanged(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let pieces = decode(&bytes, &cuts);
            prop_assert_eq!(together(&pieces), bytes);
        }

        #[test]
        fn text_cut_anywhere_stays_text(
            text in "[a-zä-ÿ→✓𝄞😀\\n]{0,60}",
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let pieces = decode(text.as_bytes(), &cuts);
            prop_assert!(pieces.iter().all(|piece| matches!(piece, Decoded::Text(text) if !text.is_empty())));
            prop_assert_eq!(together(&pieces), text.into_bytes());
        }
    }

    #[test]
    fn a_character_cut_at_the_end_is_not_lost() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(b"a\xf0\x9f"), Some(Decoded::Text("a".into())));
        assert_eq!(decoder.feed(b""), None);
        assert_eq!(decoder.finish(), Some(Decoded::Bytes(vec![0xf0, 0x9f])));
        assert_eq!(decoder.finish(), None);
    }
}
