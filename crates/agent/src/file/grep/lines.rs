//! Lines of a file that contain a text, from pieces of it.

use memchr::memmem::Finder;

/// Bytes read at once. The longest text fits in many times.
const PIECE_BYTES: usize = 256 << 10;

/// How much of a line is told.
const TEXT_BYTES_MAX: usize = 1000;

/// See the module.
pub(super) struct Lines<'a> {
    finder: Finder<'a>,
    buffer: Vec<u8>,
    filled: usize,
    /// The number of the line at the beginning of the buffer.
    line: u64,
    /// The beginning of a line too long for the buffer, of which it holds a part.
    long: Option<Long>,
    found: Vec<(u64, String)>,
}

struct Long {
    head: Vec<u8>,
    is_told: bool,
}

impl<'a> Lines<'a> {
    /// For a text, which has no end of line in it.
    pub(super) fn new(pattern: &'a [u8]) -> Self {
        Self::with_buffer(pattern, PIECE_BYTES)
    }

    fn with_buffer(pattern: &'a [u8], bytes: usize) -> Self {
        Self {
            finder: Finder::new(pattern),
            buffer: vec![0; bytes],
            filled: 0,
            line: 1,
            long: None,
            found: Vec::new(),
        }
    }

    /// A file begins.
    pub(super) fn begin(&mut self) {
        (self.filled, self.line, self.long) = (0, 1, None);
        self.found.clear();
    }

    /// Where the next piece of the file is to be put; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes were put there.
    pub(super) fn filled(&mut self, count: usize) {
        self.filled += count;
        let kept = match memchr::memrchr(b'\n', &self.buffer[..self.filled]) {
            Some(end) => {
                self.search(end + 1);
                end + 1
            }
            None if self.filled == self.buffer.len() => self.pass_long(),
            None => return,
        };
        self.buffer.copy_within(kept..self.filled, 0);
        self.filled -= kept;
    }

    /// The file has ended.
    pub(super) fn end(&mut self) {
        self.search(self.filled);
        self.filled = 0;
    }

    /// What was found since the last call: numbers and texts of lines.
    pub(super) fn take_found(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.found)
    }

    /// Searches the first bytes, which end with a line.
    fn search(&mut self, length: usize) {
        let mut from = match self.long.take() {
            Some(long) => self.finish_long(&long, length),
            None => 0,
        };
        while let Some(at) = self.finder.find(&self.buffer[from..length]) {
            let at = from + at;
            let before = &self.buffer[from..at];
            let start = memchr::memrchr(b'\n', before).map_or(from, |end| from + end + 1);
            self.line += count_lines(&self.buffer[from..start]);
            let end = memchr::memchr(b'\n', &self.buffer[at..length]);
            let end = end.map_or(length, |end| at + end);
            self.found
                .push((self.line, shown(&self.buffer[start..end])));
            from = (end + 1).min(length);
            self.line += u64::from(end < length);
        }
        self.line += count_lines(&self.buffer[from..length]);
    }

    /// Searches the rest of a long line; where the next one begins.
    fn finish_long(&mut self, long: &Long, length: usize) -> usize {
        let end = memchr::memchr(b'\n', &self.buffer[..length]);
        let rest = &self.buffer[..end.unwrap_or(length)];
        if !long.is_told && self.finder.find(rest).is_some() {
            self.found.push((self.line, shown(&long.head)));
        }
        self.line += u64::from(end.is_some());
        end.map_or(length, |end| end + 1)
    }

    /// Searches a buffer full of one line; how much of it is not needed any more.
    fn pass_long(&mut self) -> usize {
        let buffer = &self.buffer[..self.filled];
        let long = self.long.get_or_insert_with(|| Long {
            head: buffer[..buffer.len().min(TEXT_BYTES_MAX + 1)].to_vec(),
            is_told: false,
        });
        if !long.is_told && self.finder.find(buffer).is_some() {
            self.found.push((self.line, shown(&long.head)));
            long.is_told = true;
        }
        // The text may begin here and go on in the next piece.
        self.filled - (self.finder.needle().len() - 1)
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// A line as it is told.
fn shown(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() <= TEXT_BYTES_MAX {
        return String::from_utf8_lossy(line).into_owned();
    }
    let mut end = TEXT_BYTES_MAX;
    // Not in the middle of a character.
    while end > TEXT_BYTES_MAX - 4 && line[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    let mut text = String::from_utf8_lossy(&line[..end]).into_owned();
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(text: &[u8], pattern: &[u8], buffer: usize, piece: usize) -> Vec<(u64, String)> {
        let mut lines = Lines::with_buffer(pattern, buffer);
        lines.begin();
        let (mut all, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let room = lines.room();
            let count = room.len().min(rest.len()).min(piece);
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            lines.filled(count);
            all.extend(lines.take_found());
        }
        lines.end();
        all.extend(lines.take_found());
        all
    }

    #[test]
    fn long_lines_are_shortened_between_characters() {
        let line = format!("{}é{}", "a".repeat(TEXT_BYTES_MAX - 1), "b".repeat(100));
        let found = search(line.as_bytes(), b"b", PIECE_BYTES, PIECE_BYTES);
        assert_eq!(found[0].1, format!("{}…", "a".repeat(TEXT_BYTES_MAX - 1)));
        assert_eq!(search(b"x\r\n", b"x", 64, 64), [(1, "x".to_owned())]);
    }

    proptest! {
        #[test]
        fn the_same_lines_are_found_as_by_hand(
            text in "[ab\n]{0,200}",
            pattern in "[ab]{1,3}",
            buffer in 4_usize..40,
            piece in 1_usize..20,
        ) {
            let found = search(text.as_bytes(), pattern.as_bytes(), buffer, piece);
            let numbers: Vec<u64> = found.iter().map(|(line, _)| *line).collect();
            let expected: Vec<u64> = text
                .split('\n')
                .zip(1..)
                .filter(|(line, _)| line.contains(&pattern))
                .map(|(_, number)| number)
                .collect();
            prop_assert_eq!(numbers, expected);
            for (line, text_found) in &found {
                let index = usize::try_from(*line).unwrap() - 1;
                let whole = text.split('\n').nth(index).unwrap();
                // Of a line longer than the buffer only the beginning is kept.
                prop_assert!(whole.starts_with(text_found.as_str()));
            }
        }
    }
}
