//! Parts of a multipart body: reading them within bounds, and the frames of
//! those that are sent.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::BodyDataStream,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use multer::{Field, Multipart};

use crate::error::{ApiError, ApiResult};

/// How long a body may pause.
const PAUSE_TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes that the parser gets at once before it must hand some on.
const AHEAD_BYTES: usize = 256 << 10;
/// Bytes of a part's headers.
const HEADERS_BYTES_MAX: usize = 64 << 10;
/// Bytes of a part that is text.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// The parts of a body, as they come.
pub(super) struct Parts {
    multipart: Multipart<'static>,
    unparsed: Arc<AtomicUsize>,
}

impl Parts {
    /// Whether a body with these headers has parts.
    pub(super) fn are_in(headers: &HeaderMap) -> bool {
        content_type(headers).is_some_and(|text| {
            let essence = text.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("multipart/form-data")
        })
    }

    /// The parts of a body.
    pub(super) fn new(headers: &HeaderMap, body: BodyDataStream) -> ApiResult<Self> {
        let boundary =
            multer::parse_boundary(content_type(headers).unwrap_or_default()).map_err(|_| {
                ApiError::bad_request("send `Content-Type: multipart/form-data; boundary=…`")
            })?;
        let unparsed = Arc::new(AtomicUsize::new(0));
        let body = Bounded {
            body,
            unparsed: Arc::clone(&unparsed),
            ahead: 0,
        };
        Ok(Self {
            multipart: Multipart::new(body, boundary),
            unparsed,
        })
    }

    /// The next part.
    pub(super) async fn next(&mut self) -> ApiResult<Option<Part>> {
        self.unparsed.store(0, Ordering::Relaxed);
        let field = in_time(self.multipart.next_field()).await?;
        self.unparsed.store(0, Ordering::Relaxed);
        Ok(field.map(|field| Part {
            field,
            unparsed: Arc::clone(&self.unparsed),
        }))
    }
}

/// One part.
pub(super) struct Part {
    field: Field<'static>,
    unparsed: Arc<AtomicUsize>,
}

impl Part {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.field.name().unwrap_or_default()
    }

    /// Its content's next piece.
    pub(super) async fn chunk(&mut self) -> ApiResult<Option<Bytes>> {
        let chunk = in_time(self.field.chunk()).await?;
        self.unparsed.store(0, Ordering::Relaxed);
        Ok(chunk)
    }

    /// Its content, which is a short text.
    pub(super) async fn text(mut self) -> ApiResult<String> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > TEXT_BYTES_MAX {
                return Err(ApiError::bad_request(format!(
                    "part `{}` is longer than {TEXT_BYTES_MAX} bytes",
                    self.name()
                )));
            }
        }
        String::from_utf8(text)
            .map_err(|_| ApiError::bad_request("a part that names a file is not UTF-8"))
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

async fn in_time<T>(wait: impl Future<Output = multer::Result<T>>) -> ApiResult<T> {
    match tokio::time::timeout(PAUSE_TIME_MAX, wait).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ApiError::bad_request(format!(
            "the upload is not valid multipart data or broke off: {error}"
        ))),
        Err(_) => Err(sandbox::Error::timeout(format!(
            "the upload paused for more than {PAUSE_TIME_MAX:?}"
        ))
        .into()),
    }
}

/// A body of which the parser, which takes all that it can get, gets only so much.
struct Bounded {
    body: BodyDataStream,
    /// Bytes given out since the parser last handed something on.
    unparsed: Arc<AtomicUsize>,
    /// Bytes given out since the last rest.
    ahead: usize,
}

impl Stream for Bounded {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ahead >= AHEAD_BYTES {
            self.ahead = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = std::task::ready!(self.body.poll_next_unpin(context));
        if let Some(Ok(bytes)) = &next {
            self.ahead += bytes.len();
            let before = self.unparsed.fetch_add(bytes.len(), Ordering::Relaxed);
            // Content is handed on at once; only headers keep the parser waiting.
            if before > AHEAD_BYTES + HEADERS_BYTES_MAX {
                let error = std::io::Error::other("the headers of a part are too long");
                return Poll::Ready(Some(Err(axum::Error::new(error))));
            }
        }
        Poll::Ready(next)
    }
}

