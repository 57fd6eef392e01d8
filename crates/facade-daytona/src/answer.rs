//! The outermost layer: what every answer gets, and how errors look.

use std::time::Instant;

use axum::{
    Json,
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde_json::json;

use crate::error::ApiError;

/// Where the time of a request went.
const TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Completes the answer to a request.
pub(crate) async fn complete(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = render(&error, method.as_str(), &path);
    }
    if !response.headers().contains_key(&TIMING) {
        let total_ms = started.elapsed().as_secs_f64() * 1000.0;
        if let Ok(value) = HeaderValue::from_str(&format!("total;dur={total_ms:.3}")) {
            response.headers_mut().insert(TIMING, value);
        }
    }
    response
}

/// The body has what the control plane's and the toolbox's errors have, so that
/// the SDKs of both find what they look for.
fn render(error: &ApiError, method: &str, path: &str) -> Response {
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
        "method": method,
    });
    (error.status, Json(body)).into_response()
}
