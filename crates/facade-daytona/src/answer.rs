//! The outermost layer: what every answer gets.
//!
//! It gives the request an id and a log span, measures it, turns a panic into
//! an answer, and renders errors.

use std::time::Instant;

use axum::{
    Json,
    extract::{MatchedPath, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use sandbox::Error;
use serde_json::json;
use tracing::Instrument;

use crate::{
    Facade,
    error::ApiError,
    request_id,
    timing::{self, Phases},
};

/// Completes the answer to a request.
pub(crate) async fn complete(
    State(facade): State<Facade>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let request_id = facade.request_ids.of(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>();
    let span = edge::span(&request_id, &method, route.map_or("-", MatchedPath::as_str));
    let answer = async move {
        let mut response = edge::or_fault(next.run(request), fault).await;
        if let Some(error) = response.extensions_mut().remove::<ApiError>() {
            tracing::debug!(status = error.status.as_u16(), %path, "refused: {}", error.message);
            if method != Method::HEAD {
                response = render(response, &error, &method, &path);
            }
        }
        let phases = response.extensions_mut().remove::<Phases>();
        let headers = response.headers_mut();
        headers.insert(request_id::HEADER, request_id.header());
        headers.insert(
            timing::HEADER,
            timing::header(started.elapsed(), &phases.unwrap_or_default()),
        );
        tracing::debug!(status = response.status().as_u16(), "answered");
        response
    };
    let response = answer.instrument(span.clone()).await;
    edge::in_span(response, span)
}

/// What a panic is answered with.
fn fault() -> Response {
    ApiError::from(Error::internal("a fault in the server")).into_response()
}

/// The error with the status, headers and extensions that it had already.
///
/// The body has what the control plane's and the toolbox's errors have, so that
/// the SDKs of both find what they look for.
fn render(empty: Response, error: &ApiError, method: &Method, path: &str) -> Response {
    let source = match path.starts_with("/api/") && !path.starts_with("/api/toolbox/") {
        true => "DAYTONA_API",
        false => "DAYTONA_DAEMON",
    };
    let body = json!({
        "statusCode": error.status.as_u16(),
        "error": error.status.canonical_reason().unwrap_or("Error"),
        "message": error.message,
        "code": error.code,
        "source": source,
        "timestamp": Timestamp::now().to_string(),
        "path": path,
        "method": method.as_str(),
    });
    let mut response = (error.status, Json(body)).into_response();
    let (empty, _) = empty.into_parts();
    for (name, value) in &empty.headers {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response.extensions_mut().extend(empty.extensions);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_answer() {
        let response = edge::or_fault(
            async { panic!("shown by the test runner, as it should be") },
            fault,
        );
        let response = response.await;
        assert_eq!(response.status(), 500);
        assert!(response.extensions().get::<ApiError>().is_some());
    }
}
