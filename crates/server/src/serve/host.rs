//! Only requests that were meant for this server.
//!
//! A web page can make a browser on this machine send requests to a server on
//! loopback: by a name of its own that resolves to 127.0.0.1 (DNS rebinding),
//! or directly, when it need not read the answer. The first is seen by the
//! `Host` header, the second by the `Origin` header.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::authentication::{Keys, refusal};

/// What container engines call the machine that they run on. No page on the
/// internet can have a name below `.internal`.
const NAMES_IN_CONTAINERS: [&str; 3] = [
    "host.docker.internal",
    "gateway.docker.internal",
    "host.containers.internal",
];

/// Which requests were meant for this server.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    hosts: Arc<[String]>,
    keys: Keys,
}

impl Allowed {
    /// Those that carry one of the keys; and those to loopback names, plain
    /// addresses, the names of the machine in containers, and `hosts`, which
    /// are in lower case.
    pub(super) fn new(hosts: &[String], keys: Keys) -> Self {
        Self {
            hosts: hosts.into(),
            keys,
        }
    }

    /// Whether `host`, without a port, is one of ours.
    fn allows(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        // A plain address cannot be rebound.
        address.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || NAMES_IN_CONTAINERS.contains(&host)
            || self
                .hosts
                .iter()
                .any(|allowed| match allowed.strip_prefix("*.") {
                    Some(parent) => host
                        .strip_suffix(parent)
                        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
                    None => host == allowed,
                })
    }

    fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        // No browser adds a key on behalf of a page that does not know it.
        if self.keys.are_needed() && self.keys.accepts(headers) {
            return Ok(());
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err((StatusCode::BAD_REQUEST, "more than one Host header".into()));
        }
        let named = host
            .map(|host| {
                host.to_str()
                    .ok()
                    .and_then(|host| host.parse::<Authority>().ok())
            })
            .into_iter()
            .chain(uri.authority().cloned().map(Some));
        for authority in named {
            let Some(authority) = authority else {
                return Err((
                    StatusCode::BAD_REQUEST,
                    "the Host header is not valid".into(),
                ));
            };
            if !self.allows(authority.host()) {
                return Err((
                    StatusCode::MISDIRECTED_REQUEST,
                    format!(
                        "this server is not reached under the name {:?}; add it to `server.allowed_hosts` if it should be",
                        authority.host()
                    ),
                ));
            }
        }
        self.judge_origin(host.map(header::HeaderValue::as_bytes), headers)
    }

    /// A browser says for which page it sends a request; programs do not.
    fn judge_origin(
        &self,
        host: Option<&[u8]>,
        headers: &HeaderMap,
    ) -> Result<(), (StatusCode, String)> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.split_once("://").map_or("", |(_, rest)| rest);
        let same = host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_bytes()));
        let configured = authority
            .parse::<Authority>()
            .is_ok_and(|authority| self.hosts.iter().any(|allowed| allowed == authority.host()));
        if same || configured {
            return Ok(());
        }
        Err((
            StatusCode::FORBIDDEN,
            format!(
                "requests from the web page {origin:?} are not accepted; add its host to `server.allowed_hosts` if they should be"
            ),
        ))
    }
}

/// The layer.
pub(super) async fn check(
    State(allowed): State<Allowed>,
    request: Request,
    next: Next,
) -> Response {
    match allowed.judge(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, message)) => {
            let kind = if status == StatusCode::FORBIDDEN {
                "forbidden"
            } else {
                "invalid_request"
            };
            (status, refusal(kind, &message)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use axum::http::HeaderValue;

    fn judge(host: &str, origin: Option<&str>) -> Result<(), StatusCode> {
        let hosts = ["box.example.com".into(), "*.apps.example.com".into()];
        let allowed = Allowed::new(&hosts, Keys::new(&[]));
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        allowed
            .judge(&Uri::from_static("/v1/healthz"), &headers)
            .map_err(|(status, _)| status)
    }

    #[test]
    fn loopback_names_addresses_and_configured_hosts_are_ours() {
        for host in [
            "localhost",
            "LOCALHOST:5266",
            "localhost.",
            "a.localhost:1",
            "127.0.0.1:5266",
            "[::1]:5266",
            "192.168.1.5",
            "host.docker.internal:5266",
            "box.example.com:80",
            "x.apps.example.com",
        ] {
            assert_eq!(judge(host, None), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_names_are_misdirected() {
        for host in [
            "evil.com",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "apps.example.com",
            "xapps.example.com",
            ".apps.example.com",
            "notlocalhost",
        ] {
            assert_eq!(
                judge(host, None),
                Err(StatusCode::MISDIRECTED_REQUEST),
                "{host}"
            );
        }
        assert_eq!(judge("a b", None), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn a_key_shows_that_a_request_is_meant_for_us() {
        let judge = |keys: &[Secret], key: &'static str| {
            let headers = HeaderMap::from_iter([
                (header::HOST, HeaderValue::from_static("box.elsewhere.com")),
                (header::AUTHORIZATION, HeaderValue::from_static(key)),
            ]);
            Allowed::new(&[], Keys::new(keys)).judge(&Uri::from_static("/api/sandbox"), &headers)
        };
        let keys = [Secret::new("a-key-of-this-server")];
        assert!(judge(&keys, "Bearer a-key-of-this-server").is_ok());
        assert!(judge(&keys, "Bearer another").is_err());
        assert!(judge(&[], "Bearer ").is_err());
    }

    #[test]
    fn a_name_in_the_request_line_counts_too() {
        let allowed = Allowed::new(&[], Keys::new(&[]));
        let uri = Uri::from_static("http://evil.com/v1/healthz");
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
        assert!(allowed.judge(&uri, &headers).is_err());
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        assert_eq!(
            judge("localhost:5266", Some("http://localhost:5266")),
            Ok(())
        );
        assert_eq!(
            judge("localhost:5266", Some("https://box.example.com")),
            Ok(())
        );
        for origin in ["http://evil.com", "http://localhost:3000", "null", ""] {
            assert_eq!(
                judge("localhost:5266", Some(origin)),
                Err(StatusCode::FORBIDDEN),
                "{origin}"
            );
        }
    }
}
