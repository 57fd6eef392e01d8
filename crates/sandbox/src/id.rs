//! Identities: the unguessable [`Id`], and the names people choose.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

/// 32 characters that cannot be confused, 5 bits each.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 26 characters of 5 bits: 130 random bits.
const ID_CHARS: usize = 26;

/// The identity of one sandbox for its whole life, never reused.
///
/// 130 random bits, so that it can be part of a URL without being guessable,
/// written in lower-case letters and digits, so that it can be a file, cgroup
/// or host name without escaping.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// A new random id.
    ///
    /// # Errors
    /// When the kernel's random source fails.
    pub fn random() -> Result<Self> {
        random_text(ID_CHARS).map(Self)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `length` random characters of the id alphabet.
fn random_text(length: usize) -> Result<String> {
    let mut bytes = vec![0u8; length];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal("the kernel's random source failed").with_source(error))?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]))
        .collect())
}

impl FromStr for Id {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        if text.len() == ID_CHARS && text.bytes().all(|byte| ALPHABET.contains(&byte)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(format!("{text:?} is not a sandbox id")))
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest name of a sandbox or a space: it must fit a host name label.
const NAME_CHARS_MAX: usize = 63;

/// Whether `text` is 1 to 63 letters, digits, `-`, `_` or `.` beginning with a letter or digit.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_CHARS_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                if is_name(text) {
                    return Ok(Self(text.to_owned()));
                }
                let shown: String = text.chars().take(80).collect();
                Err(Error::invalid(format!(
                    concat!("field `", $field, "`: {:?} is not a valid name; use 1 to {} letters, digits, '-', '_' or '.', beginning with a letter or digit"),
                    shown, NAME_CHARS_MAX
                )))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a sandbox, unique in its space while the sandbox lives.
    Name,
    "name"
);
name_type!(
    /// The owner scope of sandbox names, limits and keys.
    Space,
    "space"
);

/// Length of made-up names, as in the original server.
const MADE_UP_NAME_CHARS: usize = 20;

impl Name {
    /// A made-up name of 20 lower-case letters and digits, as the original server makes.
    ///
    /// # Errors
    /// When the kernel's random source fails.
    pub fn random() -> Result<Self> {
        random_text(MADE_UP_NAME_CHARS).map(Self)
    }
}

impl Default for Space {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (first, second) = (Id::random().unwrap(), Id::random().unwrap());
        assert_ne!(first, second);
        assert_eq!(first, first.as_str().parse().unwrap());
    }

    #[test]
    fn ids_reject_paths_and_case() {
        for bad in ["", "..", "a/b", "ABCDEFGHIJKMNPQRSTUVWXYZ23", "short"] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn names_are_safe_as_one_path_component(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<Name>() {
                let name = name.as_str();
                prop_assert!(!name.is_empty() && name.len() <= 63);
                prop_assert!(!name.contains(['/', '\0', ' ']) && name != "." && name != "..");
            }
        }
    }

    #[test]
    fn a_bad_name_is_told_with_field_and_rule() {
        let message = "a b".parse::<Name>().unwrap_err().message;
        assert!(
            message.contains("`name`") && message.contains("letters"),
            "{message}"
        );
    }
}
