//! Finds out from a terminal's output when its shell is at its first prompt.

use super::shell::READY_MARK;

/// Output kept while the shell is not ready, bytes. A shell that says more than
/// this before its prompt is taken for one that has been there for long.
const HELD_BYTES_MAX: usize = 64 << 10;

/// Where the shell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Reading its start-up files.
    Starting,
    /// The mark came; the prompt is due.
    Due,
    /// At its prompt, or past it.
    Ready,
}

/// Holds the output back until the prompt is there, and takes the mark out.
#[derive(Debug)]
pub(super) struct Prompt {
    stage: Stage,
    held: Vec<u8>,
}

impl Prompt {
    /// Of a shell that was just started, or that has been there for long.
    pub(super) fn new(is_old: bool) -> Self {
        let stage = match is_old {
            true => Stage::Ready,
            false => Stage::Starting,
        };
        Self {
            stage,
            held: Vec::new(),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Takes a piece of output; what is to be shown of it, once the shell is ready.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.stage == Stage::Ready && self.held.is_empty() {
            // The kept output of an old terminal begins with the mark.
            return Some(without_mark(bytes));
        }
        self.held.extend_from_slice(bytes);
        if self.stage == Stage::Starting
            && let Some(at) = find(&self.held, READY_MARK.as_bytes())
        {
            self.stage = Stage::Due;
            let after = self.held.split_off(at + READY_MARK.len());
            self.held.truncate(at);
            let is_prompt_there = !after.is_empty();
            self.held.extend_from_slice(&after);
            return is_prompt_there.then(|| self.give_up());
        }
        let is_ready = self.stage == Stage::Due || self.held.len() > HELD_BYTES_MAX;
        is_ready.then(|| self.give_up())
    }

    /// Takes the shell for ready; the output held back.
    pub(super) fn give_up(&mut self) -> Vec<u8> {
        self.stage = Stage::Ready;
        std::mem::take(&mut self.held)
    }
}

fn without_mark(bytes: &[u8]) -> Vec<u8> {
    match find(bytes, READY_MARK.as_bytes()) {
        Some(at) => [&bytes[..at], &bytes[at + READY_MARK.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_prompt_after_the_mark_is_the_sign() {
        let mut prompt = Prompt::new(false);
        assert_eq!(prompt.push(b"welcome\r\n"), None);
        assert_eq!(prompt.push(READY_MARK.as_bytes()), None);
        assert_eq!(prompt.stage(), Stage::Due);
        assert_eq!(prompt.push(b"$ ").unwrap(), b"welcome\r\n$ ");
        assert_eq!(prompt.stage(), Stage::Ready);
        assert_eq!(prompt.push(b"x").unwrap(), b"x");
    }

    #[test]
    fn old_shells_and_talkative_ones_are_ready() {
        let mut old = Prompt::new(true);
        let replayed = format!("{READY_MARK}$ ls\r\n");
        assert_eq!(old.push(replayed.as_bytes()).unwrap(), b"$ ls\r\n");
        let mut talkative = Prompt::new(false);
        let text = vec![b'x'; HELD_BYTES_MAX + 1];
        assert_eq!(talkative.push(&text).unwrap(), text);
    }

    #[test]
    fn what_was_held_is_not_lost() {
        let mut prompt = Prompt::new(false);
        assert_eq!(prompt.push(b"\x1b]7329;re"), None);
        assert_eq!(prompt.give_up(), b"\x1b]7329;re");
        assert_eq!(prompt.push(b"ady").unwrap(), b"ady");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_only_the_mark_is_missing(
            before in "[a-z]{0,20}",
            after in "[a-z]{1,20}",
            cuts in prop::collection::vec(1_usize..10, 0..30),
        ) {
            let all = format!("{before}{READY_MARK}{after}");
            let mut prompt = Prompt::new(false);
            let mut shown = Vec::new();
            let mut rest = all.as_bytes();
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                rest = left;
                if !piece.is_empty() {
                    shown.extend(prompt.push(piece).unwrap_or_default());
                }
            }
            prop_assert_eq!(prompt.stage(), Stage::Ready);
            prop_assert_eq!(shown, format!("{before}{after}").into_bytes());
        }
    }
}
