//! What every HTTP answer gets, whatever protocol it speaks: the id under which the
//! request is found in the log, and where its time went.
//!
//! The facades and the previews stand on this; it knows no wire format.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    Error,
    body::{Body, Bytes, HttpBody},
    http::Method,
    response::Response,
};
use futures_util::FutureExt as _;
use http_body::{Frame, SizeHint};
use tracing::{Span, field::Empty};

pub mod request_id;
pub mod timing;

use request_id::RequestId;

/// The log span of a request. `control` notes in it which `sandbox` it is about,
/// by id, as soon as it knows.
#[must_use]
pub fn span(id: &RequestId, method: &Method, route: &str) -> Span {
    tracing::info_span!("request", request_id = %id, %method, route, sandbox = Empty)
}

/// The answer, or `fault` where the handler panicked: so that the caller learns of
/// it and the connection goes on.
pub async fn or_fault(
    answer: impl Future<Output = Response>,
    fault: impl FnOnce() -> Response,
) -> Response {
    // What a panicking handler leaves behind is dropped with its future; the
    // state that it shares with others is behind locks that see the panic.
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(response) => response,
        Err(_) => fault(),
    }
}

/// The answer, whose body is also made within the span: what is logged while it
/// streams is about the same request.
#[must_use]
pub fn in_span(response: Response, span: Span) -> Response {
    response.map(|body| Body::new(Within { body, span }))
}

/// A body within a span.
struct Within {
    body: Body,
    span: Span,
}

impl HttpBody for Within {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { body, span } = &mut *self;
        let _entered = span.enter();
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
