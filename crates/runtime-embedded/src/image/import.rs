//! From an archive to an image of the store.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags};
use sandbox::Image;

use super::{
    ImageError, ImageRecord, Progress, Store,
    docker_archive::{self, Members},
    manifest::{Config, Layer},
    source::{Counted, Measured, decompressed},
    tar_stream::{Entry, TarStream},
    unpack::{Totals, Unpacker},
    workspace::Workspace,
};

/// Folder where commands start in an image that does not name one.
const WORKDIR: &str = "/";

/// An unpacked layer on its way into the store.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) digest: String,
    pub(super) folder: PathBuf,
    pub(super) totals: Totals,
}

impl Unpacked {
    pub(super) fn layer(&self) -> Layer {
        Layer {
            digest: self.digest.clone(),
            size_bytes: self.totals.bytes,
        }
    }
}

impl Store {
    /// Takes an image from an archive: the tar archive of a root file system or
    /// one written by `docker save` (also an OCI image layout), plain or
    /// compressed with gzip or zstd. Without `name` the image gets the name that
    /// the archive holds, or none.
    ///
    /// The archive may be hostile: nothing is written outside the image's own
    /// layers, devices are left out, and size and count of entries are bounded.
    /// Owners are kept as numbers up to 65535 (others become 65534), modes
    /// wholly, extended attributes only in `user.`: file capabilities have no
    /// effect in a sandbox.
    ///
    /// # Errors
    /// What is wrong with the archive, or which step failed at which entry.
    pub fn import(
        &self,
        archive: &mut dyn Read,
        name: Option<&Image>,
        progress: &dyn Progress,
    ) -> Result<ImageRecord, ImageError> {
        let workspace = self.workspace()?;
        let plain = decompressed(Counted::new(archive, progress))?;
        let mut stream = TarStream::new(Measured::new(plain, self.limits.bytes));
        let Some(first) = stream.next()? else {
            return Err(ImageError::Truncated("before its first entry"));
        };
        if docker_archive::begins_with(&first.path) {
            return self.import_saved(&workspace, stream, first, name, progress);
        }
        progress.step("unpack the root file system");
        let unpacked = self.unpack(&workspace, "layer-0", stream, Some(first))?;
        tell(&unpacked.totals, progress);
        if !["bin", "usr"]
            .iter()
            .any(|name| unpacked.folder.join(name).symlink_metadata().is_ok())
        {
            progress.step(
                "warning: the archive has no bin or usr at its top; pack a root file system with `tar -C FOLDER -c .`",
            );
        }
        let config = Config {
            layers: vec![unpacked.layer()],
            workdir: WORKDIR.to_owned(),
            ..Config::default()
        };
        self.publish(
            &workspace,
            &[(unpacked.digest, unpacked.folder)],
            config,
            name,
        )
    }

    fn import_saved<R: Read>(
        &self,
        workspace: &Workspace,
        mut stream: TarStream<Measured<R>>,
        first: Entry,
        name: Option<&Image>,
        progress: &dyn Progress,
    ) -> Result<ImageRecord, ImageError> {
        progress.step("read the container image");
        let path = workspace.path("members");
        let spool = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(ImageError::store("create", path))?;
        let members = Members::read(&mut stream, first, spool)?;
        let description = members.describe()?;
        let count = description.layers.len();
        let mut layers = Vec::with_capacity(count);
        let mut unpacked = Vec::new();
        let mut left = self.limits.bytes;
        for (index, (member, expected)) in description
            .layers
            .iter()
            .zip(&description.diff_ids)
            .enumerate()
        {
            progress.step(&format!("unpack layer {} of {count}", index + 1));
            // Unpacked also when it is there already: its size is not known otherwise.
            let content = decompressed(members.open(member)?)?;
            let stream = TarStream::new(Measured::new(content, left));
            let layer = self.unpack(workspace, &format!("layer-{index}"), stream, None)?;
            if layer.digest != *expected {
                return Err(ImageError::DigestMismatch {
                    name: member.clone(),
                    expected: expected.clone(),
                    found: layer.digest,
                });
            }
            left -= layer.totals.bytes;
            tell(&layer.totals, progress);
            layers.push(layer.layer());
            unpacked.push((layer.digest, layer.folder));
        }
        let config = Config {
            layers: topmost(layers),
            env: description.env,
            workdir: description.workdir,
            user: description.user,
            entrypoint: description.entrypoint,
            cmd: description.cmd,
            labels: description.labels,
            recipe: None,
        };
        self.publish(
            workspace,
            &unpacked,
            config,
            name.or(description.name.as_ref()),
        )
    }

    /// Unpacks one layer into the workspace.
    pub(super) fn unpack<R: Read>(
        &self,
        workspace: &Workspace,
        folder: &str,
        mut stream: TarStream<Measured<R>>,
        first: Option<Entry>,
    ) -> Result<Unpacked, ImageError> {
        let folder = workspace.path(folder);
        let root = Self::layer_folder(&folder)?;
        let totals = Unpacker::new(root, self.limits).unpack(&mut stream, first)?;
        let digest = stream.into_inner().finish()?;
        Ok(Unpacked {
            digest,
            folder,
            totals,
        })
    }

    /// Makes the folder of a layer and opens it.
    pub(super) fn layer_folder(folder: &Path) -> Result<OwnedFd, ImageError> {
        let create =
            |errno: rustix::io::Errno| ImageError::store("create the layer", folder)(errno.into());
        rustix::fs::mkdirat(CWD, folder, Mode::RWXU).map_err(create)?;
        // A root folder that the archive does not name is open to all users inside.
        rustix::fs::chmodat(
            CWD,
            folder,
            Mode::from_raw_mode(0o755),
            rustix::fs::AtFlags::empty(),
        )
        .map_err(create)?;
        rustix::fs::openat(
            CWD,
            folder,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(create)
    }
}

/// Each layer once, where it lies highest: overlayfs refuses to stack a folder
/// twice, and what the lower one does the higher one does again.
pub(super) fn topmost(layers: Vec<Layer>) -> Vec<Layer> {
    let mut kept: Vec<Layer> = Vec::with_capacity(layers.len());
    for layer in layers.into_iter().rev() {
        if kept.iter().all(|other| other.digest != layer.digest) {
            kept.push(layer);
        }
    }
    kept.reverse();
    kept
}

/// Says what was left out.
fn tell(totals: &Totals, progress: &dyn Progress) {
    let say = |count: u64, text: &str| {
        if count > 0 {
            progress.step(&format!("{count} {text}"));
        }
    };
    say(
        totals.devices_skipped,
        "devices left out: a sandbox gets its own /dev",
    );
    say(
        totals.owners_replaced,
        "files with an owner above 65535 given to user 65534",
    );
    say(
        totals.attributes_dropped,
        "extended attributes (file capabilities and others) left out: they have no effect in a sandbox",
    );
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
