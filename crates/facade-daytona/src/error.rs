//! Errors as Daytona's SDKs read them. One place that renders ([`crate::answer`]).

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use sandbox::{Error, Kind};

use crate::side::Side;

/// An error on its way out; becomes a body in [`crate::answer`].
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    /// The status.
    pub(crate) status: StatusCode,
    /// The code that newer SDKs map to an exception class, e.g. `FILE_NOT_FOUND`.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
    /// Whose error it is; an extension of the response, too.
    side: Side,
}

pub(crate) type ApiResult<T> = std::result::Result<T, ApiError>;

impl ApiError {
    /// An error with the code that goes with its status.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code_of(status),
            message: message.into(),
            side: Side::SandboxAi,
        }
    }

    /// The same error as one of the upstream.
    pub(crate) fn of_upstream(mut self) -> Self {
        self.side = Side::Daytona;
        self
    }

    /// The same error with a code of its own.
    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 501, for the documented part of the protocol that is not served.
    pub(crate) fn not_served(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("not served by this server: {what}; see docs/protocols/daytona.md"),
        )
        .with_code("NOT_IMPLEMENTED")
    }
}

fn code_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "BAD_REQUEST",
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "FORBIDDEN",
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::REQUEST_TIMEOUT => "REQUEST_TIMEOUT",
        StatusCode::CONFLICT => "CONFLICT",
        StatusCode::GONE => "GONE",
        StatusCode::UNPROCESSABLE_ENTITY => "UNPROCESSABLE_ENTITY",
        StatusCode::TOO_MANY_REQUESTS => "TOO_MANY_REQUESTS",
        StatusCode::BAD_GATEWAY => "BAD_GATEWAY",
        StatusCode::SERVICE_UNAVAILABLE => "SERVICE_UNAVAILABLE",
        _ => "INTERNAL_SERVER_ERROR",
    }
}

/// The status of each kind of error.
pub(crate) fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::AlreadyExists | Kind::Conflict => StatusCode::CONFLICT,
        Kind::InvalidRequest => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::LimitReached => StatusCode::TOO_MANY_REQUESTS,
        Kind::Timeout => StatusCode::REQUEST_TIMEOUT,
        Kind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::SandboxLost => StatusCode::GONE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        if error.kind == Kind::Internal {
            tracing::error!(
                %error,
                cause = error.source.as_ref().map(tracing::field::display),
                "a request failed"
            );
        }
        Self::new(status_of(error.kind), error.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if self.side == Side::Daytona {
            response.extensions_mut().insert(self.side);
        }
        response.extensions_mut().insert(self);
        response
    }
}
