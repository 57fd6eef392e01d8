//! The URL under which the caller reached the server.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};

use crate::{Facade, error::ApiError};

/// `scheme://host[:port]` of the request, without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseUrl(pub(crate) String);

impl BaseUrl {
    /// From the headers of a request.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let host = headers.get(header::HOST)?.to_str().ok()?;
        Some(Self(format!("http://{host}")))
    }
}

impl FromRequestParts<Facade> for BaseUrl {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Facade) -> Result<Self, ApiError> {
        Self::of(&parts.headers)
            .ok_or_else(|| ApiError::bad_request("the request has no valid Host header"))
    }
}
