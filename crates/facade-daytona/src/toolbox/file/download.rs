//! Files that go out, streamed from the agent.

use std::convert::Infallible;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use control::{FileRead, PieceStream};
use futures_util::{Stream, StreamExt, stream};
use jiff::Timestamp;
use sandbox::Error;
use serde::Deserialize;
use serde_json::json;

use super::{
    error::{file_error, path},
    multipart,
};
use crate::{
    error::{ApiError, ApiResult},
    extract::{JsonBody, QueryOf},
    target::Target,
    token,
    version::SdkVersion,
};

/// The first SDK that reads errors of single files as JSON.
const JSON_ERRORS: SdkVersion = SdkVersion::new(0, 168);

#[derive(Debug, Deserialize)]
pub(super) struct DownloadQuery {
    path: String,
}

/// `GET /files/download`: the content as it is.
pub(super) async fn download_one(
    target: Target,
    QueryOf(query): QueryOf<DownloadQuery>,
) -> ApiResult<Response> {
    let path = path("path", &query.path)?;
    let read = open(&target, path).await.map_err(file_error)?;
    let announced = announced(&read);
    let content = stream::unfold(Some(Content::new(read, announced)), |content| async move {
        let mut content = content?;
        match content.next().await {
            // An error breaks the connection off, so that nobody takes the part for the whole.
            Some(piece) => {
                let goes_on = piece.is_ok();
                Some((piece, goes_on.then_some(content)))
            }
            None => None,
        }
    });
    let mut response = (
        [
            (header::CONTENT_TYPE, "application/octet-stream"),
            (header::CONTENT_DISPOSITION, "attachment"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        Body::from_stream(content),
    )
        .into_response();
    if let Some(length) = announced {
        let length = HeaderValue::from(length);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
    Ok(response)
}

#[derive(Debug, Deserialize)]
pub(super) struct DownloadBody {
    paths: Vec<String>,
}

/// `POST /files/bulk-download`: a part `file` for each, or a part `error`. One
/// that breaks off in the middle has both.
pub(super) async fn download_many(
    target: Target,
    version: SdkVersion,
    JsonBody(body): JsonBody<DownloadBody>,
) -> ApiResult<Response> {
    if body.paths.is_empty() {
        return Err(ApiError::bad_request("field `paths` is empty"));
    }
    let form = Form {
        boundary: token::random()?,
        version,
    };
    let content_type = format!("multipart/form-data; boundary={}", form.boundary);
    let last = multipart::last(&form.boundary);
    let parts = stream::iter(body.paths)
        .then(move |path| parts_of(target.clone(), path, form.clone()))
        .flatten()
        .chain(stream::once(async { last }))
        .map(Ok::<_, Infallible>);
    Ok((
        [(header::CONTENT_TYPE, content_type)],
        Body::from_stream(parts),
    )
        .into_response())
}

/// What the parts of an answer have in common.
#[derive(Clone, Debug)]
struct Form {
    boundary: String,
    version: SdkVersion,
}

/// The part, or parts, of one file.
async fn parts_of(target: Target, path: String, form: Form) -> stream::BoxStream<'static, Bytes> {
    let opened = match path.is_empty() {
        true => Err(Error::invalid("the path is empty")),
        false => open(&target, &path).await,
    };
    match opened {
        Ok(read) => file_parts(read, path, form).boxed(),
        Err(error) => stream::once(async move { form.error(&path, &file_error(error)) }).boxed(),
    }
}

fn file_parts(read: FileRead, path: String, form: Form) -> impl Stream<Item = Bytes> {
    let announced = announced(&read);
    let head = multipart::head(
        &form.boundary,
        "file",
        &path,
        "application/octet-stream",
        announced,
    );
    let state = Some((Content::new(read, announced), path, form));
    let rest = stream::unfold(state, |state| async move {
        let (mut content, path, form) = state?;
        Some(match content.next().await {
            Some(Ok(piece)) => (piece, Some((content, path, form))),
            Some(Err(error)) => {
                let mut end = multipart::END.to_vec();
                end.extend(form.error(&path, &file_error(error)));
                (end.into(), None)
            }
            None => (multipart::END, None),
        })
    });
    stream::once(async { head }).chain(rest)
}

impl Form {
    /// The part that tells why there is no (whole) file.
    fn error(&self, path: &str, error: &ApiError) -> Bytes {
        let (content_type, body) = match self.version < JSON_ERRORS {
            true => ("text/plain; charset=utf-8", error.message.clone()),
            false => ("application/json", error_json(error)),
        };
        let length = Some(body.len() as u64);
        let mut part =
            multipart::head(&self.boundary, "error", path, content_type, length).to_vec();
        part.extend(body.into_bytes());
        part.extend(multipart::END);
        part.into()
    }
}

fn error_json(error: &ApiError) -> String {
    json!({
        "statusCode": error.status.as_u16(),
        "message": error.message,
        "code": error.code,
        "source": "DAYTONA_DAEMON",
        "timestamp": Timestamp::now().to_string(),
        "path": "/files/bulk-download",
        "method": "POST",
    })
    .to_string()
}

async fn open(target: &Target, path: &str) -> sandbox::Result<FileRead> {
    let control = &target.control;
    control
        .read_file(target.space(), target.name(), path, 0, None)
        .await
}

/// How many bytes will follow, if that is known: files of `/proc` say that
/// they are empty, and are not.
fn announced(read: &FileRead) -> Option<u64> {
    (read.entry.size > 0).then_some(read.entry.size)
}

/// The content of a file, which is as long as announced, or an error.
struct Content {
    pieces: PieceStream<Bytes>,
    left: Option<u64>,
}

impl Content {
    fn new(read: FileRead, announced: Option<u64>) -> Self {
        Self {
            pieces: read.content,
            left: announced,
        }
    }

    /// The next piece. A file that grows is cut where it was announced to end.
    async fn next(&mut self) -> Option<sandbox::Result<Bytes>> {
        if self.left == Some(0) {
            return None;
        }
        match (self.pieces.next().await, &mut self.left) {
            (Some(Ok(mut piece)), Some(left)) => {
                piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= piece.len() as u64;
                Some(Ok(piece))
            }
            (None, Some(left)) => Some(Err(Error::conflict(format!(
                "the file became shorter while it was read: {left} bytes are missing"
            )))),
            (next, _) => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use control::{Entry, EntryKind};

    use super::*;

    fn read(size: u64, pieces: Vec<sandbox::Result<Bytes>>) -> FileRead {
        FileRead {
            entry: Entry {
                path: "/f".to_owned(),
                path_base64: None,
                kind: EntryKind::File,
                size,
                mode: 0o644,
                modified_ms: 0,
                uid: 0,
                gid: 0,
                owner: String::new(),
                group: String::new(),
                target: None,
            },
            content: Box::pin(stream::iter(pieces)),
        }
    }

    async fn parts(read: FileRead, version: SdkVersion) -> String {
        let boundary = "b".to_owned();
        let form = Form { boundary, version };
        let parts: Vec<Bytes> = file_parts(read, "/f".to_owned(), form).collect().await;
        String::from_utf8(parts.concat()).unwrap()
    }

    const HEAD: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/f\"; filename*=utf-8''%2Ff\r\nContent-Type: application/octet-stream\r\n";

    #[tokio::test]
    async fn a_file_that_grows_is_cut_and_one_without_size_is_not() {
        let pieces = || vec![Ok(Bytes::from("abc")), Ok(Bytes::from("def"))];
        let grown = parts(read(4, pieces()), SdkVersion::NEWEST).await;
        assert_eq!(grown, format!("{HEAD}Content-Length: 4\r\n\r\nabcd\r\n"));
        let unknown = parts(read(0, pieces()), SdkVersion::NEWEST).await;
        assert_eq!(unknown, format!("{HEAD}\r\nabcdef\r\n"));
    }

    #[tokio::test]
    async fn a_file_that_breaks_off_is_followed_by_an_error() {
        let short = read(4, vec![Ok(Bytes::from("abc"))]);
        let text = parts(short, SdkVersion::NEWEST).await;
        let (file, error) = text.split_once("\r\n--b\r\nContent-Disp").unwrap();
        assert!(file.ends_with("\r\n\r\nabc"), "{file}");
        assert!(error.contains("name=\"error\"; filename=\"/f\""), "{error}");
        assert!(error.contains("\"statusCode\":409"), "{error}");
        assert!(error.contains("1 bytes are missing"), "{error}");
        let broken = read(4, vec![Err(Error::not_found("/f: gone"))]);
        let text = parts(broken, SdkVersion::new(0, 115)).await;
        assert!(text.ends_with("\r\n\r\nnot found: /f: gone\r\n"), "{text}");
        assert!(text.contains("text/plain"), "{text}");
    }
}
