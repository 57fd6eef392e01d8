//! Files as raw bytes, of any size, never held in memory.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use control::{Entry, PieceStream};
use futures_util::StreamExt;

use crate::{
    Facade,
    error::ApiError,
    extract::{QueryOf, RawBody, Target},
    openapi::ErrorAnswers,
    wire::{EntryBody, FileQuery, Octets, ReadQuery, RemoveQuery, SandboxPath, WriteQuery},
};

/// Carries the metadata of a file beside its content, as JSON in ASCII.
const ENTRY: HeaderName = HeaderName::from_static("x-file-entry");

/// Read a file
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/sandboxes/{name}/files",
    tag = "files",
    params(SandboxPath, ReadQuery),
    responses(
        (status = 200, description = "Its content", body = Octets, content_type = "application/octet-stream",
            headers(("X-File-Entry" = String, description = "Its metadata as JSON (FileEntry)"))),
        ErrorAnswers,
    )
)]
pub(crate) async fn read_file(
    State(facade): State<Facade>,
    target: Target,
    QueryOf(query): QueryOf<ReadQuery>,
) -> Result<Response, ApiError> {
    let path = query.path()?;
    let (offset, length) = (query.offset, query.length);
    let read = facade
        .control
        .read_file(&target.space, &target.name, &path, offset, length)
        .await?;
    let announced = announced_bytes(read.entry.size, offset, length);
    let body = Body::from_stream(no_more_than(read.content, announced));
    let mut response = octets(body, announced);
    response
        .headers_mut()
        .insert(ENTRY, entry_header(read.entry));
    Ok(response)
}

/// The size and metadata of a file
#[utoipa::path(
    head,
    path = "/v1/spaces/{space}/sandboxes/{name}/files",
    tag = "files",
    params(SandboxPath, FileQuery),
    responses(
        (status = 200, description = "It can be read",
            headers(("X-File-Entry" = String, description = "Its metadata as JSON (FileEntry)"))),
        ErrorAnswers,
    )
)]
pub(crate) async fn head_file(
    State(facade): State<Facade>,
    target: Target,
    QueryOf(query): QueryOf<FileQuery>,
) -> Result<Response, ApiError> {
    let path = query.into_path()?;
    // Opened, and not only looked at, so that links are followed as when reading.
    let read = facade
        .control
        .read_file(&target.space, &target.name, &path, 0, Some(0))
        .await?;
    let announced = announced_bytes(read.entry.size, 0, None);
    let mut response = octets(Body::empty(), announced);
    response
        .headers_mut()
        .insert(ENTRY, entry_header(read.entry));
    Ok(response)
}

/// Write a file
///
/// The body is its content. The file is replaced at the end of the upload, as
/// a whole: an upload that breaks off leaves the old file as it was.
#[utoipa::path(
    put,
    path = "/v1/spaces/{space}/sandboxes/{name}/files",
    tag = "files",
    params(SandboxPath, WriteQuery),
    request_body(content = Octets, content_type = "application/octet-stream"),
    responses((status = 200, description = "Written", body = EntryBody), ErrorAnswers)
)]
pub(crate) async fn write_file(
    State(facade): State<Facade>,
    target: Target,
    QueryOf(query): QueryOf<WriteQuery>,
    RawBody(content): RawBody,
) -> Result<Json<EntryBody>, ApiError> {
    let (path, mode, append) = query.checked()?;
    let entry = facade
        .control
        .write_file(&target.space, &target.name, &path, mode, append, content)
        .await?;
    Ok(Json(entry.into()))
}

/// Remove a file, or a tree
#[utoipa::path(
    delete,
    path = "/v1/spaces/{space}/sandboxes/{name}/files",
    tag = "files",
    params(SandboxPath, RemoveQuery),
    responses((status = 204, description = "Removed"), ErrorAnswers)
)]
pub(crate) async fn delete_file(
    State(facade): State<Facade>,
    target: Target,
    QueryOf(query): QueryOf<RemoveQuery>,
) -> Result<StatusCode, ApiError> {
    let (path, recursive) = query.checked()?;
    facade
        .control
        .remove_file(&target.space, &target.name, &path, recursive)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many bytes will follow, if that is known: files of `/proc` say that
/// they are empty, and are not.
fn announced_bytes(size: u64, offset: u64, length: Option<u64>) -> Option<u64> {
    let rest = size.saturating_sub(offset);
    (size > 0).then(|| length.map_or(rest, |length| length.min(rest)))
}

/// The content, cut at the announced length: the file may grow meanwhile.
/// When it shrinks, the connection breaks off, so that nobody takes the part
/// for the whole.
fn no_more_than(content: PieceStream<Bytes>, announced: Option<u64>) -> PieceStream<Bytes> {
    let Some(announced) = announced else {
        return content;
    };
    let state = (content, announced);
    Box::pin(futures_util::stream::unfold(
        state,
        |(mut content, left)| async move {
            if left == 0 {
                return None;
            }
            let piece = content.next().await?;
            Some(match piece {
                Ok(mut piece) => {
                    piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - piece.len() as u64;
                    (Ok(piece), (content, left))
                }
                Err(error) => {
                    tracing::debug!(%error, "a file could not be read to its end");
                    (Err(error), (content, 0))
                }
            })
        },
    ))
}

/// Raw bytes that no browser should take for a page.
fn octets(body: Body, length: Option<u64>) -> Response {
    let mut response = (
        [
            (header::CONTENT_TYPE, "application/octet-stream"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        body,
    )
        .into_response();
    if let Some(length) = length {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

fn entry_header(entry: Entry) -> HeaderValue {
    let json = serde_json::to_string(&EntryBody::from(entry)).unwrap_or_default();
    HeaderValue::from_str(&ascii(&json)).unwrap_or_else(|_| HeaderValue::from_static("{}"))
}

/// JSON with everything that is not ASCII written as `\u…`.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0; 2];
    for character in json.chars() {
        if character.is_ascii() && character != '\u{7f}' {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_announced_length_is_what_will_follow() {
        assert_eq!(announced_bytes(10, 0, None), Some(10));
        assert_eq!(announced_bytes(10, 4, None), Some(6));
        assert_eq!(announced_bytes(10, 4, Some(3)), Some(3));
        assert_eq!(announced_bytes(10, 4, Some(100)), Some(6));
        assert_eq!(announced_bytes(10, 100, None), Some(0));
        assert_eq!(announced_bytes(0, 0, None), None);
    }

    #[tokio::test]
    async fn a_file_that_grows_is_cut_where_it_was_announced_to_end() {
        let pieces = [b"abc".as_slice(), b"defg", b"h"];
        let content: PieceStream<Bytes> = Box::pin(futures_util::stream::iter(
            pieces.map(|piece| Ok(Bytes::from_static(piece))),
        ));
        let cut = no_more_than(content, Some(5));
        let pieces: Vec<Bytes> = cut.map(Result::unwrap).collect().await;
        assert_eq!(pieces.concat(), b"abcde");
    }

    proptest! {
        #[test]
        fn any_name_survives_the_header(name in "\\PC{0,40}") {
            let json = ascii(&serde_json::to_string(&name).unwrap());
            prop_assert!(HeaderValue::from_str(&json).is_ok());
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), name);
        }
    }
}
