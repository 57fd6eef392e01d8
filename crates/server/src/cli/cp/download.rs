//! From a sandbox to this machine.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use futures_util::StreamExt as _;
use sandbox::Id;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Copied, DEPTH_MAX, Progress, Remote, below};
use crate::failure::Failure;

/// Most entries in one folder.
const ENTRIES_MAX: u64 = 100_000;

/// Copies as `cp -r` does: into a folder that exists, else under the new name.
pub(super) async fn copy(
    there: &Remote<'_>,
    source: &str,
    destination: &Path,
    progress: &Progress,
) -> Result<Copied, Failure> {
    let entry = there.tool("stat_file", &json!({ "path": source })).await?;
    let into = destination.is_dir() || destination.as_os_str().to_string_lossy().ends_with('/');
    let destination = match last_name(source).filter(|_| into) {
        Some(name) => destination.join(name),
        None => destination.to_owned(),
    };
    let mut copied = Copied::default();
    let mut waiting = vec![(source.to_owned(), destination, entry, 0)];
    while let Some((source, destination, entry, depth)) = waiting.pop() {
        match entry["kind"].as_str() {
            Some("file") => {
                copied.bytes += file(there, &source, &destination, &entry, progress).await?;
                copied.files += 1;
            }
            // What was named is followed, as `cp` does; what was found is not.
            Some("symlink") if depth == 0 => {
                copied.bytes += file(there, &source, &destination, &entry, progress).await?;
                copied.files += 1;
            }
            Some("directory") => {
                if depth == DEPTH_MAX {
                    return Err(Failure::general(format!(
                        "{source:?} is more than {DEPTH_MAX} folders deep"
                    )));
                }
                make_folder(&destination)?;
                for (name, entry) in entries(there, &source).await? {
                    let path = destination.join(&name);
                    waiting.push((below(&source, &name), path, entry, depth + 1));
                }
            }
            _ => copied.skipped += 1,
        }
    }
    Ok(copied)
}

/// The last name of a path in a sandbox, when it has one that can be used here.
fn last_name(path: &str) -> Option<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    is_plain(name).then_some(name)
}

/// Whether a name from a sandbox is one name, and cannot lead anywhere else.
fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Names and entries of a folder in a sandbox.
async fn entries(there: &Remote<'_>, folder: &str) -> Result<Vec<(String, Value)>, Failure> {
    let body = json!({ "path": folder, "depth": 1, "limit": ENTRIES_MAX });
    let listing = there.tool("list_files", &body).await?;
    if listing["truncated"] == true {
        return Err(
            Failure::general(format!("{folder:?} holds more than {ENTRIES_MAX} entries"))
                .hint("copy an archive of it"),
        );
    }
    let mut found = Vec::new();
    for entry in listing["entries"].as_array().into_iter().flatten() {
        let path = entry["path"].as_str().unwrap_or_default();
        if entry["path_base64"].is_string() {
            return Err(
                Failure::general(format!("the file name {path:?} is not UTF-8"))
                    .hint("rename it, or copy an archive of the folder"),
            );
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        if !is_plain(name) {
            return Err(Failure::general(format!(
                "the sandbox has a file with the name {path:?}, which cannot be used here"
            )));
        }
        found.push((name.to_owned(), entry.clone()));
    }
    Ok(found)
}

/// Makes a folder, or takes the one that is there; a link to one is not taken.
fn make_folder(path: &Path) -> Result<(), Failure> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match fs::symlink_metadata(path) {
                Ok(found) if found.is_dir() => Ok(()),
                _ => Err(Failure::general(format!(
                    "{} is there already and is not a folder",
                    path.display()
                ))),
            }
        }
        Err(error) => Err(unwritable(path, &error)),
    }
}

async fn file(
    there: &Remote<'_>,
    source: &str,
    destination: &Path,
    entry: &Value,
    progress: &Progress,
) -> Result<u64, Failure> {
    progress.file(source);
    let target = there
        .client
        .sandbox(there.name, "/files")
        .query("path", source);
    let answer = target.download().await?;
    let expected = answer.content_length();
    let partial = Partial::create(destination)?;
    let mut file = tokio::fs::File::from_std(
        partial
            .file
            .try_clone()
            .map_err(|error| unwritable(destination, &error))?,
    );
    let mut bytes = 0;
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(Failure::to(format!("reading {source:?} broke off")))?;
        file.write_all(&piece)
            .await
            .map_err(|error| unwritable(destination, &error))?;
        progress.add(piece.len());
        bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
    }
    file.flush()
        .await
        .map_err(|error| unwritable(destination, &error))?;
    if expected.is_some_and(|expected| expected != bytes) {
        return Err(Failure::general(format!(
            "{source:?} ended after {bytes} bytes; it changed while it was read"
        )));
    }
    partial.complete(mode(entry))?;
    Ok(bytes)
}

/// Permission bits of a file; set-user-id bits stay behind.
fn mode(entry: &Value) -> Option<u32> {
    let followed = entry["kind"] == "symlink";
    let text = entry["mode"].as_str().filter(|_| !followed)?;
    u32::from_str_radix(text, 8).ok().map(|mode| mode & 0o777)
}

/// A file under another name until it is complete; removed when it never is.
struct Partial {
    file: fs::File,
    path: PathBuf,
    destination: PathBuf,
    complete: bool,
}

impl Partial {
    fn create(destination: &Path) -> Result<Self, Failure> {
        let name = format!(".sandboxai-{}", Id::random()?);
        let path = destination.parent().unwrap_or(Path::new("")).join(name);
        let file = fs::File::create_new(&path).map_err(|error| unwritable(destination, &error))?;
        Ok(Self {
            file,
            path,
            destination: destination.to_owned(),
            complete: false,
        })
    }

    fn complete(mut self, mode: Option<u32>) -> Result<(), Failure> {
        let failed = |error| unwritable(&self.destination, &error);
        if let Some(mode) = mode {
            let permissions = fs::Permissions::from_mode(mode);
            self.file.set_permissions(permissions).map_err(failed)?;
        }
        fs::rename(&self.path, &self.destination).map_err(failed)?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.complete {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::general(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_sandbox_cannot_lead_elsewhere() {
        for name in ["..", ".", "", "a/b", "/", "a\0"] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("a..b") && is_plain(".bashrc") && is_plain(" "));
        assert_eq!(last_name("/a/b/"), Some("b"));
        assert_eq!(last_name("/a/.."), None);
        assert_eq!(last_name("/"), None);
        assert_eq!(last_name("b"), Some("b"));
    }

    #[test]
    fn what_is_not_complete_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        drop(Partial::create(&path).unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        Partial::create(&path)
            .unwrap()
            .complete(Some(0o640))
            .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_not_taken_for_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(make_folder(&link).is_err());
        assert!(make_folder(&folder.path().join("new")).is_ok());
        assert!(make_folder(&folder.path().join("new")).is_ok());
    }
}
