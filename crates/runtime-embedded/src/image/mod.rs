//! Images: what the file system of a sandbox starts from.
//!
//! An image is a list of read-only layers and a few words (environment, working
//! folder, user). [`Store`] keeps them under the state folder, [`Store::import`]
//! takes them from archives that may be hostile, and [`Store::build`] makes
//! them from a recipe. Nothing here mounts a layer, runs a sandbox or talks to a
//! container registry.
//!
//! ```text
//! archive ─▶ source (decompress, hash, limit) ─▶ tar_stream (frames) ─▶ unpack (descriptors only)
//! recipe  ─▶ build (mmdebstrap, steps) ─▶ tar ──┘                         │
//!                                              store: layers/<sha256>/ ◀──┘ manifests/ names.json
//! ```

mod apt_sources;
mod build;
mod derive;
mod docker_archive;
mod docker_json;
mod entry_path;
mod error;
mod import;
mod manifest;
mod place;
mod recipe;
mod source;
mod state_file;
mod step;
mod store;
mod tar_stream;
mod unpack;
mod unused;
mod upper;
mod workspace;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod test_archive;

use std::{collections::BTreeMap, path::PathBuf};

use sandbox::Image;
use serde::{Serialize, Serializer};

pub use build::BuildOptions;
pub(crate) use derive::Writable;
pub use error::ImageError;
pub use store::{Hold, Store};

/// One image of the store, ready to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageRecord {
    /// The name with its tag; none for an image that was imported without one.
    #[serde(serialize_with = "name_as_text")]
    pub name: Option<Image>,
    /// The image's identity, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The folders of the layers, bottom first, as overlayfs stacks them.
    pub layers: Vec<PathBuf>,
    /// Environment of every process started from the image.
    pub env: BTreeMap<String, String>,
    /// Folder where commands start; absolute.
    pub workdir: String,
    /// The user that the image names for its commands, as written there
    /// (`name`, `uid` or `uid:gid`); none means root.
    pub user: Option<String>,
    /// What its author meant to be run.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Digest of what it was built from: a recipe, or the step of a build.
    pub built_from: Option<String>,
    /// Sum of the sizes of all files of all layers, bytes.
    pub size_bytes: u64,
    /// When it came into the store, milliseconds since 1970.
    pub created_ms: i64,
}

impl ImageRecord {
    /// Whether it is only the result of a step of a build, kept for the next one.
    #[must_use]
    pub fn is_step(&self) -> bool {
        self.name.is_none() && self.built_from.is_some()
    }
}

fn name_as_text<S: Serializer>(name: &Option<Image>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_ref().map(Image::as_str).serialize(serializer)
}

/// Who is told how a long operation goes on.
pub trait Progress {
    /// A step begins, or something worth a line was found.
    fn step(&self, text: &str);
    /// So many bytes of the archive are read, of so many if that is known.
    fn bytes(&self, done: u64, total: Option<u64>);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _text: &str) {}
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
}
