//! `sandboxai image pull`: from a registry into the image store.

use std::{fs::File, os::fd::OwnedFd, thread};

use runtime_embedded::image::{ImageRecord, Progress, Silent, Store};
use sandbox::{Error, Fetch as _, Image, Kind};
use tokio::net::unix::pipe;

use super::{Steps, failure};
use crate::{config::Config, failure::Failure, serve};

/// Pulls the image and keeps it under its name.
///
/// # Errors
/// What the registry says, or the failed step.
pub(super) fn pull(
    config: &Config,
    store: Store,
    image: &Image,
    progress: &Steps,
) -> Result<ImageRecord, Failure> {
    let fetch = serve::fetch(config)?;
    let (reader, writer) = std::io::pipe().map_err(Failure::to("cannot make a pipe"))?;
    let name = image.clone();
    // The store blocks: it unpacks while the download goes on.
    let import = thread::spawn(move || {
        let mut archive = File::from(OwnedFd::from(reader));
        store.import(&mut archive, Some(&name), &Silent)
    });
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::to("cannot start"))?;
    let downloaded = tokio.block_on(async {
        let mut writer = pipe::Sender::from_owned_fd(OwnedFd::from(writer))
            .map_err(|error| Error::internal(format!("use the pipe: {error}")))?;
        let say = |line: String| progress.step(&line);
        let done = fetch.image(image, &mut writer, &say).await;
        if done.is_ok() {
            progress.step("unpack the layers");
        }
        done
    });
    let imported = import
        .join()
        .map_err(|_| Failure::general("the image store failed; see above"))?;
    match downloaded {
        // The reader gave up first, and knows why.
        Err(error) if error.kind == Kind::Cancelled => imported.map_err(failure),
        Err(error) => Err(error.into()),
        Ok(()) => imported.map_err(failure),
    }
}
