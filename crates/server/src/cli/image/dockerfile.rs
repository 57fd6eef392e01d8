//! `sandboxai image build` of a Dockerfile: in sandboxes of this process, which
//! needs no server.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use control::{Control, ImageBuild, ImageInfo};
use futures_util::StreamExt as _;
use sandbox::Image;

use super::{context, output};
use crate::{config::Config, failure::Failure, serve};

/// What to build.
#[derive(Debug)]
pub(super) struct Request {
    /// The folder beside the Dockerfile.
    pub(super) folder: PathBuf,
    /// The Dockerfile.
    pub(super) file: PathBuf,
    pub(super) name: Image,
    pub(super) args: BTreeMap<String, String>,
}

/// Builds the image; what the build says goes to standard error.
///
/// # Errors
/// Why it failed; what was begun is removed.
pub(super) fn build(config: &Config, request: &Request) -> Result<ImageInfo, Failure> {
    let reading = |path: &Path| format!("cannot read {}", path.display());
    let dockerfile =
        fs::read_to_string(&request.file).map_err(Failure::to(reading(&request.file)))?;
    let archive = tempfile::NamedTempFile::new().map_err(Failure::to("cannot keep the context"))?;
    context::pack(&request.folder, archive.as_file())
        .map_err(Failure::to(reading(&request.folder)))?;
    let build = ImageBuild {
        name: request.name.to_string(),
        dockerfile,
        contexts: vec![archive.path().to_owned()],
        args: request.args.clone(),
        entrypoint: None,
    };
    serve::without_listening(config, async |control| follow(&control, build).await)
}

async fn follow(control: &Control, build: ImageBuild) -> Result<ImageInfo, Failure> {
    let job = control.begin_build(build).await?;
    let mut log = control.image_job_log(&job.name, true)?;
    while let Some(piece) = log.next().await {
        output::error_bytes(&piece?);
    }
    // The log has said why.
    control.image_job_done(&job.name).await.map_err(|error| {
        let code = Failure::from(error).code;
        Failure::new(code, "the image was not built; the reason is above")
    })
}
