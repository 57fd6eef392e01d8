//! Which SDK asks: each generation wants its own shapes.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};

/// The header in which SDKs tell their version; browsers send it as a
/// subprotocol of a websocket, with `~` before the version.
const HEADER: &str = "x-daytona-sdk-version";

/// Version of the caller's SDK. Callers that tell none, and development
/// versions, count as the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SdkVersion(u32, u32);

impl SdkVersion {
    /// Later than every version.
    pub(crate) const NEWEST: Self = Self(u32::MAX, u32::MAX);

    /// A version, for comparisons.
    pub(crate) const fn new(major: u32, minor: u32) -> Self {
        Self(major, minor)
    }

    /// From the headers of a request.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let told = headers.get(HEADER).and_then(|value| value.to_str().ok());
        let protocol = headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find_map(|protocol| {
                let (name, version) = protocol.trim().split_once('~')?;
                name.eq_ignore_ascii_case(HEADER).then_some(version)
            });
        told.or(protocol)
            .and_then(Self::parse)
            .unwrap_or(Self::NEWEST)
    }

    /// From a text such as `0.226.1`; `None` for what is no version of a release.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.contains("dev") {
            return None;
        }
        let mut numbers = text.trim_start_matches('v').split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self(major, minor))
    }
}

impl<S: Sync> FromRequestParts<S> for SdkVersion {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn of(name: &'static str, value: &'static str) -> SdkVersion {
        SdkVersion::of(&HeaderMap::from_iter([(
            axum::http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )]))
    }

    #[test]
    fn versions_are_told_in_two_ways_and_compared_as_numbers() {
        assert_eq!(of(HEADER, "0.21.0"), SdkVersion::new(0, 21));
        assert_eq!(
            of("sec-websocket-protocol", "a, X-Daytona-SDK-Version~0.184.0"),
            SdkVersion::new(0, 184)
        );
        assert!(SdkVersion::new(0, 21) < SdkVersion::new(0, 115));
        assert!(SdkVersion::new(0, 226) < SdkVersion::NEWEST);
    }

    #[test]
    fn who_tells_nothing_is_new() {
        for odd in ["", "x", "0", "v0.0.0-dev", "0.x"] {
            assert_eq!(of(HEADER, odd), SdkVersion::NEWEST, "{odd:?}");
        }
    }
}
