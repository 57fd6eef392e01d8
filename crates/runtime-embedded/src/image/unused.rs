//! Layers that nobody uses any more.

use std::collections::BTreeSet;

use super::{
    ImageError, Store,
    state_file::{file_names, read_bounded},
    workspace::Workspace,
};

impl Store {
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
