//! Where images lie on disk.
//!
//! ```text
//! <state>/images/            0700: set-user-ID files of layers are out of reach of host users
//!   lock                     flock: exclusive to change, shared to keep layers
//!   layers/<sha256>/         one root folder per layer; complete when it exists
//!   manifests/<sha256>.json  what an image consists of
//!   names.json               name:tag -> manifest
//!   tmp/<random>/            work in progress, each under its own lock
//! ```
//!
//! Everything becomes visible by one rename, so readers need no lock and a
//! process killed at any moment leaves only a folder in `tmp` behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FlockOperation, RenameFlags},
    io::Errno,
    thread::NanosleepRelativeResult,
};
use sandbox::Image;

use super::{
    ImageError, ImageRecord,
    manifest::{Config, Manifest, is_digest},
    state_file::{file_names, read_bounded, write_whole},
    unpack::Limits,
    workspace::{self, Workspace},
};

/// How long a change of the store waits for another one. Changes hold the lock
/// for a few renames only; the long work is done before.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a taken lock is tried again; `flock` has no timeout of its own.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// Shortest beginning of a digest that names an image.
const DIGEST_CHARS_MIN: usize = 12;

/// The images of one state folder. Several processes may use it at once.
#[derive(Debug)]
pub struct Store {
    pub(super) root: PathBuf,
    pub(super) sandboxes: PathBuf,
    pub(super) limits: Limits,
}

/// While this lives no layer is removed, so that a sandbox can be made from
/// a resolved image before it is written down as the layers' user.
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

type Names = BTreeMap<String, String>;

