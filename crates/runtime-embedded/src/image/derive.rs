//! Images made of other images and of sandboxes.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use sandbox::{Image, NewImage};

use super::{
    ImageError, ImageRecord, Store,
    docker_archive::LAYERS_MAX,
    import::topmost,
    manifest::{Config, Layer, is_digest},
    unpack::{Totals, Unpacker},
    upper::Upper,
};

/// The writable layer of a sandbox.
#[derive(Debug)]
pub(crate) struct Writable {
    /// Its folder.
    pub(crate) upper: OwnedFd,
    /// Host id of the sandbox's user 0.
    pub(crate) uid_base: u32,
}

impl Store {
    /// Makes an image of the layers of another one, without copying them.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], or the failed step.
    pub(crate) fn derive(&self, image: &Image, new: &NewImage) -> Result<ImageRecord, ImageError> {
        let base = self.resolve(image)?;
        let layers = self.manifest(digits(&base.digest))?.config.layers;
        self.publish(
            &self.workspace()?,
            &[],
            config(layers, new),
            new.name.as_ref(),
        )
    }

    /// Makes an image of the layers that a sandbox was made from and its writable
    /// one, which nobody may change meanwhile.
    ///
    /// # Errors
    /// What is wrong with the sandbox's files, or the failed step.
    pub(crate) fn commit(
        &self,
        below: &[PathBuf],
        writable: Writable,
        new: &NewImage,
    ) -> Result<ImageRecord, ImageError> {
        let workspace = self.workspace()?;
        let mut layers = self.layers_at(below)?;
        let Writable { upper, uid_base } = writable;
        let mut entries = Upper::new(upper, uid_base, self.limits);
        let folder = workspace.path("layer");
        let root = Self::layer_folder(&folder)?;
        let totals = Unpacker::new(root, self.limits).unpack(&mut entries, None)?;
        let (digest, skipped) = entries.finish();
        if skipped > 0 {
            tracing::debug!(skipped, "left sockets and devices out of an image");
        }
        let mut unpacked = Vec::new();
        if !is_empty(&totals) {
            layers.push(Layer {
                digest: digest.clone(),
                size_bytes: totals.bytes,
            });
            unpacked.push((digest, folder));
        }
        let layers = topmost(layers);
        if layers.len() > LAYERS_MAX {
            return Err(ImageError::TooManyLayers { limit: LAYERS_MAX });
        }
        self.publish(
            &workspace,
            &unpacked,
            config(layers, new),
            new.name.as_ref(),
        )
    }

    /// The unnamed image that was made under this key, if it is still there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn find_built(&self, key: &str) -> Result<Option<ImageRecord>, ImageError> {
        let named: BTreeSet<String> = self.names()?.into_values().collect();
        for digest in self.manifests()? {
            // Another process may remove one meanwhile.
            let Ok(manifest) = self.manifest(&digest) else {
                continue;
            };
            if manifest.config.recipe.as_deref() == Some(key) && !named.contains(&digest) {
                return Ok(self.record(None, &digest).ok());
            }
        }
        Ok(None)
    }

    /// The layers in these folders of the store. One whose images are all gone
    /// lives on for its sandboxes, and counts without its size.
    fn layers_at(&self, folders: &[PathBuf]) -> Result<Vec<Layer>, ImageError> {
        let mut sizes = BTreeMap::new();
        for digest in self.manifests()? {
            for layer in self.manifest(&digest)?.config.layers {
                sizes.insert(layer.digest, layer.size_bytes);
            }
        }
        folders
            .iter()
            .map(|folder| {
                let digest = digest_of(folder).ok_or_else(|| ImageError::Damaged {
                    path: folder.clone(),
                    detail: "it is not the folder of a layer".to_owned(),
                })?;
                Ok(Layer {
                    size_bytes: sizes.get(digest).copied().unwrap_or(0),
                    digest: digest.to_owned(),
                })
            })
            .collect()
    }
}

/// Whether a sandbox has changed nothing: its root alone is always there.
fn is_empty(totals: &Totals) -> bool {
    totals.entries <= 1
}

fn digest_of(folder: &Path) -> Option<&str> {
    folder.file_name()?.to_str().filter(|name| is_digest(name))
}

fn digits(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

fn config(layers: Vec<Layer>, new: &NewImage) -> Config {
    let words = new.config.clone();
    Config {
        layers,
        env: words.env,
        workdir: if words.workdir.starts_with('/') {
            words.workdir
        } else {
            format!("/{}", words.workdir)
        },
        user: words.user,
        entrypoint: words.entrypoint,
        cmd: words.cmd,
        labels: words.labels,
        recipe: new.built_from.clone(),
    }
}

impl From<ImageRecord> for sandbox::FoundImage {
    fn from(record: ImageRecord) -> Self {
        Self {
            name: record.name,
            digest: record.digest,
            size_bytes: record.size_bytes,
            created_ms: record.created_ms,
            config: sandbox::ImageConfig {
                env: record.env,
                workdir: record.workdir,
                user: record.user,
                entrypoint: record.entrypoint,
                cmd: record.cmd,
                labels: record.labels,
            },
            built_from: record.built_from,
        }
    }
}

#[cfg(test)]
#[path = "derive_tests.rs"]
mod tests;
