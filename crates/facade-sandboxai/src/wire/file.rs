//! Files as raw bytes, and their metadata.

use control::{Entry, EntryKind};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::check;
use crate::error::ApiError;

/// One file or directory.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FileEntry)]
pub(crate) struct EntryBody {
    /// Its path: as asked for, or below the listed directory.
    path: String,
    /// The exact path in base64, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// `file`, `directory`, `symlink` or `other`.
    #[schema(example = "file")]
    kind: &'static str,
    /// Size in bytes.
    size: u64,
    /// Permission bits as octal text.
    #[schema(example = "0644")]
    mode: String,
    /// Last change of content, milliseconds since the epoch.
    modified_ms: i64,
    /// Owner as a number.
    uid: u32,
    /// Group as a number.
    gid: u32,
    /// Owner by name, or the number.
    owner: String,
    /// Group by name, or the number.
    group: String,
    /// Target of a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        Self {
            path: entry.path,
            path_base64: entry.path_base64,
            kind: match entry.kind {
                EntryKind::File => "file",
                EntryKind::Directory => "directory",
                EntryKind::Symlink => "symlink",
                EntryKind::Other => "other",
            },
            size: entry.size,
            mode: format!("{:04o}", entry.mode & 0o7777),
            modified_ms: entry.modified_ms,
            uid: entry.uid,
            gid: entry.gid,
            owner: entry.owner,
            group: entry.group,
            target: entry.target,
        }
    }
}

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FileQuery {
    /// Its path, absolute or below the image's working directory.
    path: String,
}

impl FileQuery {
    /// The path, checked.
    pub(crate) fn into_path(self) -> Result<String, ApiError> {
        check::path("path", self.path)
    }
}

/// Which part of which file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadQuery {
    /// Its path, absolute or below the image's working directory.
    path: String,
    /// First byte; 0 when absent.
    #[serde(default)]
    pub(crate) offset: u64,
    /// At most so many bytes; all when absent.
    pub(crate) length: Option<u64>,
}

impl ReadQuery {
    /// The path, checked.
    pub(crate) fn path(&self) -> Result<String, ApiError> {
        check::path("path", self.path.clone())
    }
}

/// Where and how to write.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteQuery {
    /// Its path; missing parents are made.
    path: String,
    /// Permission bits as octal text; kept, or 0644 for a new file, when absent.
    #[param(example = "0644")]
    mode: Option<String>,
    /// Append instead of replacing the file.
    #[serde(default)]
    pub(crate) append: bool,
}

impl WriteQuery {
    /// Path and mode, checked.
    pub(crate) fn checked(self) -> Result<(String, Option<u32>, bool), ApiError> {
        Ok((
            check::path("path", self.path)?,
            check::mode("mode", self.mode.as_deref())?,
            self.append,
        ))
    }
}

/// What to remove.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// Its path.
    path: String,
    /// Whole trees too.
    #[serde(default)]
    recursive: bool,
}

impl RemoveQuery {
    /// Path and whether whole trees too, checked.
    pub(crate) fn checked(self) -> Result<(String, bool), ApiError> {
        Ok((check::path("path", self.path)?, self.recursive))
    }
}
