//! The file that the course is kept in, so that a share outlives the server.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::course::{Change, Course};

/// The form of the file that this program writes.
const VERSION: u32 = 1;
/// Longest file that is read, bytes; one that this program writes is shorter.
const BYTES_MAX: u64 = 1 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("cannot read the state of the rollout, {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "the state of the rollout, {}, is damaged: {problem}. Put a backup in its place, or remove it: then `rollout.share` counts again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It cannot be written.
    #[error("cannot write the state of the rollout, {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The content, to be read.
#[derive(Deserialize)]
struct Content {
    version: u32,
    changes: Vec<Change>,
}

/// The content, to be written.
#[derive(Serialize)]
struct ContentOf<'a> {
    version: u32,
    /// The newest first.
    changes: Vec<&'a Change>,
}

/// The file; it comes to be with the first change.
#[derive(Debug)]
pub(crate) struct StateFile(PathBuf);

impl StateFile {
    /// The file of this name, in a folder that exists.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// What it holds; `None` when there is no such file.
    pub(crate) fn read(&self) -> Result<Option<Course>, StateError> {
        let damaged = |problem: String| StateError::Damaged {
            path: self.0.clone(),
            problem,
        };
        let bytes = match read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = self.0.clone();
                return Err(StateError::Read { path, source });
            }
        };
        let content: Content =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if content.version != VERSION {
            return Err(damaged(format!(
                "it has version {}, and this program knows {VERSION}",
                content.version
            )));
        }
        Course::of(content.changes)
            .map(Some)
            .ok_or_else(|| damaged("it holds no change".to_owned()))
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, course: &Course) -> Result<(), StateError> {
        let content = ContentOf {
            version: VERSION,
            changes: course.changes().collect(),
        };
        serde_json::to_vec_pretty(&content)
            .map_err(io::Error::from)
            .and_then(|bytes| replace(&self.0, &bytes))
            .map_err(|source| StateError::Write {
                path: self.0.clone(),
                source,
            })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts a new file in the place of the old one, and both on the disk.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::share::Share;
    use jiff::Timestamp;

    #[test]
    fn what_is_written_is_read_and_nothing_else_lies_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path().join("rollout.json"));
        assert_eq!(file.read().unwrap(), None);
        let mut course = Course::begin(Change::new(
            Timestamp::UNIX_EPOCH,
            Share::NONE,
            "configured",
        ));
        for percent in [10.0, 33.3, 100.0] {
            let share = Share::new(percent).unwrap();
            course.change(Change::new(Timestamp::UNIX_EPOCH, share, "\"set\""));
            file.write(&course).unwrap();
            assert_eq!(file.read().unwrap().as_ref(), Some(&course));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rollout.json");
        for (content, problem) in [
            ("", "EOF"),
            ("{\"version\":1,\"chan", "EOF"),
            ("{\"version\":2,\"changes\":[]}", "version 2"),
            ("{\"version\":1,\"changes\":[]}", "no change"),
            (
                r#"{"version":1,"changes":[{"at":"2026-01-01T00:00:00Z","share":101.0,"reason":""}]}"#,
                "from 0 to 100",
            ),
        ] {
            fs::write(&path, content).unwrap();
            let error = StateFile::new(path.clone()).read().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert!(
                error.contains("rollout.json") && error.contains("remove it"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path().join("gone/rollout.json"));
        let first = Change::new(Timestamp::UNIX_EPOCH, Share::NONE, "");
        let error = file.write(&Course::begin(first)).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
    }
}
