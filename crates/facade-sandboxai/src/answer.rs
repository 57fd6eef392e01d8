//! The outermost layer: what every answer gets.
//!
//! It gives the request an id and a log span, measures it, and renders errors,
//! with the tombstone of the sandbox when that is the reason.

use std::time::Instant;

use axum::RequestExt;
use axum::{
    Json,
    extract::{MatchedPath, RawPathParams, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use sandbox::{Error, Kind, Name, Space};
use tracing::Instrument;

use crate::{
    Facade,
    error::ApiError,
    request_id,
    timing::{self, Phases},
    wire::Tombstone,
};

/// Completes the answer to a request.
pub(crate) async fn complete(
    State(facade): State<Facade>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let request_id = facade.request_ids.of(request.headers());
    let place = Place::of(&mut request).await;
    let route = place.route.as_deref().unwrap_or("-");
    let span = edge::span(&request_id, request.method(), route);
    let is_head = request.method() == Method::HEAD;
    request.extensions_mut().insert(request_id.clone());
    let answer = async move {
        let mut response = edge::or_fault(next.run(request), fault).await;
        if let Some(error) = response.extensions_mut().remove::<ApiError>() {
            error.log();
            let tombstone = place.tombstone(&facade, &error).await;
            response = if is_head {
                response
            } else {
                render(response, error.body(request_id.as_str(), tombstone))
            };
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

/// The rendered error, with the status and the headers that it had already.
fn render(empty: Response, body: crate::wire::ErrorBody) -> Response {
    let (parts, _) = empty.into_parts();
    let mut response = (parts.status, Json(body)).into_response();
    for (name, value) in &parts.headers {
        if name != axum::http::header::CONTENT_LENGTH && name != axum::http::header::CONTENT_TYPE {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Where a request goes.
struct Place {
    route: Option<String>,
    space: Option<String>,
    name: Option<String>,
}

impl Place {
    async fn of(request: &mut Request) -> Self {
        let route = request
            .extensions()
            .get::<MatchedPath>()
            .map(|path| path.as_str().to_owned());
        let parameters = request.extract_parts::<RawPathParams>().await.ok();
        let parameter = |wanted: &str| {
            parameters.as_ref().and_then(|parameters| {
                parameters
                    .iter()
                    .find(|(name, _)| *name == wanted)
                    .map(|(_, value)| value.to_owned())
            })
        };
        Self {
            route,
            space: parameter("space"),
            name: parameter("name"),
        }
    }

    /// How the sandbox ended, when that explains the error.
    async fn tombstone(&self, facade: &Facade, error: &ApiError) -> Option<Tombstone> {
        if !matches!(error.kind(), Kind::NotFound | Kind::SandboxLost) {
            return None;
        }
        let space: Space = self.space.as_deref()?.parse().ok()?;
        let name: Name = self.name.as_deref()?.parse().ok()?;
        // A file that is not found in a living sandbox has nothing to do with
        // how an earlier sandbox of that name ended.
        if facade.control.get(&space, &name).await.is_ok() {
            return None;
        }
        let ended = facade.control.find_tombstone(&space, &name).await?;
        ended.tombstone.as_ref().map(Tombstone::from)
    }
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
        let error = response.extensions().get::<ApiError>();
        assert_eq!(error.map(ApiError::kind), Some(Kind::Internal));
    }
}
