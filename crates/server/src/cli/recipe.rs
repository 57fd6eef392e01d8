//! The recipe of the default image, carried inside the program.
//!
//! So that the default image can be built where only the program is installed,
//! and its recipe copied as the start of another.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use sandbox::Id;

use crate::failure::Failure;

/// One file of the recipe.
struct Part {
    name: &'static str,
    content: &'static [u8],
    mode: u32,
}

macro_rules! part {
    ($name:literal, $mode:literal) => {
        Part {
            name: $name,
            content: include_bytes!(concat!("../../../../images/box/", $name)),
            mode: $mode,
        }
    };
}

/// The folder `images/box` of the project.
const PARTS: [Part; 4] = [
    part!("constraints.txt", 0o644),
    part!("image.toml", 0o644),
    part!("install-node.sh", 0o755),
    part!("test.sh", 0o755),
];

/// Writes the recipe into `folder`, which is made if need be. Files that are
/// there already are not touched.
pub(super) fn write_to(folder: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::general(format!(
            "cannot write the recipe to {}: {error}",
            folder.display()
        ))
    };
    fs::create_dir_all(folder).map_err(failed)?;
    PARTS
        .iter()
        .try_for_each(|part| part.write_to(folder))
        .map_err(failed)
}

impl Part {
    fn write_to(&self, folder: &Path) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(self.mode)
            .open(folder.join(self.name))?
            .write_all(self.content)
    }
}

/// The recipe in a folder for the time of a build.
#[derive(Debug)]
pub(super) struct Unpacked(PathBuf);

impl Unpacked {
    /// Writes it to a new folder that only we can use.
    pub(super) fn new() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("sandboxai-recipe-{}", Id::random()?));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(Failure::to(format!("cannot make {}", folder.display())))?;
        let unpacked = Self(folder);
        write_to(&unpacked.0)?;
        Ok(unpacked)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        for part in &PARTS {
            let _ = fs::remove_file(self.0.join(part.name));
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// Names, executable bits and contents of the files of a folder.
    fn files(folder: &Path) -> BTreeMap<String, (bool, Vec<u8>)> {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                let is_program = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
                let content = fs::read(entry.path()).unwrap();
                (
                    entry.file_name().into_string().unwrap(),
                    (is_program, content),
                )
            })
            .collect()
    }

    #[test]
    fn the_carried_recipe_is_the_projects() {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/box");
        let unpacked = Unpacked::new().unwrap();
        assert_eq!(files(unpacked.path()), files(&project));
        let folder = unpacked.path().to_owned();
        drop(unpacked);
        assert!(!folder.exists());
    }

    #[test]
    fn a_file_that_is_there_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("image.toml"), "mine").unwrap();
        assert!(write_to(folder.path()).is_err());
        assert_eq!(fs::read(folder.path().join("image.toml")).unwrap(), b"mine");
    }
}
