//! What the store writes about an image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layer {
    /// SHA-256 of the layer's uncompressed archive, 64 hexadecimal digits; the
    /// name of its folder.
    pub(super) digest: String,
    /// Sum of the sizes of its files.
    pub(super) size_bytes: u64,
}

/// The part of a manifest that gives the image its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Config {
    /// Bottom first.
    pub(super) layers: Vec<Layer>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) entrypoint: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) cmd: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    /// Digest of what the image was built from: a recipe, or the step of a build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recipe: Option<String>,
}

impl Config {
    /// The image's identity without its `sha256:`. Struct fields and maps are
    /// written in a fixed order, so equal images have equal digests.
    pub(super) fn digest(&self) -> String {
        let text = serde_json::to_vec(self).expect("strings and numbers always serialize");
        hexadecimal(&Sha256::digest(text))
    }
}

/// A file of the folder `manifests`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Config,
    /// Milliseconds since 1970.
    pub(super) created_ms: i64,
}

/// Lower-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Whether `text` is 64 lower-case hexadecimal digits, safe as a file name.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
