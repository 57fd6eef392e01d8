//! From the parts of a request to typed values; what is wrong is a 4xx that
//! names it.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use control::PieceStream;
use futures_util::StreamExt;
use sandbox::{Error, Kind, Name, Space};
use serde::de::DeserializeOwned;

use crate::{Facade, error::ApiError};

/// The sandbox that a path names.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) space: Space,
    pub(crate) name: Name,
}

/// The space that a path names.
#[derive(Debug)]
pub(crate) struct TargetSpace(pub(crate) Space);

/// The process that a path names.
#[derive(Debug)]
pub(crate) struct TargetProcess {
    pub(crate) sandbox: Target,
    pub(crate) process: u64,
}

/// The parameters of a path.
struct Parameters(RawPathParams);

impl Parameters {
    async fn of(parts: &mut Parts, facade: &Facade) -> Result<Self, ApiError> {
        let parameters = RawPathParams::from_request_parts(parts, facade).await;
        let parameters = parameters.map_err(|rejection| {
            Error::invalid(format!(
                "the path cannot be read: {}",
                rejection.body_text()
            ))
        })?;
        Ok(Self(parameters))
    }

    fn get(&self, wanted: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| *name == wanted);
        found.map_or("", |(_, value)| value)
    }
}

impl FromRequestParts<Facade> for TargetSpace {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, facade: &Facade) -> Result<Self, ApiError> {
        let parameters = Parameters::of(parts, facade).await?;
        Ok(Self(parameters.get("space").parse()?))
    }
}

impl FromRequestParts<Facade> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, facade: &Facade) -> Result<Self, ApiError> {
        let parameters = Parameters::of(parts, facade).await?;
        Ok(Self {
            space: parameters.get("space").parse()?,
            name: parameters.get("name").parse()?,
        })
    }
}

impl FromRequestParts<Facade> for TargetProcess {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, facade: &Facade) -> Result<Self, ApiError> {
        let sandbox = Target::from_request_parts(parts, facade).await?;
        let parameters = Parameters::of(parts, facade).await?;
        let process = parameters.get("process").parse().map_err(|_| {
            ApiError::field(
                "process",
                "is not a number; use the `id` that starting the process returned",
            )
        })?;
        Ok(Self { sandbox, process })
    }
}

/// The query of a path.
#[derive(Debug)]
pub(crate) struct QueryOf<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Facade> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Facade) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                // The text names the parameter, after a prefix for programmers.
                let text = rejection.body_text();
                let text = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                Err(Error::invalid(format!("the query is wrong: {text}")).into())
            }
        }
    }
}

/// A JSON body. An absent body counts as `{}`.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Facade> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, facade: &Facade) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let config = &facade.config;
        let reading = read(&parts.headers, body, config.json_bytes_max);
        let bytes = tokio::time::timeout(config.body_timeout, reading)
            .await
            .map_err(|_| too_slow(config.body_timeout))??;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        check_content_type(&parts.headers)?;
        parse(&bytes).map(Self)
    }
}

/// The whole body, if it is not over the limit.
async fn read(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    // Refused before it is sent, where the client says how long it will be.
    if announced.is_some_and(|announced| announced > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let mut body = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(part) = body.next().await {
        let part = part.map_err(|error| {
            Error::cancelled("the body of the request ended before it was complete")
                .with_source(error)
        })?;
        if whole.len() + part.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::with_status(
        StatusCode::PAYLOAD_TOO_LARGE,
        Error::invalid(format!(
            "the JSON body is over the limit of {bytes_max} bytes; send large content as a file by PUT …/files"
        )),
    )
}

fn too_slow(limit: Duration) -> ApiError {
    ApiError::with_status(
        StatusCode::REQUEST_TIMEOUT,
        Error::timeout(format!(
            "the body of the request did not arrive within {} s",
            limit.as_secs_f64()
        )),
    )
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .map_or("", |value| value.to_str().unwrap_or("?"));
    let essence = given.split(';').next().unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5 && essence.to_ascii_lowercase().ends_with("+json"));
    if is_json {
        return Ok(());
    }
    let shown: String = given.chars().take(80).collect();
    Err(ApiError::with_status(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::invalid(format!(
            "the body has content type {shown:?}; send JSON with `Content-Type: application/json`"
        )),
    ))
}

/// The value in a JSON text; what is wrong with it is told with field, line and column.
fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            serde_json::error::Category::Data => wrong_value(&path, &error),
            _ => not_json(&error),
        }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    Error::invalid(format!("the body is not valid JSON: {error}")).into()
}

