//! One request to the upstream.

use std::{
    error::Error as _,
    fmt::Write as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use hyper::{body::Frame, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use reqwest::{Upgraded, Url};
use sync_wrapper::SyncWrapper;

use super::{Upstream, header as headers_of};
use crate::{
    error::{ApiError, ApiResult},
    tunnel::{Pulse, Watched, carry},
};

/// Longest answer that is read as a whole, bytes: a list of sandboxes.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;

impl Upstream {
    /// Sends a request; the answer's body comes as it is read. `headers` are
    /// those that the upstream gets.
    ///
    /// # Errors
    /// 502 that names the upstream when there is no answer, 405 for methods that
    /// are not passed on.
    pub(super) async fn send(
        &self,
        method: Method,
        url: Url,
        mut headers: HeaderMap,
        body: Body,
    ) -> ApiResult<reqwest::Response> {
        if method == Method::TRACE || method == Method::CONNECT {
            // The first would tell the caller the key.
            let refused = format!("{method} is not passed on to the upstream");
            return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, refused));
        }
        let size = body.size_hint().exact();
        match size {
            Some(0) => {}
            Some(bytes) => drop(headers.insert(header::CONTENT_LENGTH, bytes.into())),
            None => {
                headers.remove(header::CONTENT_LENGTH);
                // Also where a body is unusual: else it would be taken for none.
                let chunked = HeaderValue::from_static("chunked");
                headers.insert(header::TRANSFER_ENCODING, chunked);
            }
        }
        let mut request = reqwest::Request::new(method, url);
        *request.headers_mut() = headers;
        if !body.is_end_stream() && size != Some(0) {
            *request.body_mut() = Some(reqwest::Body::wrap(Holding::new(body, ())));
        }
        let answer = self.0.http.execute(request).await;
        answer.map_err(|error| self.no_answer(&error))
    }

    /// The answer as it comes; where both sides become something else than HTTP,
    /// its bytes are carried until one of them ends, or nothing moves for
    /// `idle_max`. `held` is kept until then.
    ///
    /// # Errors
    /// 502 when the upstream changes the protocol without being asked to.
    pub(super) async fn deliver(
        &self,
        mut answer: reqwest::Response,
        visitor: Option<OnUpgrade>,
        idle_max: Duration,
        held: impl Send + Unpin + 'static,
    ) -> ApiResult<Response> {
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(streamed(answer).map(|body| Body::new(Holding::new(body, held))));
        }
        let head = head_of(&mut answer);
        let visitor =
            visitor.ok_or_else(|| self.failed("changed the protocol without being asked to"))?;
        let upgraded = answer
            .upgrade()
            .await
            .map_err(|error| self.no_answer(&error))?;
        tokio::spawn(async move {
            let _held = held;
            tunnel(visitor, upgraded, idle_max).await;
        });
        Ok(head)
    }

    /// The error of a request that had no answer.
    pub(super) fn no_answer(&self, error: &reqwest::Error) -> ApiError {
        let why = chain(error);
        tracing::info!(
            upstream = self.api_url(),
            why,
            "the upstream gave no answer"
        );
        self.failed(&format!("gave no answer: {why}"))
    }

    /// The error of something that the upstream did wrong.
    pub(super) fn failed(&self, what: &str) -> ApiError {
        ApiError::new(
            StatusCode::BAD_GATEWAY,
            format!("the upstream Daytona at {} {what}", self.api_url()),
        )
        .of_upstream()
    }

    /// The whole body of an answer.
    ///
    /// # Errors
    /// 502 when it ends early or is too long.
    pub(super) async fn whole(&self, answer: reqwest::Response) -> ApiResult<Bytes> {
        let mut whole = BytesMut::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.no_answer(&error))?;
            if whole.len() + piece.len() > ANSWER_BYTES_MAX {
                let told = format!("gave an answer of more than {ANSWER_BYTES_MAX} bytes");
                return Err(self.failed(&told));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

/// A body that keeps something until its end. Threads may share it, though only
/// its owner reads it.
struct Holding<H> {
    body: SyncWrapper<Body>,
    _held: SyncWrapper<H>,
}

impl<H> Holding<H> {
    fn new(body: Body, held: H) -> Self {
        Self {
            body: SyncWrapper::new(body),
            _held: SyncWrapper::new(held),
        }
    }
}

impl<H: Unpin> HttpBody for Holding<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(self.body.get_mut()).poll_frame(context)
    }
}

async fn tunnel(visitor: OnUpgrade, upstream: Upgraded, idle_max: Duration) {
    let Ok(visitor) = visitor.await else {
        return;
    };
    let pulse = Pulse::new();
    let upstream = Watched::new(upstream, pulse.clone());
    tokio::select! {
        () = carry(TokioIo::new(visitor), upstream) => {}
        () = pulse.stops(idle_max) => {}
    }
}

/// Status and headers of an answer for the caller, with an empty body.
pub(super) fn head_of(answer: &mut reqwest::Response) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    headers_of::to_caller(response.headers_mut());
    response
}

/// The answer as it comes.
pub(super) fn streamed(mut answer: reqwest::Response) -> Response {
    let head = head_of(&mut answer);
    head.map(|_| Body::new(reqwest::Body::from(answer)))
}

/// The answer with another body.
pub(super) fn with_body(mut head: Response, body: impl Into<Body>) -> Response {
    head.headers_mut().remove(header::CONTENT_LENGTH);
    *head.body_mut() = body.into();
    head
}

/// Whether an answer is JSON in plain writing.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// An error with its causes, without the URL, which may carry a token.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let mut text = match (error.is_timeout(), error.is_connect()) {
        (true, _) => "it took too long".to_owned(),
        (_, true) => "it cannot be connected to".to_owned(),
        _ => "the connection failed".to_owned(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
