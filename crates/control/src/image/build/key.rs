//! The key under which the result of a step is found again.

use sha2::{Digest as _, Sha256};

/// Everything that a step depends on, digested.
#[derive(Clone)]
pub(super) struct Key(Sha256);

impl Key {
    pub(super) fn new(kind: &str) -> Self {
        let mut key = Self(Sha256::new());
        key.add("step of a build, version 1");
        key.add(kind);
        key
    }

    /// Each part with its length before it, so that no two steps look alike.
    pub(super) fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    pub(super) fn finish(self) -> String {
        let digits = self.0.finalize();
        digits.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
