//! Text that must never be printed.

use std::fmt;

/// A secret. It has no `Display`, its `Debug` hides it, and it is compared in constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `given` is this secret; the time taken tells at most the lengths.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        if own.len() != given.len() {
            return false;
        }
        let difference = own
            .iter()
            .zip(given)
            .fold(0u8, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_printed() {
        let secret = Secret::new("correct horse battery staple");
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
    }

    #[test]
    fn only_the_exact_text_matches() {
        let secret = Secret::new("abc");
        assert!(secret.matches(b"abc"));
        for wrong in [&b"abd"[..], b"ab", b"abcd", b"", b"ABC"] {
            assert!(!secret.matches(wrong));
        }
    }
}
