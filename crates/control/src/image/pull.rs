//! Pulls an image: what fetches it and who keeps it are joined by a pipe.

use std::{fs::File, io, pin::pin, sync::Arc};

use sandbox::{Error, FoundImage, Image, Kind, Result};
use tokio::net::unix::pipe;

use super::{ImageInfo, Job};
use crate::core::Core;

/// Names that are ours and in no registry: pulling one would give whatever a
/// stranger has put there.
const OWN_PREFIX: &str = "sandboxai/";

/// Whether an image of this name may be pulled.
pub(super) fn check(image: &Image) -> Result<()> {
    if image.as_str().starts_with(OWN_PREFIX) {
        return Err(Error::invalid(format!(
            "image {image} is made on this machine, not pulled; make it with `sandboxai image build`"
        )));
    }
    Ok(())
}

/// Pulls the image and keeps it under its name.
pub(super) async fn pull(core: Arc<Core>, image: Image, job: Arc<Job>) -> Result<ImageInfo> {
    let (sender, receiver) = pipe::pipe().map_err(no_pipe)?;
    let archive = File::from(receiver.into_blocking_fd().map_err(no_pipe)?);
    let say = |line| job.say(line);
    let download = async {
        let mut sender = sender;
        core.fetch()?.image(&image, &mut sender, &say).await?;
        job.say("unpacking");
        Ok(())
    };
    let import = core.images()?.import(archive, Some(&image));
    let found = joined(download, import).await?;
    job.say(format!("pulled {image} ({})", found.digest));
    Ok(found.into())
}

/// Waits for both ends of a pipe. When the writer fails the reader only sees
/// that something is missing; when the reader fails the writer must not wait for ever.
async fn joined(
    write: impl Future<Output = Result<()>>,
    read: impl Future<Output = Result<FoundImage>>,
) -> Result<FoundImage> {
    let (mut write, mut read) = (pin!(write), pin!(read));
    let written = tokio::select! {
        biased;
        written = &mut write => written,
        found = &mut read => return found,
    };
    match written {
        Ok(()) => read.await,
        Err(error) if error.kind == Kind::Cancelled => Err(read.await.err().unwrap_or(error)),
        Err(error) => Err(error),
    }
}

fn no_pipe(error: io::Error) -> Error {
    Error::internal(format!("make a pipe: {error}")).with_source(error)
}
