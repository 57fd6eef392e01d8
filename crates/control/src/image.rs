//! Images, as facades see them: listed, pulled, built from a Dockerfile, made
//! of a sandbox.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use sandbox::{Error, Name, Result, Space};

use crate::{Control, PieceStream};

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name with tag; `None` when it has lost it.
    pub name: Option<String>,
    /// `sha256:…` of what it consists of.
    pub digest: String,
    /// Its size on disk in bytes, layers shared with others included.
    pub size_bytes: u64,
    /// When it was made, milliseconds since the epoch.
    pub created_ms: i64,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: String,
    /// User that the image names.
    pub user: String,
    /// What its author meant to be run.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint.
    pub cmd: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An image to be built from a Dockerfile.
#[derive(Clone, Debug, Default)]
pub struct ImageBuild {
    /// Name of the image.
    pub name: String,
    /// The text of the Dockerfile.
    pub dockerfile: String,
    /// A tar archive with the files that `COPY` and `ADD` take.
    pub context: Option<PathBuf>,
    /// Values of `ARG`.
    pub args: BTreeMap<String, String>,
    /// Entrypoint instead of the one that the Dockerfile names.
    pub entrypoint: Option<Vec<String>>,
}

/// What an image job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageJobKind {
    /// Pulls from a registry.
    Pull,
    /// Builds from a Dockerfile.
    Build,
}

/// Where an image job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageJobState {
    /// Waits for its turn.
    Queued,
    /// At work.
    Running,
    /// The image is there.
    Done(Box<ImageInfo>),
    /// It failed; the text says at what and what to do.
    Failed(String),
}

/// A pull or build that was begun in this life of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageJob {
    /// Name of the image.
    pub name: String,
    /// What it does.
    pub kind: ImageJobKind,
    /// Where it is.
    pub state: ImageJobState,
    /// When it was begun, milliseconds since the epoch.
    pub started_ms: i64,
}

impl Control {
    /// All images, by name; unnamed ones last.
    ///
    /// # Errors
    /// When the runtime cannot tell.
    pub async fn images(&self) -> Result<Vec<ImageInfo>> {
        Err(not_yet())
    }

    /// The image that a name stands for: by alias, else a local one of that name.
    ///
    /// # Errors
    /// `NotFound` lists what exists.
    pub async fn find_image(&self, _name: &str) -> Result<ImageInfo> {
        Err(not_yet())
    }

    /// As [`Control::find_image`]; an image that is not there is pulled from its
    /// registry, which may take minutes.
    ///
    /// # Errors
    /// `NotFound` when neither is possible; the message says what was tried.
    pub async fn ensure_image(&self, _name: &str) -> Result<ImageInfo> {
        Err(not_yet())
    }

    /// Removes the name, and with the last name the image. Sandboxes made from it run on.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove_image(&self, _name: &str) -> Result<()> {
        Err(not_yet())
    }

    /// Begins to pull an image; joins a pull of the same name that is under way.
    ///
    /// # Errors
    /// `InvalidRequest` for a name that is none.
    pub async fn begin_pull(&self, _name: &str) -> Result<ImageJob> {
        Err(not_yet())
    }

    /// Begins to build an image.
    ///
    /// # Errors
    /// `InvalidRequest` naming the line of the Dockerfile; `Conflict` when an image
    /// of that name is just being made.
    pub async fn begin_build(&self, _build: ImageBuild) -> Result<ImageJob> {
        Err(not_yet())
    }

    /// The latest job for an image of this name.
    #[must_use]
    pub fn image_job(&self, _name: &str) -> Option<ImageJob> {
        None
    }

    /// Waits until the job for an image of this name has ended.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, and why it failed.
    pub async fn image_job_done(&self, _name: &str) -> Result<ImageInfo> {
        Err(not_yet())
    }

    /// What a job has said, and with `follow` what it says until it ends.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub fn image_job_log(&self, _name: &str, _follow: bool) -> Result<PieceStream<Bytes>> {
        Err(not_yet())
    }

    /// Makes an image of the files of a sandbox; its processes are frozen meanwhile.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` for the name of the image, or the failed step.
    pub async fn commit_image(
        &self,
        _space: &Space,
        _name: &Name,
        _image: &str,
    ) -> Result<ImageInfo> {
        Err(not_yet())
    }
}

fn not_yet() -> Error {
    Error::unavailable("not yet")
}
