//! Layers that nobody uses any more.

use std::collections::BTreeSet;

use super::{
    ImageError, Store,
    state_file::{file_names, read_bounded},
    workspace::Workspace,
};

/// Unnamed results of build steps that are kept for later builds.
const STEPS_MAX: usize = 256;

impl Store {
    /// Removes the oldest unnamed results of build steps above [`STEPS_MAX`].
    pub(super) fn forget_old_steps(&self) -> Result<(), ImageError> {
        let named: BTreeSet<String> = self.names()?.into_values().collect();
        let mut steps = Vec::new();
        for digest in self.manifests()? {
            if !named.contains(&digest) {
                let manifest = self.manifest(&digest)?;
                if manifest.config.recipe.is_some() {
                    steps.push((manifest.created_ms, digest));
                }
            }
        }
        steps.sort_unstable();
        let surplus = steps.len().saturating_sub(STEPS_MAX);
        for (_, digest) in &steps[..surplus] {
            self.remove_manifest(digest)?;
        }
        Ok(())
    }

    /// Moves layers that no image and no sandbox mentions into the workspace.
    pub(super) fn set_unused_layers_aside(&self, workspace: &Workspace) -> Result<(), ImageError> {
        let mut used = BTreeSet::new();
        for digest in self.manifests()? {
            let layers = self.manifest(&digest)?.config.layers;
            used.extend(layers.into_iter().map(|layer| layer.digest));
        }
        let layers = self.root.join("layers");
        let unused: Vec<String> = file_names(&layers)?
            .into_iter()
            .filter(|name| !used.contains(name))
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        // A sandbox without a readable record may use any layer: collect later.
        let Some(records) = self.sandbox_records()? else {
            return Ok(());
        };
        for name in unused {
            if !records.iter().any(|record| record.contains(&name)) {
                let path = layers.join(&name);
                std::fs::rename(&path, workspace.path(&format!("unused-{name}")))
                    .map_err(ImageError::store("set the layer aside", path))?;
            }
        }
        Ok(())
    }

    /// What sandboxes have written down about themselves, or none when one of
    /// them has not. Searched as text: a layer's digest is found in any schema.
    fn sandbox_records(&self) -> Result<Option<Vec<String>>, ImageError> {
        if !self.sandboxes.exists() {
            return Ok(Some(Vec::new()));
        }
        let mut records = Vec::new();
        for name in file_names(&self.sandboxes)? {
            match read_bounded(&self.sandboxes.join(name).join("record.json")) {
                Ok(bytes) => records.push(String::from_utf8_lossy(&bytes).into_owned()),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(records))
    }
}
