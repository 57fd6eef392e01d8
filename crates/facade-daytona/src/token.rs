//! Unguessable texts, and comparing them.

use std::hint::black_box;

use sandbox::{Error, Result};

/// 32 characters that cannot be confused and may stand in a host name, 5 bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 52 characters of 5 bits: 260 random bits.
const CHARS: usize = 52;

/// A new token: 260 random bits as lower-case letters and digits.
///
/// # Errors
/// When the kernel's random source fails.
pub(crate) fn random() -> Result<String> {
    let mut bytes = [0u8; CHARS];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal("the kernel's random source failed").with_source(error))?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]))
        .collect())
}

/// Whether both are the same and not empty; the time taken tells at most the lengths.
pub(crate) fn is_same(own: &[u8], given: &[u8]) -> bool {
    if own.is_empty() || own.len() != given.len() {
        return false;
    }
    let difference = own
        .iter()
        .zip(given)
        .fold(0u8, |sum, (a, b)| black_box(sum | (a ^ b)));
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_fit_a_host_name() {
        let (first, second) = (random().unwrap(), random().unwrap());
        assert_ne!(first, second);
        assert!(first.len() <= 63 && first.bytes().all(|b| b.is_ascii_alphanumeric()));
    }

    #[test]
    fn only_the_same_token_is_the_same() {
        assert!(is_same(b"abc", b"abc"));
        for (own, given) in [("abc", "abd"), ("abc", "ab"), ("", ""), ("abc", "")] {
            assert!(!is_same(own.as_bytes(), given.as_bytes()), "{own} {given}");
        }
    }
}
