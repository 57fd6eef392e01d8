//! Bytes of output as text.

/// Turns pieces of UTF-8 into text as they come: a character that is cut by the
/// end of a piece waits for its rest, and what is not UTF-8 is replaced.
#[derive(Debug, Default)]
pub(super) struct TextDecoder {
    /// The beginning of a character; at most three bytes.
    rest: Vec<u8>,
}

impl TextDecoder {
    /// The text up to the last whole character.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let whole = all.len() - cut_bytes(&all);
        self.rest = all.split_off(whole);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// How many bytes at the end begin a character whose rest is missing.
fn cut_bytes(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|count| {
            let first = bytes[bytes.len() - count];
            let length = match first {
                0xC2..=0xDF => 2,
                0xE0..=0xEF => 3,
                0xF0..=0xF4 => 4,
                _ => 0,
            };
            length > *count
        })
        // Only if what follows the first byte can belong to it.
        .filter(|count| {
            bytes[bytes.len() - count + 1..]
                .iter()
                .all(|byte| byte & 0xC0 == 0x80)
        })
        .unwrap_or(0)
}

/// A text without the escape sequences that colour it on a terminal.
pub(super) fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = after.find(|c: char| !matches!(c, '0'..='9' | ';'));
        rest = match end {
            Some(end) if after[end..].starts_with('m') => &after[end + 1..],
            _ => after,
        };
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_are_removed() {
        assert_eq!(without_colours("a\u{1b}[0;31mb\u{1b}[0m c"), "ab c");
        assert_eq!(without_colours("\u{1b}[1;"), "1;");
    }

    proptest! {
        #[test]
        fn however_text_is_cut_it_comes_back(text in any::<String>(), cuts in prop::collection::vec(0_usize..100, 0..8)) {
            let mut decoder = TextDecoder::default();
            let mut decoded = String::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                decoded.push_str(&decoder.push(piece));
                rest = after;
            }
            decoded.push_str(&decoder.push(rest));
            decoded.push_str(&decoder.finish());
            prop_assert_eq!(decoded, text);
        }

        #[test]
        fn any_bytes_are_held_back_by_at_most_three(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut decoder = TextDecoder::default();
            let _text = decoder.push(&bytes);
            prop_assert!(decoder.rest.len() <= 3);
        }
    }
}
