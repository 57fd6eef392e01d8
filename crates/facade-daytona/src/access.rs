//! Who may ask.
//!
//! The control plane takes a key of the server. The toolbox of a sandbox takes
//! that, or the sandbox's own preview token (in a header, in the query or in a
//! cookie), or, for files, a URL signed with the sandbox's signing key.

use std::collections::HashMap;

use axum::{
    RequestExt,
    extract::{Query, RawPathParams, Request, State},
    http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use control::Sandbox;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use crate::{
    Facade,
    annotation::{PREVIEW_TOKEN, SIGNING_KEY},
    error::ApiError,
    token,
};

/// The header with a sandbox's preview token.
pub(crate) const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-daytona-preview-token");
/// The query parameter with a sandbox's preview token; browsers cannot set
/// headers of websockets.
pub(crate) const TOKEN_PARAMETER: &str = "DAYTONA_SANDBOX_AUTH_KEY";
/// What the name of the cookie with a sandbox's preview token begins with; the id follows.
pub(crate) const TOKEN_COOKIE_PREFIX: &str = "daytona-sandbox-auth-";
/// What signatures of the only version begin with.
const SIGNATURE_PREFIX: &str = "v1_";

/// Lets requests of the control plane through that carry a key.
pub(crate) async fn control_plane(
    State(facade): State<Facade>,
    request: Request,
    next: Next,
) -> Response {
    match has_key(&facade, request.headers()) {
        true => next.run(request).await,
        false => refusal().into_response(),
    }
}

/// Lets requests of a toolbox through that may use that sandbox.
pub(crate) async fn toolbox(
    State(facade): State<Facade>,
    mut request: Request,
    next: Next,
) -> Response {
    if has_key(&facade, request.headers()) || may_use(&facade, &mut request).await {
        next.run(request).await
    } else {
        refusal().into_response()
    }
}

pub(crate) fn refusal() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid credentials: send a key of this server as `Authorization: Bearer KEY`",
    )
}

/// Whether the request carries a key of the server.
pub(crate) fn has_key(facade: &Facade, headers: &HeaderMap) -> bool {
    bearer(headers).is_some_and(|key| (facade.config.accepts_key)(key))
}

/// Whether a key of the server stands where only tokens of sandboxes belong.
pub(crate) fn has_misplaced_key(facade: &Facade, headers: &HeaderMap, uri: &Uri) -> bool {
    let config = &facade.config;
    let is_key = |given: &[u8]| config.has_keys && (config.accepts_key)(given);
    headers
        .get(TOKEN_HEADER)
        .is_some_and(|given| is_key(given.as_bytes()))
        || query(uri)
            .get(TOKEN_PARAMETER)
            .is_some_and(|given| is_key(given.as_bytes()))
}

/// The key that a request carries.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, key) = headers
        .get(header::AUTHORIZATION)?
        .as_bytes()
        .split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
}

/// Whether the request carries something of the sandbox that it is about.
async fn may_use(facade: &Facade, request: &mut Request) -> bool {
    let Ok(parameters) = request.extract_parts::<RawPathParams>().await else {
        return false;
    };
    let asked = parameters.iter().find(|(name, _)| *name == "sandbox");
    let Some((_, asked)) = asked else {
        return false;
    };
    let Ok(sandbox) = facade.control.find(&facade.config.space, asked) else {
        return false;
    };
    has_token(&sandbox, request.headers(), request.uri())
        || is_signed(&sandbox, request.method(), request.uri())
}

/// Whether the request carries the preview token of the sandbox.
pub(crate) fn has_token(sandbox: &Sandbox, headers: &HeaderMap, uri: &Uri) -> bool {
    let Some(own) = sandbox.annotations.get(PREVIEW_TOKEN) else {
        return false;
    };
    let is_own = |given: &[u8]| token::is_same(own.as_bytes(), given);
    headers
        .get(TOKEN_HEADER)
        .is_some_and(|given| is_own(given.as_bytes()))
        || query(uri)
            .get(TOKEN_PARAMETER)
            .is_some_and(|given| is_own(given.as_bytes()))
        || bearer(headers).is_some_and(is_own)
        || cookie(headers, &format!("{TOKEN_COOKIE_PREFIX}{}", sandbox.id))
            .is_some_and(|given| is_own(given.as_bytes()))
}

/// The value of a cookie.
fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == wanted).then_some(value)
        })
}

/// Whether the URL is one for a file that was signed with the sandbox's key and
/// is still valid. The signature covers method, path of the file and expiry.
fn is_signed(sandbox: &Sandbox, method: &Method, uri: &Uri) -> bool {
    let is_file = match *method {
        Method::GET => uri.path().ends_with("/files/download"),
        Method::POST => uri.path().ends_with("/files/upload-v2"),
        _ => false,
    };
    let Some(key) = sandbox.annotations.get(SIGNING_KEY).filter(|_| is_file) else {
        return false;
    };
    let query = query(uri);
    let (Some(path), Some(expires), Some(signature)) = (
        query.get("path"),
        query.get("expires"),
        query.get("signature"),
    ) else {
        return false;
    };
    let lasts = match expires.parse::<i64>() {
        Ok(0) => true,
        Ok(seconds) => Timestamp::now().as_second() < seconds,
        Err(_) => false,
    };
    lasts
        && is_signature(
            key,
            &format!("v1:files:{method}:{path}:{expires}"),
            signature,
        )
}

fn is_signature(key: &str, text: &str, signature: &str) -> bool {
    let given = signature
        .strip_prefix(SIGNATURE_PREFIX)
        .and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok());
    let (Some(given), Ok(mut mac)) = (given, Hmac::<Sha256>::new_from_slice(key.as_bytes())) else {
        return false;
    };
    mac.update(text.as_bytes());
    mac.verify_slice(&given).is_ok()
}

fn query(uri: &Uri) -> HashMap<String, String> {
    Query::try_from_uri(uri).map_or_else(|_| HashMap::new(), |Query(query)| query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_signature_is_of_one_text_by_one_key() {
        // Computed with Python's hmac: key "key", text "v1:files:GET:/a b:0".
        let mut mac = Hmac::<Sha256>::new_from_slice(b"key").unwrap();
        mac.update(b"v1:files:GET:/a b:0");
        let encoded = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        let signature = format!("v1_{encoded}");
        assert!(is_signature("key", "v1:files:GET:/a b:0", &signature));
        assert!(!is_signature("kex", "v1:files:GET:/a b:0", &signature));
        assert!(!is_signature("key", "v1:files:POST:/a b:0", &signature));
        assert!(!is_signature("key", "v1:files:GET:/a b:0", &encoded));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let headers = HeaderMap::from_iter([(
            header::COOKIE,
            HeaderValue::from_static("a=1; daytona-sandbox-auth-x=tok; b=2"),
        )]);
        assert_eq!(cookie(&headers, "daytona-sandbox-auth-x"), Some("tok"));
        assert_eq!(cookie(&headers, "daytona-sandbox-auth"), None);
    }

    #[test]
    fn a_bearer_key_has_its_scheme_before_it() {
        let of = |value| {
            let headers =
                HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(of("bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(of("abc"), None);
        assert_eq!(of("Basic abcdef"), None);
    }
}
