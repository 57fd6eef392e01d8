//! Texts that only the server can make, derived from a sandbox's own token.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::token;

/// 32 characters that may stand in a host name, 5 bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Seconds since the epoch for the next thousand years: 35 bits.
const EXPIRY_CHARS: usize = 7;
/// 120 bits: with the longest port, an id and an expiry just what a label of a
/// host name holds.
const MAC_BYTES: usize = 15;
const MAC_CHARS: usize = MAC_BYTES * 8 / 5;
/// 160 bits.
const TOKEN_BYTES: usize = 20;

/// A statement that is valid for some time: when it ends, and the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Seconds since the epoch.
    pub(crate) expires: i64,
    /// The proof.
    pub(crate) mac: String,
}

impl Seal {
    /// Length as text.
    pub(crate) const CHARS: usize = EXPIRY_CHARS + MAC_CHARS;

    /// For a signed URL of a port.
    pub(crate) fn signed(own: &str, port: u16, expires: i64) -> Self {
        Self::make(own, &format!("signed preview\n{port}"), expires)
    }

    /// For a browser that has shown something that opens a port; `origin` is the
    /// proof of the signed URL, if it was that.
    pub(crate) fn pass(own: &str, port: u16, expires: i64, origin: &str) -> Self {
        Self::make(own, &format!("preview pass\n{port}\n{origin}"), expires)
    }

    pub(crate) fn is_signed(&self, own: &str, port: u16) -> bool {
        self.is_same(&Self::signed(own, port, self.expires))
    }

    pub(crate) fn is_pass(&self, own: &str, port: u16, origin: &str) -> bool {
        self.is_same(&Self::pass(own, port, self.expires, origin))
    }

    fn make(own: &str, statement: &str, expires: i64) -> Self {
        Self {
            expires,
            mac: proof::<MAC_BYTES>(own, &format!("{statement}\n{expires}")),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        token::is_same(other.mac.as_bytes(), self.mac.as_bytes())
    }

    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (expires, mac) = text.split_at_checked(EXPIRY_CHARS)?;
        let value = |byte| ALPHABET.iter().position(|own| *own == byte);
        if mac.len() != MAC_CHARS || mac.bytes().any(|byte| value(byte).is_none()) {
            return None;
        }
        let expires = expires.bytes().try_fold(0i64, |sum, byte| {
            Some(sum << 5 | i64::try_from(value(byte)?).ok()?)
        })?;
        Some(Self {
            expires,
            mac: mac.to_owned(),
        })
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..EXPIRY_CHARS).rev() {
            let digit = usize::try_from(self.expires >> (5 * place) & 31).unwrap_or_default();
            write!(f, "{}", char::from(ALPHABET[digit]))?;
        }
        f.write_str(&self.mac)
    }
}

/// The token that opens one port.
pub(crate) fn port_token(own: &str, port: u16) -> String {
    proof::<TOKEN_BYTES>(own, &format!("preview token\n{port}"))
}

/// The first `BYTES` bytes of a MAC, a multiple of five, as text.
fn proof<const BYTES: usize>(own: &str, text: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(own.as_bytes()).expect("a key may have any length");
    mac.update(text.as_bytes());
    let mac = mac.finalize().into_bytes();
    mac[..BYTES]
        .chunks(5)
        .flat_map(|five| {
            let bits = five
                .iter()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            (0..8).rev().map(move |place| {
                let digit = usize::try_from(bits >> (5 * place) & 31).unwrap_or_default();
                char::from(ALPHABET[digit])
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_seal_is_of_one_statement() {
        let seal = Seal::signed("own", 3000, 1_800_000_000);
        assert!(seal.is_signed("own", 3000));
        assert!(!seal.is_signed("other", 3000));
        assert!(!seal.is_signed("own", 3001));
        assert!(!seal.is_pass("own", 3000, ""));
        let later = Seal {
            expires: seal.expires + 1,
            ..seal
        };
        assert!(!later.is_signed("own", 3000));
        assert!(!Seal::pass("own", 1, 9, "a").is_pass("own", 1, "b"));
        assert_eq!(port_token("own", 3000).len(), 32);
        assert_ne!(port_token("own", 3000), port_token("own", 3001));
    }

    #[test]
    fn it_fits_a_label_of_a_host_name() {
        let label = format!("65535-{}{}", "a".repeat(26), Seal::signed("x", 1, 2));
        assert_eq!(label.len(), 63);
    }

    proptest! {
        #[test]
        fn it_is_read_as_it_was_written(expires in 0i64..(1 << 35), port: u16) {
            let seal = Seal::signed("own", port, expires);
            prop_assert_eq!(Seal::parse(&seal.to_string()), Some(seal));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,40}") {
            if let Some(seal) = Seal::parse(&text) {
                prop_assert_eq!(seal.to_string(), text);
            }
        }
    }
}
