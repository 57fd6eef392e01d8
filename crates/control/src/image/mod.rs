//! Images, as facades see them: listed, pulled, built from a Dockerfile, made
//! of a sandbox.

mod build;
mod dockerfile;
mod job;
mod pull;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bytes::Bytes;
use sandbox::{Error, Fetch, FoundImage, Image, Images, Kind, Name, NewImage, Result, Space};

use crate::{Control, PieceStream, core::Core, request::resolve};

pub(crate) use build::space as build_space;
use job::Job;
pub(crate) use job::Jobs;

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
    pub contexts: Vec<PathBuf>,
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
        let found = self.core.images()?.list().await?;
        Ok(found.into_iter().map(ImageInfo::from).collect())
    }

    /// The image that a name stands for: by alias, else a local one of that name.
    ///
    /// # Errors
    /// `NotFound` lists what exists.
    pub async fn find_image(&self, name: &str) -> Result<ImageInfo> {
        let image = resolve(&self.core.config.image_aliases, name)?;
        Ok(self.core.images()?.find(&image).await?.into())
    }

    /// As [`Control::find_image`]; an image that is not there is pulled from its
    /// registry, which may take minutes.
    ///
    /// # Errors
    /// `NotFound` when neither is possible; the message says what was tried.
    pub async fn ensure_image(&self, name: &str) -> Result<ImageInfo> {
        let missing = match self.find_image(name).await {
            Err(error) if error.kind == Kind::NotFound => error,
            found => return found,
        };
        if self.core.fetch.get().is_none() {
            return Err(missing);
        }
        let image = resolve(&self.core.config.image_aliases, name)?;
        let image = image.as_str();
        let pulled = async {
            self.begin_pull(image).await?;
            self.image_job_done(image).await
        };
        pulled.await.map_err(|error| {
            let message = format!(
                "image `{name}` is not here and could not be pulled: {}",
                error.message
            );
            let kind = match error.kind {
                Kind::LimitReached | Kind::Cancelled | Kind::Internal => error.kind,
                _ => Kind::NotFound,
            };
            Error::new(kind, message).with_source(error)
        })
    }

    /// Removes the name, and with the last name the image. Sandboxes made from it
    /// run on. The name is taken as it is: an alias belongs to the configuration.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        self.core.images()?.remove(&name.parse()?).await
    }

    /// Begins to pull an image; joins a pull of the same name that is under way.
    ///
    /// # Errors
    /// `InvalidRequest` for a name that is none.
    pub async fn begin_pull(&self, name: &str) -> Result<ImageJob> {
        let image = resolve(&self.core.config.image_aliases, name)?;
        pull::check(&image)?;
        self.core.fetch()?;
        let core = &self.core;
        let (job, is_new) =
            core.image_jobs
                .begin(&image, ImageJobKind::Pull, core.clock.now_ms())?;
        if is_new {
            let work = pull::pull(Arc::clone(core), image, Arc::clone(&job));
            job::run(core, Arc::clone(&job), work);
        }
        Ok(job.view())
    }

    /// Begins to build an image. The file of the context is opened at once and
    /// may be removed afterwards.
    ///
    /// # Errors
    /// `InvalidRequest` naming the line of the Dockerfile; `Conflict` when an image
    /// of that name is just being made.
    pub async fn begin_build(&self, build: ImageBuild) -> Result<ImageJob> {
        let image: Image = build.name.parse()?;
        let plan = build::Plan::of(build)?;
        let core = &self.core;
        let now_ms = core.clock.now_ms();
        let (job, _) = core.image_jobs.begin(&image, ImageJobKind::Build, now_ms)?;
        let work = build::build(Arc::clone(core), image, plan, Arc::clone(&job));
        job::run(core, Arc::clone(&job), work);
        Ok(job.view())
    }

    /// The latest job for an image of this name.
    #[must_use]
    pub fn image_job(&self, name: &str) -> Option<ImageJob> {
        Some(self.job(name).ok()?.view())
    }

    /// Waits until the job for an image of this name has ended.
    ///
    /// # Errors
    /// `NotFound` when there is no such job, and why it failed.
    pub async fn image_job_done(&self, name: &str) -> Result<ImageInfo> {
        self.job(name)?.done().await
    }

    /// What a job has said, and with `follow` what it says until it ends.
    ///
    /// # Errors
    /// `NotFound` when there is no such job.
    pub fn image_job_log(&self, name: &str, follow: bool) -> Result<PieceStream<Bytes>> {
        Ok(self.job(name)?.log(follow))
    }

    /// Ends the job for an image of this name, if there is one; what it has made
    /// so far is removed.
    pub fn cancel_image_job(&self, name: &str) {
        if let Ok(job) = self.job(name) {
            job.cancel();
        }
    }

    fn job(&self, name: &str) -> Result<Arc<Job>> {
        let image = resolve(&self.core.config.image_aliases, name)?;
        self.core
            .image_jobs
            .find(&image)
            .ok_or_else(|| Error::not_found(format!("no image {image} is being pulled or built")))
    }

    /// Lets images come from registries, and files of builds from URLs. Without
    /// this nothing is fetched. To be called once.
    #[must_use]
    pub fn with_fetch(self, fetch: Arc<dyn Fetch>) -> Self {
        let _called_before = self.core.fetch.set(fetch);
        self
    }

    /// Makes an image of the files of a sandbox; its processes are frozen meanwhile.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` for the name of the image, or the failed step.
    pub async fn commit_image(&self, space: &Space, name: &Name, image: &str) -> Result<ImageInfo> {
        self.measured("commit_image", async {
            let resident = self.core.registry.find(space, name)?;
            let images = self.core.images()?;
            let image: Image = image.parse()?;
            if is_there(images, &image).await? {
                return Err(Error::already_exists(format!(
                    "there is an image {image}; remove it first or choose another name"
                )));
            }
            let _operation = resident.operate();
            let base = resident.details().spec.image.clone();
            let config = match images.find(&base).await {
                Ok(base) => base.config,
                // Its image was removed since: its files are all there.
                Err(error) if error.kind == Kind::NotFound => sandbox::ImageConfig::default(),
                Err(error) => return Err(error),
            };
            let new = NewImage {
                name: Some(image),
                config,
                built_from: None,
            };
            Ok(images.commit(&resident.id, &new).await?.into())
        })
        .await
    }
}

impl Core {
    /// What fetches images and files.
    pub(crate) fn fetch(&self) -> Result<&Arc<dyn Fetch>> {
        self.fetch.get().ok_or_else(|| {
            Error::unavailable(
                "this server fetches nothing from registries; its operator can switch that on by `images.fetch`",
            )
        })
    }

    /// The images of the runtime.
    pub(crate) fn images(&self) -> Result<&dyn Images> {
        self.runtime.images().ok_or_else(|| {
            Error::unavailable(format!(
                "the runtime `{}` leaves images to somebody else",
                self.capabilities.runtime
            ))
        })
    }
}

async fn is_there(images: &dyn Images, image: &Image) -> Result<bool> {
    match images.find(image).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl From<FoundImage> for ImageInfo {
    fn from(found: FoundImage) -> Self {
        let config = found.config;
        Self {
            name: found.name.map(|name| name.to_string()),
            digest: found.digest,
            size_bytes: found.size_bytes,
            created_ms: found.created_ms,
            env: config.env,
            workdir: config.workdir,
            user: config.user.unwrap_or_default(),
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            labels: config.labels,
        }
    }
}

#[cfg(test)]
mod tests;
