//! What is there: listing directories, and looking at one file.

use axum::Json;
use control::{Entry, EntryKind};
use jiff::{Timestamp, fmt::strtime};
use serde::{Deserialize, Serialize};

use super::error::{file_error, path};
use crate::{
    error::{ApiError, ApiResult},
    extract::QueryOf,
    target::Target,
};

/// Entries of one listing; it fails beyond, so that nobody takes a part for the whole.
const ENTRIES_MAX: u64 = 100_000;
/// Deepest listing.
const DEPTH_MAX: u32 = 1000;
/// How many links are followed, one after the other.
const LINKS_MAX: usize = 10;

/// One file or directory, with every field that some SDK requires.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileInfo {
    name: String,
    path: String,
    size: u64,
    /// As `ls -l` shows it.
    mode: String,
    /// Octal, four digits.
    permissions: String,
    /// In the form that Go gives a time as text.
    mod_time: String,
    /// RFC 3339.
    modified_at: String,
    is_dir: bool,
    owner: String,
    group: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    path: Option<String>,
    depth: Option<u32>,
}

/// `GET /files`
pub(super) async fn list(
    target: Target,
    QueryOf(query): QueryOf<ListQuery>,
) -> ApiResult<Json<Vec<FileInfo>>> {
    let asked = query.path.as_deref().filter(|path| !path.is_empty());
    let path = absolute(&target, asked.unwrap_or(".")).await?;
    let depth = query.depth.unwrap_or(1);
    if !(1..=DEPTH_MAX).contains(&depth) {
        return Err(ApiError::bad_request(format!(
            "parameter `depth` must be from 1 to {DEPTH_MAX}"
        )));
    }
    let listing = target
        .control
        .list_files(target.space(), target.name(), &path, depth, ENTRIES_MAX)
        .await
        .map_err(file_error)?;
    if listing.truncated && listing.entries.len() as u64 >= ENTRIES_MAX {
        return Err(ApiError::bad_request(format!(
            "{path} has more than {ENTRIES_MAX} entries; ask for less `depth`, or list it by a command"
        )));
    }
    let infos = listing.entries.into_iter().map(FileInfo::from);
    Ok(Json(infos.collect()))
}

#[derive(Debug, Deserialize)]
pub(super) struct InfoQuery {
    path: String,
}

/// `GET /files/info`; links are followed as far as they lead somewhere.
pub(super) async fn info(
    target: Target,
    QueryOf(query): QueryOf<InfoQuery>,
) -> ApiResult<Json<FileInfo>> {
    let asked = absolute(&target, path("path", &query.path)?).await?;
    let stat = |path: String| {
        let (control, sandbox) = (&target.control, &target.sandbox);
        async move {
            control
                .stat_file(&sandbox.space, &sandbox.name, &path)
                .await
        }
    };
    let mut entry = stat(asked.clone()).await.map_err(file_error)?;
    for _ in 0..LINKS_MAX {
        let Some(link) = entry.target.as_deref() else {
            break;
        };
        match stat(beside(&entry.path, link)).await {
            Ok(next) => entry = next,
            Err(_) => break,
        }
    }
    // It goes by the name that was asked for.
    entry.path = asked;
    Ok(Json(FileInfo::from(entry)))
}

/// Whether a path is a directory; one that does not exist is none.
pub(super) async fn kind(target: &Target, path: &str) -> Option<EntryKind> {
    let stat = target
        .control
        .stat_file(target.space(), target.name(), path);
    stat.await.ok().map(|entry| entry.kind)
}

/// The path below the sandbox's working directory, unless it is absolute.
async fn absolute(target: &Target, path: &str) -> ApiResult<String> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let places = target.control.places(target.space(), target.name()).await?;
    let path = path.strip_prefix("./").unwrap_or(path);
    let workdir = places.workdir.trim_end_matches('/');
    Ok(match path {
        "." if workdir.is_empty() => "/".to_owned(),
        "." | "" => workdir.to_owned(),
        path => format!("{workdir}/{path}"),
    })
}

/// Where a link at `path` leads.
fn beside(path: &str, link: &str) -> String {
    match (link.starts_with('/'), path.rsplit_once('/')) {
        (false, Some((parent, _))) => format!("{parent}/{link}"),
        _ => link.to_owned(),
    }
}

impl From<Entry> for FileInfo {
    fn from(entry: Entry) -> Self {
        let path = match entry.path.trim_end_matches('/') {
            "" => "/",
            path => path,
        };
        let name = match path.rsplit_once('/') {
            Some((_, name)) if !name.is_empty() => name,
            _ => path,
        };
        let modified = Timestamp::from_millisecond(entry.modified_ms).unwrap_or_default();
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
            size: entry.size,
            mode: mode_text(entry.kind, entry.mode),
            permissions: format!("{:04o}", entry.mode & 0o7777),
            mod_time: go_time(modified),
            modified_at: modified.to_string(),
            is_dir: entry.kind == EntryKind::Directory,
            owner: entry.owner,
            group: entry.group,
        }
    }
}

/// `2026-11-27 14:04:21.5 +0000 UTC`
fn go_time(time: Timestamp) -> String {
    strtime::format("%Y-%m-%d %H:%M:%S%.f +0000 UTC", time).unwrap_or_else(|_| time.to_string())
}

/// `-rw-r--r--`
fn mode_text(kind: EntryKind, mode: u32) -> String {
    let kind = match kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Other => '?',
    };
    let mut text = String::from(kind);
    // The special bit of a triple takes the place of its `x`.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            path: path.to_owned(),
            path_base64: None,
            kind: EntryKind::File,
            size: 3,
            mode: 0o644,
            modified_ms: 1_700_000_000_120,
            uid: 0,
            gid: 0,
            owner: "root".to_owned(),
            group: "root".to_owned(),
            target: None,
        }
    }

    #[test]
    fn a_file_has_every_field_of_every_sdk() {
        let info = serde_json::to_value(FileInfo::from(entry("/d/a b.txt"))).unwrap();
        assert_eq!(
            info,
            serde_json::json!({
                "name": "a b.txt",
                "path": "/d/a b.txt",
                "size": 3,
                "mode": "-rw-r--r--",
                "permissions": "0644",
                "modTime": "2023-11-14 22:13:20.12 +0000 UTC",
                "modifiedAt": "2023-11-14T22:13:20.12Z",
                "isDir": false,
                "owner": "root",
                "group": "root",
            })
        );
    }

    #[test]
    fn whole_seconds_have_no_fraction() {
        let mut whole = entry("/");
        whole.modified_ms = 0;
        let info = FileInfo::from(whole);
        assert_eq!(info.mod_time, "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!((info.name.as_str(), info.path.as_str()), ("/", "/"));
    }

    #[test]
    fn modes_are_as_ls_shows_them() {
        for (kind, mode, text) in [
            (EntryKind::Directory, 0o755, "drwxr-xr-x"),
            (EntryKind::Directory, 0o1777, "drwxrwxrwt"),
            (EntryKind::File, 0o4755, "-rwsr-xr-x"),
            (EntryKind::File, 0o2640, "-rw-r-S---"),
            (EntryKind::Symlink, 0o777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode_text(kind, mode), text);
        }
    }

    #[test]
    fn links_lead_from_where_they_are() {
        assert_eq!(beside("/a/link", "b"), "/a/b");
        assert_eq!(beside("/a/link", "/b"), "/b");
        assert_eq!(beside("/link", "../b"), "/../b");
    }
}