/// Names the field: `path` where the value is there, else what the text quotes.
fn wrong_value(path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let missing = text
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'))
        .map(|(name, _)| name);
    match (path, missing) {
        (".", Some(name)) => ApiError::field(name, &text),
        (_, Some(name)) => ApiError::field(&format!("{path}.{name}"), &text),
        (".", None) => Error::invalid(format!("the body is wrong: {text}")).into(),
        (_, None) => ApiError::field(path, &text),
    }
}

/// A raw body, as it comes, of any length. Each part must come within the deadline.
pub(crate) struct RawBody(pub(crate) PieceStream<Bytes>);

impl FromRequest<Facade> for RawBody {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, facade: &Facade) -> Result<Self, Self::Rejection> {
        let limit = facade.config.body_timeout;
        let body = request.into_body().into_data_stream();
        Ok(Self(Box::pin(futures_util::stream::unfold(
            Some(body),
            move |body| next_part(body, limit),
        ))))
    }
}

/// The next part of a raw body; an error is the last.
async fn next_part(
    body: Option<axum::body::BodyDataStream>,
    limit: Duration,
) -> Option<(sandbox::Result<Bytes>, Option<axum::body::BodyDataStream>)> {
    let mut body = body?;
    match tokio::time::timeout(limit, body.next()).await {
        Ok(None) => None,
        Ok(Some(Ok(part))) => Some((Ok(part), Some(body))),
        Ok(Some(Err(error))) => {
            let told = Error::cancelled("the upload ended before it was complete");
            Some((Err(told.with_source(error)), None))
        }
        Err(_) => {
            let error = Error::new(
                Kind::Timeout,
                format!("the upload paused for more than {} s", limit.as_secs_f64()),
            );
            Some((Err(error), None))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Outer {
        inner: Option<Inner>,
        wanted: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        map: BTreeMap<String, String>,
        number: u32,
    }

    fn failure(text: &str) -> (String, Option<String>) {
        let body = parse::<Outer>(text.as_bytes()).unwrap_err().body("r", None);
        (body.message, body.field)
    }

    #[test]
    fn what_is_wrong_in_a_body_is_named() {
        for (text, field) in [
            (r#"{}"#, Some("wanted")),
            (r#"{"wanted": 1}"#, Some("wanted")),
            (
                r#"{"wanted":"","inner":{"map":{"A":1}}}"#,
                Some("inner.map.A"),
            ),
            (r#"{"wanted":"","inner":{"map":{}}}"#, Some("inner.number")),
            (
                r#"{"wanted":"","inner":{"number":-1}}"#,
                Some("inner.number"),
            ),
            (
                r#"{"wanted":"","inner":{"number":1e99}}"#,
                Some("inner.number"),
            ),
            (
                r#"{"wanted":"","inner":{"nmuber":1}}"#,
                Some("inner.nmuber"),
            ),
            (r#"{"wanetd":""}"#, Some("wanetd")),
            (r#"[]"#, None),
            (r#""text""#, None),
        ] {
            let (message, named) = failure(text);
            assert_eq!(named.as_deref(), field, "{text}: {message}");
            assert!(message.contains("line 1 column"), "{message}");
        }
    }

    #[test]
    fn what_is_not_json_is_told_with_its_place() {
        for text in ["{", "{\"wanted\": }", "{\"wanted\":\"\"} x", "nul", "\u{0}"] {
            let (message, field) = failure(text);
            assert!(
                message.starts_with("the body is not valid JSON: "),
                "{text}: {message}"
            );
            assert!(message.contains("line 1 column"), "{message}");
            assert_eq!(field, None);
        }
    }

    #[test]
    fn depth_cannot_overflow_the_stack() {
        let deep = "[".repeat(1_000_000);
        let error = parse::<serde_json::Value>(deep.as_bytes()).unwrap_err();
        let message = error.body("r", None).message;
        assert!(message.contains("recursion limit"), "{message}");
        // What a request does not have is refused before it is read.
        let (message, _) = failure(&format!("{{\"deep\":{deep}"));
        assert!(message.contains("unknown field `deep`"), "{message}");
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<Outer>(&text);
        }
    }

    #[test]
    fn content_types() {
        let check = |given: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static(given),
            );
            check_content_type(&headers)
        };
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/merge-patch+json",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "+json",
        ] {
            assert_eq!(check(bad).unwrap_err().status(), 415, "{bad}");
        }
    }
}
