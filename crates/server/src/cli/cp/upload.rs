//! From this machine into a sandbox.

use std::{
    ffi::OsStr,
    fs::{self, Metadata},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::json;
use tokio_util::io::ReaderStream;

use super::{Copied, DEPTH_MAX, Progress, Remote, below};
use crate::{exit_code::ExitCode, failure::Failure};

/// One read, bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Copies as `cp -r` does: into a folder that exists, else under the new name.
pub(super) async fn copy(
    source: &Path,
    there: &Remote<'_>,
    destination: &str,
    progress: &Progress,
) -> Result<Copied, Failure> {
    let metadata = fs::metadata(source).map_err(|error| unreadable(source, &error))?;
    let is_folder = there.kind(destination).await?.as_deref() == Some("directory");
    let destination = if is_folder || destination.ends_with('/') {
        let name = source
            .canonicalize()
            .ok()
            .and_then(|source| source.file_name().map(OsStr::to_owned));
        match name {
            Some(name) => below(destination, text(&name)?),
            None => destination.to_owned(),
        }
    } else {
        destination.to_owned()
    };
    let mut copied = Copied::default();
    let mut waiting = vec![(source.to_owned(), destination, metadata, 0)];
    while let Some((source, destination, metadata, depth)) = waiting.pop() {
        if metadata.is_file() {
            copied.bytes += file(&source, there, &destination, &metadata, progress).await?;
            copied.files += 1;
        } else if metadata.is_dir() {
            if depth == DEPTH_MAX {
                return Err(Failure::general(format!(
                    "{} is more than {DEPTH_MAX} folders deep",
                    source.display()
                )));
            }
            let body = json!({ "path": destination, "mode": mode(&metadata) });
            there.tool("make_directory", &body).await?;
            for (path, name, metadata) in entries(&source)? {
                waiting.push((path, below(&destination, &name), metadata, depth + 1));
            }
        } else {
            copied.skipped += 1;
        }
    }
    Ok(copied)
}

/// What a folder holds; links are told as links, so that they are not followed.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String, Metadata)>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let metadata = entry
            .metadata()
            .map_err(|error| unreadable(&entry.path(), &error))?;
        let name = text(&entry.file_name())?.to_owned();
        found.push((entry.path(), name, metadata));
    }
    Ok(found)
}

async fn file(
    source: &Path,
    there: &Remote<'_>,
    destination: &str,
    metadata: &Metadata,
    progress: &Progress,
) -> Result<u64, Failure> {
    progress.file(&source.to_string_lossy());
    let file = tokio::fs::File::open(source)
        .await
        .map_err(|error| unreadable(source, &error))?;
    let counted = progress.clone();
    let pieces = ReaderStream::with_capacity(file, PIECE_BYTES).inspect(move |piece| {
        if let Ok(piece) = piece {
            counted.add(piece.len());
        }
    });
    there
        .client
        .sandbox(there.name, "/files")
        .query("path", destination)
        .query("mode", mode(metadata))
        .upload(Method::PUT, reqwest::Body::wrap_stream(pieces))
        .await?;
    Ok(metadata.len())
}

/// Permission bits as the server reads them. Set-user-id bits stay behind.
fn mode(metadata: &Metadata) -> String {
    format!("{:04o}", metadata.permissions().mode() & 0o777)
}

fn text(name: &OsStr) -> Result<&str, Failure> {
    name.to_str().ok_or_else(|| {
        Failure::general(format!("the file name {name:?} is not UTF-8"))
            .hint("rename it, or copy an archive of the folder")
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => ExitCode::NotFound,
        _ => ExitCode::Failure,
    };
    Failure::new(code, format!("cannot read {}: {error}", path.display()))
}
