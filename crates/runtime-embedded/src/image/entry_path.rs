//! Names of archive entries, made safe before any of them meets the kernel.

use super::ImageError;

/// Longest name of an entry or target of a link, bytes: the kernel's `PATH_MAX`.
pub(super) const PATH_BYTES_MAX: usize = 4096;
/// Longest component, bytes: the kernel's `NAME_MAX`.
const COMPONENT_BYTES_MAX: usize = 255;

/// A place below the root of the image: no `..`, no empty component, no leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryPath {
    /// The folder, components joined by `/`; empty for the root.
    pub(super) parent: Vec<u8>,
    /// The last component.
    pub(super) name: Vec<u8>,
}

impl EntryPath {
    /// The place that `raw` names, or none when it is the root itself.
    ///
    /// A leading slash is taken as the image's root, as every container engine
    /// does. `..` is refused, also where it would stay inside: no honest archive
    /// has it, and a reader that resolves it must agree with all others.
    pub(super) fn parse(raw: &[u8]) -> Result<Option<Self>, ImageError> {
        if raw.len() > PATH_BYTES_MAX {
            return Err(refused(raw, "its name is longer than 4096 bytes"));
        }
        if raw.contains(&0) {
            return Err(refused(raw, "its name holds a zero byte"));
        }
        let mut parent = Vec::new();
        let mut name: &[u8] = b"";
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(refused(raw, "its name holds `..`")),
                long if long.len() > COMPONENT_BYTES_MAX => {
                    return Err(refused(raw, "a part of its name is longer than 255 bytes"));
                }
                component => {
                    if !name.is_empty() {
                        if !parent.is_empty() {
                            parent.push(b'/');
                        }
                        parent.extend_from_slice(name);
                    }
                    name = component;
                }
            }
        }
        Ok((!name.is_empty()).then(|| Self {
            parent,
            name: name.to_vec(),
        }))
    }
}

/// The name of an entry for people: lossy and bounded.
pub(super) fn shown(raw: &[u8]) -> String {
    const SHOWN_CHARS_MAX: usize = 200;
    String::from_utf8_lossy(raw)
        .chars()
        .take(SHOWN_CHARS_MAX)
        .collect()
}

/// [`ImageError::Refused`] for the entry.
pub(super) fn refused(raw: &[u8], why: impl Into<String>) -> ImageError {
    ImageError::Refused {
        entry: shown(raw),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(raw: &str) -> Option<(String, String)> {
        EntryPath::parse(raw.as_bytes()).unwrap().map(|path| {
            (
                String::from_utf8(path.parent).unwrap(),
                String::from_utf8(path.name).unwrap(),
            )
        })
    }

    #[test]
    fn names_are_split_and_cleaned() {
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(parsed("./etc/passwd"), pair("etc", "passwd"));
        assert_eq!(parsed("/etc//apt/./x/"), pair("etc/apt", "x"));
        assert_eq!(parsed("a"), pair("", "a"));
        assert_eq!(parsed("..."), pair("", "..."));
        assert_eq!(parsed("./"), None);
        assert_eq!(parsed("/"), None);
    }

    #[test]
    fn dangerous_names_are_refused() {
        for bad in ["..", "a/../b", "../x", "/..", "a\0b"] {
            assert!(EntryPath::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(EntryPath::parse(&[b'a'; 256]).is_err());
        assert!(EntryPath::parse(&b"a/".repeat(2049)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_only_plain_components(raw in proptest::collection::vec(
            proptest::sample::select(&b"./a\0b"[..]), 0..40)) {
            if let Ok(Some(path)) = EntryPath::parse(&raw) {
                let mut whole = path.parent.clone();
                if !whole.is_empty() { whole.push(b'/'); }
                whole.extend_from_slice(&path.name);
                for component in whole.split(|byte| *byte == b'/') {
                    prop_assert!(!component.is_empty() && component != b"." && component != b"..");
                    prop_assert!(!component.contains(&0));
                }
            }
        }
    }
}