/// The line and headers before the content of a part that is sent.
pub(super) fn head(
    boundary: &str,
    name: &str,
    path: &str,
    content_type: &str,
    length: Option<u64>,
) -> Bytes {
    let mut head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{}\"; filename*=utf-8''{}\r\nContent-Type: {content_type}\r\n",
        quoted(path),
        percent_encoded(path)
    );
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    head.into()
}

/// What ends the content of a part that is sent.
pub(super) const END: Bytes = Bytes::from_static(b"\r\n");

/// What ends a body that is sent.
pub(super) fn last(boundary: &str) -> Bytes {
    format!("--{boundary}--\r\n").into()
}

/// A path for those who know only `filename`: old SDKs undo backslashes where
/// there is a quoted `"`, and take them as they are elsewhere.
fn quoted(path: &str) -> String {
    let path = path.replace('\r', "%0D").replace('\n', "%0A");
    match path.contains('"') || path.ends_with('\\') {
        true => path.replace('\\', "\\\\").replace('"', "\\\""),
        false => path,
    }
}

/// A path as RFC 5987 writes it.
fn percent_encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn parts(body: Body) -> Parts {
        let value = HeaderValue::from_static("multipart/form-data; boundary=b");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value)]);
        assert!(Parts::are_in(&headers));
        Parts::new(&headers, body.into_data_stream()).unwrap()
    }

    #[tokio::test]
    async fn what_is_sent_can_be_read() {
        let content: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let mut body = head("b", "files[0].path", "x", "text/plain", None).to_vec();
        body.extend(b"/tmp/\xc3\xbc\r\n");
        body.extend(head("b", "files[0].file", "x", "a/b", Some(1 << 20)));
        body.extend(&content);
        body.extend(END);
        body.extend(last("b"));
        let mut parts = parts(Body::from(body));
        let first = parts.next().await.unwrap().unwrap();
        assert_eq!(first.name(), "files[0].path");
        assert_eq!(first.text().await.unwrap(), "/tmp/ü");
        let mut second = parts.next().await.unwrap().unwrap();
        let mut read = Vec::new();
        while let Some(chunk) = second.chunk().await.unwrap() {
            read.extend(chunk);
        }
        assert!(read == content);
        drop(second);
        assert!(parts.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn endless_headers_are_not_kept() {
        let endless = futures_util::stream::once(async { Bytes::from("--b\r\nx: ") }).chain(
            futures_util::stream::repeat_with(|| Bytes::from(vec![b'x'; 16 << 10])),
        );
        let body = Body::from_stream(endless.map(Ok::<_, std::io::Error>));
        let error = parts(body).next().await.err().unwrap();
        assert_eq!(error.status.as_u16(), 400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_pauses_or_breaks_off_is_an_error() {
        let start = Bytes::from("--b\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nab");
        let begun = || futures_util::stream::iter([Ok::<_, std::io::Error>(start.clone())]);
        let paused = Body::from_stream(begun().chain(futures_util::stream::pending()));
        for (body, status) in [(paused, 408), (Body::from_stream(begun()), 400)] {
            let mut parts = parts(body);
            let mut part = parts.next().await.unwrap().unwrap();
            let error = loop {
                match part.chunk().await {
                    Ok(piece) => assert!(piece.is_some()),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.status.as_u16(), status);
        }
    }

    #[test]
    fn names_are_quoted_as_sdks_read_them() {
        assert_eq!(quoted("/a b.txt"), "/a b.txt");
        assert_eq!(quoted("/a\\b"), "/a\\b");
        assert_eq!(quoted("/a\"\\b"), "/a\\\"\\\\b");
        assert_eq!(quoted("/a\\"), "/a\\\\");
        assert_eq!(percent_encoded("/ü b"), "%2F%C3%BC%20b");
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_header(path in any::<String>()) {
            let head = head("b", "file", &path, "a/b", Some(1));
            let text = String::from_utf8(head.to_vec()).unwrap();
            prop_assert_eq!(text.matches("\r\n").count(), 5);
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
        }
    }
}
