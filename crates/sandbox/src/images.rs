//! The part of a runtime that keeps images: what sandboxes start from.

use std::{collections::BTreeMap, fs::File};

use async_trait::async_trait;

use crate::{Id, Image, Result};

/// What an image says about the processes started from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Folder where commands start; absolute.
    pub workdir: String,
    /// User as its author wrote it (`name`, `uid`, `uid:gid`); `None` means root.
    pub user: Option<String>,
    /// What its author meant to be run.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An image that the runtime has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundImage {
    /// Its name with tag; `None` for one without a name.
    pub name: Option<Image>,
    /// Its identity: `sha256:` and 64 hexadecimal digits. Also accepted wherever
    /// a name is.
    pub digest: String,
    /// Sum of the sizes of its files in bytes, layers shared with others included.
    pub size_bytes: u64,
    /// When it came to be, milliseconds since the epoch.
    pub created_ms: i64,
    /// What it says about processes.
    pub config: ImageConfig,
    /// The key that it was made under, see [`NewImage::built_from`].
    pub built_from: Option<String>,
}

/// How an image that is made of something else is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewImage {
    /// Its name, which another image then loses; `None` for one without a name.
    pub name: Option<Image>,
    /// What it says about processes.
    pub config: ImageConfig,
    /// A key of the caller's that says what the image was made from, so that it
    /// is found again by [`FoundImage::built_from`]. Unnamed images with such a
    /// key are a cache: the runtime forgets old ones.
    pub built_from: Option<String>,
}

/// The images of a runtime.
#[async_trait]
pub trait Images: Send + Sync {
    /// All images, by name; unnamed ones last. Those that only
    /// [`Images::find_built`] finds are not among them.
    ///
    /// # Errors
    /// When the images cannot be read.
    async fn list(&self) -> Result<Vec<FoundImage>>;

    /// The image with this name or digest.
    ///
    /// # Errors
    /// `NotFound` lists what exists.
    async fn find(&self, image: &Image) -> Result<FoundImage>;

    /// The unnamed image that was made under this key, while it is kept.
    ///
    /// # Errors
    /// When the images cannot be read.
    async fn find_built(&self, key: &str) -> Result<Option<FoundImage>>;

    /// Removes the name, and with the last name the image. Sandboxes made from it
    /// run on. A digest removes the image with all its names.
    ///
    /// # Errors
    /// `NotFound`, or the failed step.
    async fn remove(&self, image: &Image) -> Result<()>;

    /// Takes an image from an archive of `docker save`, an OCI image layout or a
    /// root file system, read from where `archive` stands, which may be a pipe.
    /// Without `name` it gets the one that the archive holds, or none.
    ///
    /// # Errors
    /// `InvalidRequest` saying what is wrong with the archive, or the failed step.
    async fn import(&self, archive: File, name: Option<&Image>) -> Result<FoundImage>;

    /// Makes an image of the layers of another one, without copying them.
    ///
    /// # Errors
    /// `NotFound`, or the failed step.
    async fn derive(&self, image: &Image, new: &NewImage) -> Result<FoundImage>;

    /// Makes an image of the files of a sandbox, whose processes are frozen meanwhile.
    ///
    /// # Errors
    /// `NotFound` when there is no such sandbox, `LimitReached` when it has too
    /// many files or bytes, or the failed step.
    async fn commit(&self, id: &Id, new: &NewImage) -> Result<FoundImage>;
}