impl Store {
    /// Opens the store below `state_dir` and makes its folders if need be.
    ///
    /// # Errors
    /// When a folder cannot be made or protected.
    pub fn open(state_dir: &Path) -> Result<Self, ImageError> {
        let root = state_dir.join("images");
        for folder in [
            root.clone(),
            root.join("layers"),
            root.join("manifests"),
            root.join("tmp"),
        ] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(ImageError::store("create the folder", &folder))?;
        }
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700))
            .map_err(ImageError::store("protect the folder", &root))?;
        Ok(Self {
            root,
            sandboxes: state_dir.join("sandboxes"),
            limits: Limits::default(),
        })
    }

    /// The image with this name, or with this digest (`sha256:…` or at least
    /// its first 12 digits).
    ///
    /// # Errors
    /// [`ImageError::NotFound`] lists what exists.
    pub fn resolve(&self, image: &Image) -> Result<ImageRecord, ImageError> {
        let names = self.names()?;
        let (name, digest) = self.find(&names, image)?;
        self.record(name.as_deref(), &digest)
    }

    /// All images, by name; unnamed ones last.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<ImageRecord>, ImageError> {
        let names = self.names()?;
        let mut records = names
            .iter()
            .map(|(name, digest)| self.record(Some(name), digest))
            .collect::<Result<Vec<_>, _>>()?;
        let named: BTreeSet<&String> = names.values().collect();
        for digest in self.manifests()? {
            if !named.contains(&digest) {
                records.push(self.record(None, &digest)?);
            }
        }
        Ok(records)
    }

    /// Removes the name, and with the last name the image. Its layers go when
    /// neither another image nor a sandbox uses them; sandboxes run on unharmed.
    /// A digest removes the image with all its names.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], or the failed step.
    pub fn remove(&self, image: &Image) -> Result<(), ImageError> {
        let lock = self.lock(FlockOperation::NonBlockingLockExclusive)?;
        let workspace = Workspace::create(&self.root.join("tmp"))?;
        let mut names = self.names()?;
        let (name, digest) = self.find(&names, image)?;
        match name {
            Some(name) => {
                names.remove(&name);
            }
            None => names.retain(|_, other| *other != digest),
        }
        self.write_names(&workspace, &names)?;
        if !names.values().any(|other| *other == digest) {
            self.remove_manifest(&digest)?;
        }
        self.set_unused_layers_aside(&workspace)?;
        drop(lock);
        // The layers are deleted with the workspace, without holding up others.
        drop(workspace);
        Ok(())
    }

    /// Keeps every layer in place until the value is dropped.
    ///
    /// # Errors
    /// [`ImageError::Locked`] after 30 s, or when the lock cannot be opened.
    pub fn hold(&self) -> Result<Hold, ImageError> {
        self.lock(FlockOperation::NonBlockingLockShared)
            .map(|lock| Hold { _lock: lock })
    }

    /// A folder for work in progress; removes what killed processes have left.
    pub(super) fn workspace(&self) -> Result<Workspace, ImageError> {
        let _lock = self.lock(FlockOperation::NonBlockingLockExclusive)?;
        let tmp = self.root.join("tmp");
        workspace::sweep(&tmp)?;
        Workspace::create(&tmp)
    }

    /// Whether the layer is there already.
    pub(super) fn has_layer(&self, digest: &str) -> bool {
        is_digest(digest) && self.layer_path(digest).is_dir()
    }

    /// Makes the unpacked layers (digest and folder) and the image visible.
    pub(super) fn publish(
        &self,
        workspace: &Workspace,
        unpacked: &[(String, PathBuf)],
        config: Config,
        name: Option<&Image>,
    ) -> Result<ImageRecord, ImageError> {
        // A layer that is visible must be complete, also after a power failure.
        for (_, folder) in unpacked {
            File::open(folder)
                .and_then(|folder| rustix::fs::syncfs(folder).map_err(io::Error::from))
                .map_err(ImageError::store("write to disk", folder))?;
        }
        let digest = config.digest();
        let lock = self.lock(FlockOperation::NonBlockingLockExclusive)?;
        for (layer, folder) in unpacked {
            let target = self.layer_path(layer);
            match rustix::fs::renameat_with(CWD, folder, CWD, &target, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(ImageError::store("put the layer in place at", target)(
                        errno.into(),
                    ));
                }
            }
        }
        if let Some(layer) = config
            .layers
            .iter()
            .find(|layer| !self.has_layer(&layer.digest))
        {
            return Err(ImageError::LayerGone {
                image: format!("sha256:{digest}"),
                layer: layer.digest.clone(),
            });
        }
        let path = self.manifest_path(&digest);
        if !path.exists() {
            let manifest = Manifest {
                config,
                created_ms: jiff::Timestamp::now().as_millisecond(),
            };
            let text =
                serde_json::to_vec_pretty(&manifest).expect("strings and numbers always serialize");
            write_whole(&workspace.path("manifest.json"), &path, &text)?;
        }
        let full_name = name.map(full_name);
        if let Some(full_name) = &full_name {
            let mut names = self.names()?;
            let former = names.insert(full_name.clone(), digest.clone());
            self.write_names(workspace, &names)?;
            if let Some(former) = former.filter(|former| !names.values().any(|d| d == former)) {
                self.remove_manifest(&former)?;
            }
        }
        if full_name.is_none() {
            self.forget_old_steps()?;
        }
        self.set_unused_layers_aside(workspace)?;
        drop(lock);
        self.record(full_name.as_deref(), &digest)
    }

    /// The image built from the recipe with this digest, under this name.
    pub(super) fn built_from(
        &self,
        name: &Image,
        recipe: &str,
    ) -> Result<Option<ImageRecord>, ImageError> {
        let Some(digest) = self.names()?.remove(&full_name(name)) else {
            return Ok(None);
        };
        if self.manifest(&digest)?.config.recipe.as_deref() != Some(recipe) {
            return Ok(None);
        }
        match self.record(Some(&full_name(name)), &digest) {
            Err(ImageError::LayerGone { .. }) => Ok(None),
            record => record.map(Some),
        }
    }

    /// Name (none when asked by digest) and digest of an image.
    fn find(&self, names: &Names, image: &Image) -> Result<(Option<String>, String), ImageError> {
        let full = full_name(image);
        if let Some(digest) = names.get(&full) {
            return Ok((Some(full), digest.clone()));
        }
        let prefix = image
            .as_str()
            .strip_prefix("sha256:")
            .unwrap_or(image.as_str());
        if prefix.len() >= DIGEST_CHARS_MIN {
            let mut matches = self
                .manifests()?
                .into_iter()
                .filter(|digest| digest.starts_with(prefix));
            // Two images with the same first 12 digits are both unnamed by them.
            if let (Some(digest), None) = (matches.next(), matches.next()) {
                return Ok((None, digest));
            }
        }
        Err(ImageError::NotFound {
            wanted: full,
            existing: names.keys().cloned().collect(),
        })
    }

    pub(super) fn record(
        &self,
        name: Option<&str>,
        digest: &str,
    ) -> Result<ImageRecord, ImageError> {
        let Manifest { config, created_ms } = self.manifest(digest)?;
        let mut layers = Vec::with_capacity(config.layers.len());
        for layer in &config.layers {
            if !self.has_layer(&layer.digest) {
                return Err(ImageError::LayerGone {
                    image: name.map_or_else(|| format!("sha256:{digest}"), str::to_owned),
                    layer: layer.digest.clone(),
                });
            }
            layers.push(self.layer_path(&layer.digest));
        }
        Ok(ImageRecord {
            name: name.map(str::parse).transpose()?,
            digest: format!("sha256:{digest}"),
            layers,
            size_bytes: config.layers.iter().map(|layer| layer.size_bytes).sum(),
            env: config.env,
            workdir: config.workdir,
            user: config.user,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            labels: config.labels,
            built_from: config.recipe,
            created_ms,
        })
    }

    fn lock(&self, operation: FlockOperation) -> Result<File, ImageError> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(ImageError::store("open the lock", &path))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => pause(LOCK_RETRY),
                Err(Errno::WOULDBLOCK) => {
                    return Err(ImageError::Locked {
                        path,
                        seconds: LOCK_TIMEOUT.as_secs(),
                    });
                }
                Err(errno) => return Err(ImageError::store("take the lock", path)(errno.into())),
            }
        }
    }

    pub(super) fn names(&self) -> Result<Names, ImageError> {
        let path = self.root.join("names.json");
        match read_bounded(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| ImageError::Damaged {
                path,
                detail: error.to_string(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Names::new()),
            Err(error) => Err(ImageError::store("read", path)(error)),
        }
    }

    fn write_names(&self, workspace: &Workspace, names: &Names) -> Result<(), ImageError> {
        let text = serde_json::to_vec_pretty(names).expect("a map of strings always serializes");
        write_whole(
            &workspace.path("names.json"),
            &self.root.join("names.json"),
            &text,
        )
    }

    pub(super) fn manifest(&self, digest: &str) -> Result<Manifest, ImageError> {
        let path = self.manifest_path(digest);
        let text = read_bounded(&path).map_err(ImageError::store("read", &path))?;
        serde_json::from_slice(&text).map_err(|error| ImageError::Damaged {
            path,
            detail: error.to_string(),
        })
    }

    /// Digests of all images.
    pub(super) fn manifests(&self) -> Result<Vec<String>, ImageError> {
        let mut digests: Vec<String> = file_names(&self.root.join("manifests"))?
            .into_iter()
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .filter(|digest| is_digest(digest))
            .collect();
        digests.sort_unstable();
        Ok(digests)
    }

    pub(super) fn remove_manifest(&self, digest: &str) -> Result<(), ImageError> {
        let path = self.manifest_path(digest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::store("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    fn layer_path(&self, digest: &str) -> PathBuf {
        self.root.join("layers").join(digest)
    }

    fn manifest_path(&self, digest: &str) -> PathBuf {
        self.root.join("manifests").join(format!("{digest}.json"))
    }
}

/// The name with its tag.
fn full_name(image: &Image) -> String {
    let (repository, tag) = image.parts();
    format!("{repository}:{tag}")
}

fn pause(duration: Duration) {
    let request = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(duration.subsec_nanos()),
    };
    // Woken early by a signal, the caller just looks again.
    let _: NanosleepRelativeResult = rustix::thread::nanosleep(&request);
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
