//! Files that come in, streamed to the agent.

use std::collections::HashMap;

use axum::{
    Json,
    body::BodyDataStream,
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use control::PieceStream;
use futures_util::StreamExt;
use sandbox::Error;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    error::{file_error, path},
    multipart::{Part, Parts},
};
use crate::{
    error::{ApiError, ApiResult},
    extract::QueryOf,
    target::Target,
};

/// Pieces of a file on their way from the request to the agent.
const PIECES_AHEAD: usize = 4;
/// Files of one request.
const FILES_MAX: usize = 10_000;

#[derive(Debug, Default, Serialize)]
struct Uploaded {
    files: Vec<UploadedFile>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

#[derive(Debug, Serialize)]
struct UploadedFile {
    path: String,
    bytes: u64,
}

/// `POST /files/bulk-upload`: parts `files[N].path` and `files[N].file`, the
/// path before its file. A file that cannot be written hinders no other.
pub(super) async fn upload_many(target: Target, request: Request) -> ApiResult<Response> {
    let (head, body) = request.into_parts();
    let mut parts = Parts::new(&head.headers, body.into_data_stream())?;
    let mut paths = HashMap::new();
    let mut uploaded = Uploaded::default();
    while let Some(part) = parts.next().await? {
        let Some((index, what)) = index_of(part.name()) else {
            continue;
        };
        match what {
            "path" if paths.len() < FILES_MAX => {
                paths.insert(index, part.text().await?);
            }
            "path" => {
                let message = format!("more than {FILES_MAX} files in one request");
                return Err(ApiError::bad_request(message));
            }
            _ => match paths.remove(&index) {
                Some(path) => match write_part(&target, &path, part).await? {
                    Ok(bytes) => uploaded.files.push(UploadedFile { path, bytes }),
                    Err(error) => uploaded.errors.push(told(&path, error.message)),
                },
                None => uploaded.errors.push(format!(
                    "files[{index}].file: comes without a files[{index}].path before it"
                )),
            },
        }
    }
    for (index, path) in paths {
        uploaded
            .errors
            .push(format!("{path}: no files[{index}].file came"));
    }
    if uploaded.files.is_empty() && uploaded.errors.is_empty() {
        uploaded.errors.push("the request has no files".to_owned());
    }
    let status = match uploaded.errors.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::BAD_REQUEST,
    };
    Ok((status, Json(uploaded)).into_response())
}

/// A message that names its file.
fn told(path: &str, message: String) -> String {
    match message.contains(path) && !path.is_empty() {
        true => message,
        false => format!("{path}: {message}"),
    }
}

/// `files[3].path` is the `path` of 3.
fn index_of(name: &str) -> Option<(u32, &str)> {
    let (index, what) = name.strip_prefix("files[")?.split_once("].")?;
    let is_known = matches!(what, "path" | "file");
    is_known.then_some((index.parse().ok()?, what))
}

#[derive(Debug, Deserialize)]
pub(super) struct UploadQuery {
    path: String,
}

#[derive(Debug, Serialize)]
pub(super) struct UploadedOne {
    name: String,
    path: String,
    r#type: &'static str,
}

/// `POST /files/upload` and `/files/upload-v2`: the part `file`, or the body as it is.
pub(super) async fn upload_one(
    target: Target,
    QueryOf(query): QueryOf<UploadQuery>,
    request: Request,
) -> ApiResult<Json<UploadedOne>> {
    let path = path("path", &query.path)?.to_owned();
    let (head, body) = request.into_parts();
    let body = body.into_data_stream();
    match Parts::are_in(&head.headers) {
        true => upload_form(&target, &path, &head.headers, body).await?,
        false => {
            write(&target, &path, raw(body)).await?;
        }
    }
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Json(UploadedOne {
        name,
        path,
        r#type: "file",
    }))
}

async fn upload_form(
    target: &Target,
    path: &str,
    headers: &HeaderMap,
    body: BodyDataStream,
) -> ApiResult<()> {
    let mut parts = Parts::new(headers, body)?;
    while let Some(part) = parts.next().await? {
        if part.name() == "file" {
            write_part(target, path, part).await??;
            return Ok(());
        }
    }
    Err(ApiError::bad_request("the form has no field `file`"))
}

/// Writes a part to a file: the inner error is the file's, the outer one the request's.
async fn write_part(target: &Target, path: &str, mut part: Part) -> ApiResult<ApiResult<u64>> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let pump = async move {
        loop {
            match part.chunk().await {
                // When nobody takes it any more, the rest is read nevertheless:
                // the next part comes after it.
                Ok(Some(chunk)) => drop(sender.send(Ok(chunk)).await),
                Ok(None) => return Ok(()),
                Err(error) => {
                    let told = Error::cancelled("the upload ended before it was complete");
                    drop(sender.send(Err(told)).await);
                    return Err(error);
                }
            }
        }
    };
    let content = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let (pumped, written) = tokio::join!(pump, write(target, path, Box::pin(content)));
    pumped?;
    Ok(written)
}

/// Writes a file and tells its size.
async fn write(target: &Target, path: &str, content: PieceStream<Bytes>) -> ApiResult<u64> {
    if path.is_empty() {
        return Err(ApiError::bad_request("the path is empty").with_code("INVALID_FILE_PATH"));
    }
    let entry = target
        .control
        .write_file(target.space(), target.name(), path, None, false, content)
        .await
        .map_err(file_error)?;
    Ok(entry.size)
}

/// A body as the content of a file.
fn raw(body: BodyDataStream) -> PieceStream<Bytes> {
    Box::pin(body.map(|piece| {
        piece.map_err(|error| {
            Error::cancelled("the upload ended before it was complete").with_source(error)
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_belong_together_by_number() {
        assert_eq!(index_of("files[0].path"), Some((0, "path")));
        assert_eq!(index_of("files[12].file"), Some((12, "file")));
        for other in [
            "file",
            "files[].path",
            "files[x].file",
            "files[0].mode",
            "files[-1].path",
        ] {
            assert_eq!(index_of(other), None, "{other}");
        }
    }
}
