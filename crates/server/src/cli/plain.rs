//! Takes colours out of text that does not go to a terminal.

/// Longest sequence taken for a colour, bytes; longer ones are passed on.
const SEQUENCE_BYTES_MAX: usize = 64;

/// Removes the sequences `ESC [ … m`, also when pieces cut them apart.
#[derive(Debug, Default)]
pub(super) struct Plain {
    /// What may become such a sequence.
    pending: Vec<u8>,
}

impl Plain {
    /// The piece without colours; what may go on in the next piece is held back.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(piece.len());
        for &byte in piece {
            self.pending.push(byte);
            match (self.pending.len(), byte) {
                (1, b'\x1b') | (2, b'[') => {}
                (3.., b'm') => self.pending.clear(),
                (3..SEQUENCE_BYTES_MAX, b'0'..=b'9' | b';' | b':') => {}
                (_, b'\x1b') => {
                    // Not a colour, but perhaps the beginning of one.
                    self.pending.pop();
                    plain.append(&mut self.pending);
                    self.pending.push(byte);
                }
                _ => plain.append(&mut self.pending),
            }
        }
        plain
    }

    /// What was held back at the end.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &[u8], cut: usize) -> Vec<u8> {
        let mut filter = Plain::default();
        let mut out: Vec<u8> = text
            .chunks(cut)
            .flat_map(|piece| filter.push(piece))
            .collect();
        out.extend(filter.rest());
        out
    }

    #[test]
    fn colours_go_and_everything_else_stays() {
        for cut in 1..8 {
            assert_eq!(
                plain(b"\x1b[31mred\x1b[0m \x1b[38;5;28;01mx\x1b[m", cut),
                b"red x"
            );
            assert_eq!(
                plain(b"\x1b[2Kline\x1b[\x1b\x1b[1mm\x1b", cut),
                b"\x1b[2Kline\x1b[\x1bm\x1b"
            );
        }
    }

    proptest! {
        #[test]
        fn text_without_escapes_is_untouched(text in prop::collection::vec(any::<u8>().prop_filter("escape", |b| *b != 0x1b), 0..200), cut in 1usize..9) {
            prop_assert_eq!(plain(&text, cut), text);
        }

        #[test]
        fn pieces_do_not_matter(text in "(\x1b|\\[|[0-9;]|m|a){0,60}", cut in 1usize..9) {
            prop_assert_eq!(plain(text.as_bytes(), cut), plain(text.as_bytes(), 1000));
        }
    }
}
