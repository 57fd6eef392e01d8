//! Work on files as JSON tools.

use bytes::Bytes;
use control::Entry;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EntryBody, check};
use crate::error::ApiError;

/// Entries listed when the request does not say.
const LIST_ENTRIES_DEFAULT: u64 = 1000;
/// Most entries listed at once; a listing is held in memory.
const LIST_ENTRIES_MAX: u64 = 100_000;
/// Bytes read by `tools:read_file` when the request does not say.
const READ_BYTES_DEFAULT: u64 = 1 << 20;
/// Most bytes read by `tools:read_file`, which holds them in memory.
const READ_BYTES_MAX: u64 = 16 << 20;

/// A path.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PathRequest {
    /// Absolute, or below the image's working directory.
    path: String,
}

impl PathRequest {
    /// The path, checked.
    pub(crate) fn into_path(self) -> Result<String, ApiError> {
        check::path("path", self.path)
    }
}

/// A directory to list.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListFilesRequest {
    /// Its path; the working directory when absent.
    path: Option<String>,
    /// How many levels; 1, its own entries, when absent.
    depth: Option<u32>,
    /// At most so many entries; 1000 when absent, never more than 100000.
    limit: Option<u64>,
}

impl ListFilesRequest {
    /// Path, depth and limit, checked.
    pub(crate) fn checked(self) -> Result<(String, u32, u64), ApiError> {
        let path = check::path("path", self.path.unwrap_or_else(|| ".".to_owned()))?;
        let limit = self.limit.unwrap_or(LIST_ENTRIES_DEFAULT);
        Ok((
            path,
            self.depth.unwrap_or(1).max(1),
            limit.clamp(1, LIST_ENTRIES_MAX),
        ))
    }
}

/// A listing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileList {
    /// Sorted by path.
    entries: Vec<EntryBody>,
    /// Whether there are more than the limit.
    truncated: bool,
}

impl From<control::Listing> for FileList {
    fn from(listing: control::Listing) -> Self {
        Self {
            entries: listing.entries.into_iter().map(EntryBody::from).collect(),
            truncated: listing.truncated,
        }
    }
}

/// A directory to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MakeDirectoryRequest {
    /// Its path; missing parents are made, one that exists is fine.
    path: String,
    /// Permission bits as octal text; 0755 when absent.
    #[schema(example = "0755")]
    mode: Option<String>,
}

impl MakeDirectoryRequest {
    /// Path and mode, checked.
    pub(crate) fn checked(self) -> Result<(String, Option<u32>), ApiError> {
        Ok((
            check::path("path", self.path)?,
            check::mode("mode", self.mode.as_deref())?,
        ))
    }
}

/// Something to rename.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveFileRequest {
    /// From.
    source: String,
    /// To.
    destination: String,
    /// Replace what is there; false when absent.
    overwrite: Option<bool>,
}

impl MoveFileRequest {
    /// Source, destination and whether to overwrite, checked.
    pub(crate) fn checked(self) -> Result<(String, String, bool), ApiError> {
        Ok((
            check::path("source", self.source)?,
            check::path("destination", self.destination)?,
            self.overwrite.unwrap_or(false),
        ))
    }
}

/// Something to remove.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveFileRequest {
    /// Its path.
    path: String,
    /// Whole trees too; false when absent.
    recursive: Option<bool>,
}

impl RemoveFileRequest {
    /// Path and whether whole trees too, checked.
    pub(crate) fn checked(self) -> Result<(String, bool), ApiError> {
        Ok((
            check::path("path", self.path)?,
            self.recursive.unwrap_or(false),
        ))
    }
}

/// New permissions or owners.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetPermissionsRequest {
    /// Of what.
    path: String,
    /// Permission bits as octal text; kept when absent.
    #[schema(example = "0644")]
    mode: Option<String>,
    /// User by name or number; kept when absent.
    pub(crate) owner: Option<String>,
    /// Group by name or number; kept when absent.
    pub(crate) group: Option<String>,
}

impl SetPermissionsRequest {
    /// Path and mode, checked; there is something to change.
    pub(crate) fn checked(&self) -> Result<(String, Option<u32>), ApiError> {
        if self.mode.is_none() && self.owner.is_none() && self.group.is_none() {
            return Err(ApiError::field(
                "mode",
                "is missing, as are `owner` and `group`; give at least one of them",
            ));
        }
        Ok((
            check::path("path", self.path.clone())?,
            check::mode("mode", self.mode.as_deref())?,
        ))
    }
}

/// A small file, or a part of one, to read as JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadFileRequest {
    /// Its path.
    path: String,
    /// First byte; 0 when absent.
    pub(crate) offset: Option<u64>,
    /// At most so many bytes; 1 MiB when absent, never more than 16 MiB.
    length: Option<u64>,
}

impl ReadFileRequest {
    /// Path, offset and length, checked.
    pub(crate) fn checked(self) -> Result<(String, u64, u64), ApiError> {
        let length = self.length.unwrap_or(READ_BYTES_DEFAULT);
        if length > READ_BYTES_MAX {
            return Err(ApiError::field(
                "length",
                format_args!(
                    "{length} is over the limit of {READ_BYTES_MAX}; use GET …/files for more"
                ),
            ));
        }
        Ok((
            check::path("path", self.path)?,
            self.offset.unwrap_or(0),
            length,
        ))
    }
}

/// Content of a file: `text`, or `base64` when it is not UTF-8.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReadFileResult {
    /// The file.
    entry: EntryBody,
    /// The content as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The content in base64, when it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// Whether the file goes on after this.
    truncated: bool,
}

impl ReadFileResult {
    /// The answer from what was read.
    pub(crate) fn new(entry: Entry, content: Vec<u8>, truncated: bool) -> Self {
        let (text, base64) = match String::from_utf8(content) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(check::base64(error.as_bytes()))),
        };
        Self {
            entry: entry.into(),
            text,
            base64,
            truncated,
        }
    }
}

/// A small file to write: `text` or `base64`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteFileRequest {
    /// Its path; missing parents are made.
    path: String,
    /// The content as text.
    text: Option<String>,
    /// The content in base64.
    base64: Option<String>,
    /// Permission bits as octal text; kept, or 0644 for a new file, when absent.
    #[schema(example = "0644")]
    mode: Option<String>,
    /// Append instead of replacing the file; false when absent.
    append: Option<bool>,
}

/// A small file, ready to write.
#[derive(Debug)]
pub(crate) struct FileWrite {
    /// Where.
    pub(crate) path: String,
    /// Permission bits.
    pub(crate) mode: Option<u32>,
    /// Append instead of replacing.
    pub(crate) append: bool,
    /// What.
    pub(crate) content: Bytes,
}

impl WriteFileRequest {
    /// Everything, checked.
    pub(crate) fn checked(self) -> Result<FileWrite, ApiError> {
        Ok(FileWrite {
            path: check::path("path", self.path)?,
            mode: check::mode("mode", self.mode.as_deref())?,
            append: self.append.unwrap_or(false),
            content: check::content(self.text, self.base64)?.into(),
        })
    }
}
