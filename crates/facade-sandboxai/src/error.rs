//! From [`sandbox::Error`] to an HTTP answer, in one place.
//!
//! A handler returns an [`ApiError`]; it travels to the outermost layer
//! (`answer`) as an extension of the response, and is rendered there, because
//! only that layer knows the request's id and where to look for a tombstone.

use std::sync::Arc;

use axum::{
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use sandbox::{Error, Kind};

use crate::wire::{ErrorBody, Tombstone};

/// An answer that is an error.
#[derive(Clone, Debug)]
pub(crate) struct ApiError(Arc<Failure>);

#[derive(Debug)]
struct Failure {
    status: StatusCode,
    error: Error,
    field: Option<String>,
}

/// The status for each kind; the one place where kinds become HTTP.
pub(crate) fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::AlreadyExists | Kind::Conflict => StatusCode::CONFLICT,
        Kind::InvalidRequest => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::LimitReached => StatusCode::TOO_MANY_REQUESTS,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        // It was there when the request began and will not come back.
        Kind::SandboxLost => StatusCode::GONE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl ApiError {
    /// A wrong field of the request: which one, and what is wrong with it and how to fix it.
    pub(crate) fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        Error::invalid(format!("field `{field}`: {problem}")).into()
    }

    /// A wrong request that has a status of its own, such as 413.
    pub(crate) fn with_status(status: StatusCode, error: Error) -> Self {
        let field = named_field(&error.message);
        Self(Arc::new(Failure {
            status,
            error,
            field,
        }))
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.error.kind
    }

    /// Writes our own faults to the log, with what caused them. Called once
    /// per error, where it is rendered.
    pub(crate) fn log(&self) {
        let error = &self.0.error;
        if error.kind == Kind::Internal {
            tracing::error!(causes = %causes(error), "{}", error.message);
        } else {
            tracing::debug!(kind = %error.kind, causes = %causes(error), "{}", error.message);
        }
    }

    /// The body that is sent. Messages are public by the contract of
    /// [`sandbox::Error`]; causes are not, and stay in the log.
    pub(crate) fn body(&self, request_id: &str, tombstone: Option<Tombstone>) -> ErrorBody {
        let error = &self.0.error;
        let message = match error.kind {
            Kind::Internal => format!(
                "{}; the server's log has more under request id {request_id}",
                error.message
            ),
            _ => error.message.clone(),
        };
        ErrorBody {
            message,
            kind: error.kind.as_str().to_owned(),
            field: self.0.field.clone(),
            request_id: Some(request_id.to_owned()),
            tombstone,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::with_status(status_of(error.kind), error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if self.kind() == Kind::Unavailable {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The field that a message is about: by convention such messages begin with
/// "field `name`:".
fn named_field(message: &str) -> Option<String> {
    let (name, _) = message.strip_prefix("field `")?.split_once('`')?;
    Some(name.to_owned())
}

/// The chain of causes, for the log.
fn causes(error: &Error) -> String {
    let mut texts = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.join(": ")
}

/// Answers a path that is none of ours.
pub(crate) async fn unknown_route(uri: Uri) -> ApiError {
    Error::not_found(format!(
        "there is nothing at {}; the paths are listed at /v1/openapi.json",
        shortened(uri.path())
    ))
    .into()
}

/// Answers a method that a path does not have; the `Allow` header lists those it has.
pub(crate) async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    ApiError::with_status(
        StatusCode::METHOD_NOT_ALLOWED,
        Error::invalid(format!(
            "{} cannot be used with method {}; the `Allow` header lists those that can",
            shortened(uri.path()),
            shortened(method.as_str())
        )),
    )
}

/// Foreign text as a part of a message: quoted and not too long.
fn shortened(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 200;
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_documented_status() {
        let table = [
            (Kind::NotFound, 404),
            (Kind::AlreadyExists, 409),
            (Kind::InvalidRequest, 400),
            (Kind::Unauthenticated, 401),
            (Kind::Forbidden, 403),
            (Kind::Conflict, 409),
            (Kind::LimitReached, 429),
            (Kind::Timeout, 504),
            (Kind::Cancelled, 499),
            (Kind::Unavailable, 503),
            (Kind::SandboxLost, 410),
            (Kind::Internal, 500),
        ];
        for (kind, status) in table {
            assert_eq!(status_of(kind).as_u16(), status, "{kind}");
        }
    }

    #[test]
    fn the_field_of_a_message_is_told_apart() {
        let body = |error: Error| ApiError::from(error).body("r1", None);
        let named = body("a b".parse::<sandbox::Name>().unwrap_err());
        assert_eq!(named.field.as_deref(), Some("name"));
        assert_eq!(body(Error::invalid("no field here")).field, None);
    }

    #[test]
    fn causes_stay_in_the_log() {
        let error = Error::internal("the store does not answer")
            .with_source(std::io::Error::other("/secret/path: EIO"));
        assert_eq!(causes(&error), "/secret/path: EIO");
        let body = ApiError::from(error).body("r1", None);
        assert_eq!(
            body.message,
            "the store does not answer; the server's log has more under request id r1"
        );
    }
}
