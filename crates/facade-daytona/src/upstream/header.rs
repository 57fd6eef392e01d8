//! Which headers pass between a caller and the upstream.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::UpstreamKey;
use crate::hop_by_hop;

/// Headers of a request that speak of this server and the way to it, or are
/// answered here.
const OF_THE_WAY_HERE: [HeaderName; 9] = [
    header::HOST,
    header::EXPECT,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];
/// The other header in which this server takes keys.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Headers of an answer that speak for the upstream's host and not for this one.
const OF_THE_HOST: [HeaderName; 2] = [header::ALT_SVC, header::STRICT_TRANSPORT_SECURITY];

/// Headers of an answer that act on this server's origin, which is not the
/// upstream's.
const OF_THE_ORIGIN: [HeaderName; 8] = [
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("service-worker"),
    HeaderName::from_static("service-worker-allowed"),
    header::SET_COOKIE,
    HeaderName::from_static("speculation-rules"),
];
/// A document that a browser shows gets an origin that equals no other, and
/// runs nothing.
const NO_ORIGIN: &str = "sandbox";

/// Makes the headers of a request those that the upstream gets, without any
/// word about who asks.
pub(super) fn to_upstream(headers: &mut HeaderMap) {
    hop_by_hop::renew_of_request(headers);
    for name in &OF_THE_WAY_HERE {
        headers.remove(name);
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 sandboxai"));
}

/// Asks for HTTP and nothing else.
pub(super) fn remove_upgrade(headers: &mut HeaderMap) {
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
    headers.remove(header::TE);
}

/// Puts the upstream's key in the place of one of this server.
pub(super) fn exchange_key(headers: &mut HeaderMap, key: &UpstreamKey) {
    headers.remove(API_KEY);
    headers.insert(header::AUTHORIZATION, key.0.clone());
}

/// Leaves a request what it came with, but no second key behind the first one,
/// which alone was looked at.
pub(super) fn keep_one_authorization(headers: &mut HeaderMap) {
    headers.remove(API_KEY);
    if let Some(first) = headers.get(header::AUTHORIZATION).cloned() {
        headers.insert(header::AUTHORIZATION, first);
    }
}

/// Makes the headers of an answer those that the caller gets.
pub(super) fn to_caller(headers: &mut HeaderMap) {
    hop_by_hop::renew_of_answer(headers);
    for name in &OF_THE_HOST {
        headers.remove(name);
    }
}

/// Makes what the API or a toolbox has answered harmless to this server's own
/// pages: behind a toolbox is code of a sandbox.
pub(super) fn keep_apart(headers: &mut HeaderMap) {
    for name in &OF_THE_ORIGIN {
        headers.remove(name);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.append(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(NO_ORIGIN),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        pairs.collect()
    }

    #[test]
    fn what_concerns_the_connection_or_the_way_here_stays_here() {
        let mut given = headers(&[
            ("host", "box.test"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("x-daytona-source", "sdk-python"),
            ("content-type", "application/json"),
        ]);
        to_upstream(&mut given);
        let kept = headers(&[
            ("x-daytona-source", "sdk-python"),
            ("content-type", "application/json"),
            ("via", "1.1 sandboxai"),
        ]);
        assert_eq!(given, kept);
    }

    #[test]
    fn an_upgrade_that_is_asked_for_is_asked_for() {
        let mut given = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        to_upstream(&mut given);
        assert_eq!(given[header::UPGRADE], "websocket");
        assert_eq!(given[header::CONNECTION], "upgrade");
    }

    #[test]
    fn every_key_of_ours_makes_room_for_the_upstreams() {
        let mut given = headers(&[("x-api-key", "ours")]);
        given.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        given.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        exchange_key(&mut given, &UpstreamKey::new("theirs").unwrap());
        assert_eq!(given.len(), 1);
        assert_eq!(given[header::AUTHORIZATION], "Bearer theirs");
        assert!(
            !format!("{given:?}").contains("theirs"),
            "it cannot be printed"
        );
    }
}
