//! Whether a request carries one of the configured keys.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use crate::config::Secret;

/// Answers without a key: whether the server is there is no secret.
const OPEN_PATH: &str = "/v1/healthz";

/// The keys; none are needed when there are none.
#[derive(Clone, Debug)]
pub(super) struct Keys(Arc<[Secret]>);

impl Keys {
    /// These keys.
    pub(super) fn new(keys: &[Secret]) -> Self {
        Self(keys.into())
    }

    /// Whether requests need a key.
    pub(super) fn are_needed(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether `given` is one of the keys.
    pub(super) fn contain(&self, given: &[u8]) -> bool {
        // Every key is compared, so that the time does not tell which one was near.
        self.0
            .iter()
            .fold(false, |found, key| key.matches(given) | found)
    }

    /// Whether a request carries one of the keys.
    pub(super) fn accepts(&self, headers: &HeaderMap) -> bool {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_at_checked("Bearer ".len()))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
            .map(|(_, key)| key);
        let own = headers.get("x-api-key").map(|value| value.as_bytes());
        bearer
            .into_iter()
            .chain(own)
            .any(|given| self.contain(given))
    }
}

/// The layer.
pub(super) async fn check(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    if !keys.are_needed() || request.uri().path() == OPEN_PATH || keys.accepts(request.headers()) {
        return next.run(request).await;
    }
    let message = "this server needs a key: send `Authorization: Bearer KEY` or `X-API-Key: KEY`";
    (
        StatusCode::UNAUTHORIZED,
        [(header::WWW_AUTHENTICATE, "Bearer")],
        refusal("unauthenticated", message),
    )
        .into_response()
}

/// The body of an answer that no facade gives.
pub(super) fn refusal(kind: &str, message: &str) -> Json<Value> {
    Json(json!({ "message": message, "kind": kind }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    #[test]
    fn a_key_is_taken_from_either_header() {
        let keys = Keys::new(&[
            Secret::new("first-key-of-two"),
            Secret::new("second-key-of-2"),
        ]);
        let accepts = |name: &str, value: &str| {
            keys.accepts(&HeaderMap::from_iter([(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )]))
        };
        assert!(accepts("authorization", "Bearer first-key-of-two"));
        assert!(accepts("authorization", "bearer second-key-of-2"));
        assert!(accepts("x-api-key", "second-key-of-2"));
        for (name, value) in [
            ("authorization", "Bearer "),
            ("authorization", "first-key-of-two"),
            ("authorization", "Basic first-key-of-two"),
            ("authorization", "Bearer first-key-of-tw0"),
            ("x-api-key", "Bearer first-key-of-two"),
            ("x-api-key", ""),
            ("cookie", "first-key-of-two"),
        ] {
            assert!(!accepts(name, value), "{name}: {value}");
        }
    }
}
