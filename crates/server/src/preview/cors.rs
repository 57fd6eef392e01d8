//! What lets pages of other origins read answers, where applications say nothing.
//!
//! Who may use a port may use it from any page: the page that shows a sandbox's
//! work is another one than the sandbox's. An application that answers for
//! itself is left alone.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};

/// How long browsers may remember the answer to a preflight.
const PREFLIGHT_SECONDS: &str = "600";
/// What a browser asks about.
const ASKED: [HeaderName; 3] = [
    header::ORIGIN,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::ACCESS_CONTROL_REQUEST_HEADERS,
];

/// Whether a browser asks if it may ask.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether an answer says itself who may read it.
pub(super) fn is_answered(answer: &HeaderMap) -> bool {
    answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
}

/// The answer to a preflight: whatever was asked for.
pub(super) fn preflight(asked: &HeaderMap) -> Response {
    let mut response = (StatusCode::NO_CONTENT, Body::empty()).into_response();
    let answer = response.headers_mut();
    allow(asked, answer);
    for (question, name) in [
        (&ASKED[1], header::ACCESS_CONTROL_ALLOW_METHODS),
        (&ASKED[2], header::ACCESS_CONTROL_ALLOW_HEADERS),
    ] {
        if let Some(value) = asked.get(question) {
            answer.insert(name, value.clone());
        }
    }
    answer.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static(PREFLIGHT_SECONDS),
    );
    let names = ASKED.map(|name| name.as_str().to_owned()).join(", ");
    if let Ok(names) = HeaderValue::from_str(&names) {
        answer.insert(header::VARY, names);
    }
    response
}

/// Completes an answer that says nothing about who may read it.
pub(super) fn complete(asked: &HeaderMap, answer: &mut HeaderMap) {
    if is_answered(answer) || !asked.contains_key(header::ORIGIN) {
        return;
    }
    allow(asked, answer);
    answer.append(header::VARY, HeaderValue::from_static("origin"));
}

fn allow(asked: &HeaderMap, answer: &mut HeaderMap) {
    if let Some(origin) = asked.get(header::ORIGIN) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().cloned();
        pairs
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_preflight_is_granted_what_it_asks_for() {
        let asked = headers(&[
            (header::ORIGIN, "https://suna.example"),
            (header::ACCESS_CONTROL_REQUEST_METHOD, "PUT"),
            (header::ACCESS_CONTROL_REQUEST_HEADERS, "cache-control"),
        ]);
        assert!(is_preflight(&Method::OPTIONS, &asked));
        assert!(!is_preflight(&Method::GET, &asked));
        let answer = preflight(&asked);
        let expected = headers(&[
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "https://suna.example"),
            (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "PUT"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "cache-control"),
        ]);
        for (name, value) in &expected {
            assert_eq!(answer.headers().get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn an_application_that_answers_for_itself_is_left_alone() {
        let asked = headers(&[(header::ORIGIN, "https://suna.example")]);
        let own = headers(&[(header::ACCESS_CONTROL_ALLOW_ORIGIN, "https://mine.example")]);
        let mut answer = own.clone();
        complete(&asked, &mut answer);
        assert_eq!(answer, own);
        let mut answer = headers(&[(header::VARY, "accept")]);
        complete(&asked, &mut answer);
        assert_eq!(
            answer[header::ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://suna.example"
        );
        assert_eq!(answer.get_all(header::VARY).iter().count(), 2);
        let mut answer = HeaderMap::new();
        complete(&HeaderMap::new(), &mut answer);
        assert!(answer.is_empty());
    }
}
