//! From the parts of a request to typed values; what is wrong is a 400 that
//! names it.

use std::time::Duration;

use axum::{
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, request::Parts},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{
    Facade,
    error::{ApiError, ApiResult},
};

/// How long a JSON body may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);

/// The query of a path. Parameters that the type does not know are ignored.
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
                Err(ApiError::bad_request(format!("the query is wrong: {text}")))
            }
        }
    }
}

/// A JSON body, whatever its content type says. An absent body counts as `{}`,
/// and fields that the type does not know are ignored: newer SDKs send more.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Facade> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, facade: &Facade) -> Result<Self, ApiError> {
        parse_body(&whole(request, facade).await?).map(Self)
    }
}

/// The whole body of a request that is to have one of JSON.
pub(crate) async fn whole(request: Request, facade: &Facade) -> ApiResult<Bytes> {
    let reading = Bytes::from_request(request, facade);
    tokio::time::timeout(BODY_TIME_MAX, reading)
        .await
        .map_err(|_| {
            ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body of the request did not arrive within {BODY_TIME_MAX:?}"),
            )
        })?
        .map_err(|rejection| ApiError::new(rejection.status(), rejection.body_text()))
}

/// The value in a body, as [`JsonBody`] has it.
pub(crate) fn parse_body<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    match bytes.is_empty() {
        true => parse(b"{}"),
        false => parse(bytes),
    }
}

/// The value in a JSON text; what is wrong with it is told with its field.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> ApiResult<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match (path.as_str(), error.is_data()) {
            (".", true) => ApiError::bad_request(format!("the body is wrong: {error}")),
            (path, true) => ApiError::bad_request(format!("field `{path}`: {error}")),
            (_, false) => not_json(&error),
        }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::bad_request(format!("the body is not valid JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[expect(dead_code, reason = "only parsed")]
    struct Body {
        labels: BTreeMap<String, String>,
    }

    #[test]
    fn what_is_wrong_in_a_body_is_named() {
        for (text, told) in [
            (r#"{"labels":{"a":1}}"#, "field `labels.a`"),
            ("{}", "missing field `labels`"),
            ("{", "not valid JSON"),
            (r#"{"labels":{}} x"#, "not valid JSON"),
        ] {
            let error = parse::<Body>(text.as_bytes()).unwrap_err();
            assert!(error.message.contains(told), "{text}: {}", error.message);
        }
    }
}
