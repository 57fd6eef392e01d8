//! The URL under which the caller reached the server.
//!
//! URLs in answers begin with it, so that nothing need be configured: what the
//! caller used to come here works for the next request, too. The server removes
//! `X-Forwarded-*` from requests that no trusted proxy has sent.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, header, request::Parts, uri::Authority},
};

use crate::{Facade, error::ApiError};

/// The scheme that a proxy was spoken to by.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that a proxy was asked for.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// `scheme://host[:port]` of the request, without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseUrl(pub(crate) String);

impl BaseUrl {
    /// From the headers of a request.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let scheme = match first(headers, &FORWARDED_PROTO) {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
            _ => "http",
        };
        let host = first(headers, &FORWARDED_HOST)
            .filter(|host| is_authority(host))
            .or_else(|| first(headers, &header::HOST).filter(|host| is_authority(host)))?;
        Some(Self(format!("{scheme}://{host}")))
    }

    /// Base of all toolboxes; `/{sandbox}` follows.
    pub(crate) fn toolbox(&self) -> String {
        format!("{}/toolbox", self.0)
    }

    /// Base of the control plane.
    pub(crate) fn api(&self) -> String {
        format!("{}/api", self.0)
    }
}

/// The value that the proxy nearest to the caller has set.
fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.split(',').next().unwrap_or_default().trim())
}

fn is_authority(text: &str) -> bool {
    // Nothing that would move the rest of the URL elsewhere.
    !text.contains('@') && text.parse::<Authority>().is_ok()
}

impl FromRequestParts<Facade> for BaseUrl {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Facade) -> Result<Self, ApiError> {
        Self::of(&parts.headers)
            .ok_or_else(|| ApiError::bad_request("the request has no valid Host header"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn of(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        BaseUrl::of(&headers.collect()).map(|url| url.0)
    }

    #[test]
    fn it_is_where_the_request_came_to() {
        assert_eq!(
            of(&[("host", "127.0.0.1:5266")]).unwrap(),
            "http://127.0.0.1:5266"
        );
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("host", "a b")]), None);
        assert_eq!(of(&[("host", "user@evil")]), None);
    }

    #[test]
    fn a_proxy_tells_where_it_was_asked() {
        let host = ("host", "10.0.0.1:5266");
        assert_eq!(
            of(&[
                host,
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "box.example.com, inner")
            ])
            .unwrap(),
            "https://box.example.com"
        );
        assert_eq!(
            of(&[
                host,
                ("x-forwarded-proto", "gopher"),
                ("x-forwarded-host", "a@b")
            ])
            .unwrap(),
            "http://10.0.0.1:5266"
        );
    }
}
