//! What an image is to be made of: `image.toml` and the files beside it.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use sandbox::Image;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{ImageError, manifest::hexadecimal};

/// The file that makes a folder a recipe.
const FILE: &str = "image.toml";
/// Bounds of a recipe's folder: it is read whole to notice changes.
const FILES_MAX: usize = 1_000;
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Part of every recipe's digest; raised when the builder makes different images
/// from the same recipe.
const BUILDER_VERSION: u32 = 1;

/// A recipe as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    /// Name of the image, unless the command names another.
    pub(super) name: String,
    /// Debian release.
    #[serde(default = "default_suite")]
    pub(super) suite: String,
    /// Debian packages beside the smallest system.
    #[serde(default)]
    pub(super) packages: Vec<String>,
    /// Requirements for pip.
    #[serde(default)]
    pub(super) pip: Vec<String>,
    /// File beside the recipe with the versions of everything that pip may install.
    #[serde(default)]
    pub(super) pip_constraints: Option<String>,
    /// Packages that npm installs globally.
    #[serde(default)]
    pub(super) npm: Vec<String>,
    /// Files to copy: absolute place in the image = file beside the recipe.
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    /// Shell commands, run one after the other as root at the end.
    #[serde(default)]
    pub(super) run: Vec<String>,
    /// Environment of every process in a sandbox of the image.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Folder where commands start; made when it is missing.
    #[serde(default = "default_workdir")]
    pub(super) workdir: String,
}

/// A recipe that was read and checked.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) recipe: Recipe,
    pub(super) name: Image,
    /// Of every byte in the recipe's folder.
    pub(super) digest: String,
    /// The folder, absolute.
    pub(super) folder: PathBuf,
}

fn default_suite() -> String {
    "bookworm".to_owned()
}

fn default_workdir() -> String {
    "/workspace".to_owned()
}

/// Reads and checks the recipe in the folder.
pub(super) fn load(folder: &Path) -> Result<Loaded, ImageError> {
    let path = folder.join(FILE);
    let wrong = |detail: String| ImageError::Recipe {
        path: path.clone(),
        detail,
    };
    let folder = folder
        .canonicalize()
        .map_err(|error| wrong(format!("{error}; a recipe is a folder that holds {FILE}")))?;
    let text = std::fs::read_to_string(folder.join(FILE))
        .map_err(|error| wrong(format!("{error}; a recipe is a folder that holds {FILE}")))?;
    let recipe: Recipe = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    check(&recipe).map_err(wrong)?;
    let name = recipe
        .name
        .parse()
        .map_err(|error: sandbox::Error| wrong(error.message))?;
    let digest = digest(&folder)?;
    Ok(Loaded {
        recipe,
        name,
        digest,
        folder,
    })
}

/// Refuses words that a program would take for an option or for more than one word.
fn check(recipe: &Recipe) -> Result<(), String> {
    let plain = |text: &str, more: &str| {
        text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '@')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if !plain(&recipe.suite, "-.") {
        return Err(format!(
            "`suite`: {:?} is not the name of a Debian release",
            recipe.suite
        ));
    }
    let lists: [(&str, &Vec<String>, &str); 3] = [
        ("packages", &recipe.packages, "+-.:=~"),
        ("pip", &recipe.pip, "._-[],=<>!~ "),
        ("npm", &recipe.npm, "@/._-^~"),
    ];
    for (field, list, more) in lists {
        if let Some(bad) = list.iter().find(|entry| !plain(entry, more)) {
            return Err(format!("`{field}`: {bad:?} is not the name of a package"));
        }
    }
    if !recipe.workdir.starts_with('/') || recipe.workdir.contains('\0') {
        return Err(format!(
            "`workdir`: {:?} is not an absolute path",
            recipe.workdir
        ));
    }
    if let Some(bad) = recipe
        .env
        .keys()
        .find(|key| key.is_empty() || key.contains(['=', '\0']))
    {
        return Err(format!("`env`: {bad:?} is not the name of a variable"));
    }
    if let Some(bad) = recipe.files.keys().find(|target| !target.starts_with('/')) {
        return Err(format!(
            "`files`: {bad:?} is not an absolute path; write \"/place/in/image\" = \"file beside the recipe\""
        ));
    }
    let outside = |source: &&String| {
        !Path::new(source.as_str())
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
    };
    if let Some(bad) = recipe
        .files
        .values()
        .chain(&recipe.pip_constraints)
        .find(outside)
    {
        return Err(format!("{bad:?} is not a file beside the recipe"));
    }
    Ok(())
}

/// The digest of all files below the folder: names, modes and bytes.
fn digest(folder: &Path) -> Result<String, ImageError> {
    let mut hash = Sha256::new();
    hash.update(BUILDER_VERSION.to_le_bytes());
    let mut seen = 0;
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let path = folder.join(&relative);
        let mut entries = std::fs::read_dir(&path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(ImageError::store("list the folder", &path))?;
        entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            seen += 1;
            let relative = relative.join(entry.file_name());
            let path = entry.path();
            let metadata = std::fs::metadata(&path).map_err(ImageError::store("look at", &path))?;
            if seen > FILES_MAX || metadata.len() > FILE_BYTES_MAX {
                return Err(ImageError::Recipe {
                    path: folder.to_owned(),
                    detail: format!(
                        "its folder holds more than {FILES_MAX} files or one above {FILE_BYTES_MAX} bytes; keep only the recipe's own files there"
                    ),
                });
            }
            if metadata.is_dir() {
                folders.push(relative);
            } else if metadata.is_file() {
                let bytes = std::fs::read(&path).map_err(ImageError::store("read", &path))?;
                let name = relative.as_os_str().as_encoded_bytes();
                hash.update((name.len() as u64).to_le_bytes());
                hash.update(name);
                hash.update(metadata.permissions().mode().to_le_bytes());
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(&bytes);
            }
        }
    }
    Ok(hexadecimal(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        load(folder.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_small_recipe_has_defaults() {
        let loaded = loaded("name = \"mine\"").unwrap();
        assert_eq!(loaded.recipe.suite, "bookworm");
        assert_eq!(loaded.recipe.workdir, "/workspace");
    }

    #[test]
    fn mistakes_are_told_with_their_field() {
        for (text, field) in [
            ("name = \"a\"\npackges = []", "packges"),
            ("name = \"a b\"", "image"),
            ("name = \"a\"\nsuite = \"--mode=x\"", "`suite`"),
            ("name = \"a\"\npackages = [\"-x\"]", "`packages`"),
            ("name = \"a\"\npip = [\"--index-url=x\"]", "`pip`"),
            ("name = \"a\"\nworkdir = \"x\"", "`workdir`"),
            ("name = \"a\"\nfiles = { \"etc/x\" = \"x\" }", "`files`"),
            ("name = \"a\"\nfiles = { \"/etc/x\" = \"../x\" }", "../x"),
            (
                "name = \"a\"\npip_constraints = \"/etc/passwd\"",
                "/etc/passwd",
            ),
        ] {
            let message = loaded(text).unwrap_err();
            assert!(message.contains(field), "{text}: {message}");
        }
    }

    #[test]
    fn every_file_beside_the_recipe_counts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "name = \"a\"").unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/file"), "one").unwrap();
        let first = load(folder.path()).unwrap().digest;
        assert_eq!(first, load(folder.path()).unwrap().digest);
        std::fs::write(folder.path().join("sub/file"), "two").unwrap();
        assert_ne!(first, load(folder.path()).unwrap().digest);
    }
}
