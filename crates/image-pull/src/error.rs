//! What goes wrong between us and a registry, in words for people.

use reqwest::StatusCode;
use sandbox::{Error, Kind};

use crate::location::Location;

/// Characters of a registry's own words that are passed on.
const WORDS_CHARS_MAX: usize = 300;

/// An error with its causes: those of HTTP clients tell little by themselves.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

/// No answer came, or it broke off.
pub(crate) fn unreachable(location: &Location, error: &reqwest::Error) -> Error {
    let registry = &location.registry;
    if error.is_timeout() {
        return Error::timeout(format!("registry {registry} does not answer in time"));
    }
    // The URL may hold a signature.
    Error::unavailable(format!(
        "cannot reach registry {registry}: {}",
        chain(error).replace(&location.url(""), "")
    ))
}

/// The registry's answer was no.
pub(crate) fn refused(location: &Location, status: StatusCode, body: &[u8]) -> Error {
    let registry = &location.registry;
    let said = said(body);
    let (kind, message) = match status {
        StatusCode::NOT_FOUND => (
            Kind::NotFound,
            format!("registry {registry} has no image {location}{said}"),
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
            Kind::Unauthenticated,
            format!(
                "registry {registry} does not give {location}: there is no such image, or it needs other credentials; set them in `images.credentials`{said}"
            ),
        ),
        StatusCode::TOO_MANY_REQUESTS => (
            Kind::LimitReached,
            format!(
                "registry {registry} has had too many requests from here; try again later, or set `images.credentials`{said}"
            ),
        ),
        status => (
            Kind::Unavailable,
            format!("registry {registry} answered {status} for {location}{said}"),
        ),
    };
    Error::new(kind, message)
}

/// The registry's answer is not what the specification says.
pub(crate) fn nonsense(location: &Location, what: impl std::fmt::Display) -> Error {
    Error::unavailable(format!(
        "registry {} answers strangely for {location}: {what}",
        location.registry
    ))
}

/// What the registry says about an error, if it says it as specified.
fn said(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        errors: Vec<Told>,
    }
    #[derive(serde::Deserialize)]
    struct Told {
        #[serde(default)]
        message: String,
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
        return String::new();
    };
    match envelope.errors.first() {
        Some(told) if !told.message.is_empty() => {
            let words: String = told
                .message
                .chars()
                .filter(|c| !c.is_control())
                .take(WORDS_CHARS_MAX)
                .collect();
            format!(" (it says: {words})")
        }
        _ => String::new(),
    }
}
