//! Which port of which sandbox a request is for.
//!
//! Two forms: the host `{port}-{key}.{parent}`, and the path
//! `/preview/{key}/{port}/…`. The port is a number in its only writing: a
//! second writing would pass by whatever compares the first.

use axum::http::{
    HeaderMap, HeaderName, Uri, header,
    uri::{Authority, PathAndQuery},
};

/// What paths of the second form begin with.
const PATH_PREFIX: &str = "/preview/";
/// The scheme that a trusted proxy was spoken to by.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that a trusted proxy was asked for.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Lengths of keys of this server: an id, and an id with a signature.
const KEY_CHARS: [usize; 2] = [26, 57];
/// The length of the tokens that Daytona signs URLs with.
const DAYTONA_TOKEN_CHARS: usize = 16;
/// The lengths of the parts of Daytona's ids, with a dash between them.
const DAYTONA_ID_CHARS: [usize; 5] = [8, 4, 4, 4, 12];

/// Whose keys an address may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// Those of this server.
    Own,
    /// Also those of Daytona, which this server stands in front of.
    Any,
}

impl Keys {
    fn contain(self, key: &str) -> bool {
        is_own(key) || (self == Self::Any && (is_daytona_token(key) || is_daytona_id(key)))
    }
}

fn is_own(key: &str) -> bool {
    KEY_CHARS.contains(&key.len()) && is_token(key)
}

fn is_daytona_token(key: &str) -> bool {
    key.len() == DAYTONA_TOKEN_CHARS && is_token(key)
}

fn is_token(key: &str) -> bool {
    key.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn is_daytona_id(key: &str) -> bool {
    let is_hex = |part: &str| {
        part.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let lengths = key.split('-').map(str::len);
    lengths.eq(DAYTONA_ID_CHARS) && key.split('-').all(is_hex)
}

/// How a request came to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// Host and port.
    pub(super) authority: Authority,
}

impl Arrival {
    /// From the headers, of which only trusted proxies have sent the forwarded
    /// ones. `None` when they do not name one host.
    pub(super) fn of(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let is_secure = first(headers, &FORWARDED_PROTO)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next()?.to_str().ok()?;
        if hosts.next().is_some() || uri.authority().is_some_and(|named| named != host) {
            return None;
        }
        let authority = first(headers, &FORWARDED_HOST).unwrap_or(host);
        Some(Self {
            scheme: if is_secure { "https" } else { "http" },
            authority: authority
                .parse()
                .ok()
                .filter(|authority: &Authority| !authority.as_str().contains('@'))?,
        })
    }

    /// The host in lower case, without the port and the final dot.
    pub(super) fn host(&self) -> String {
        let host = self.authority.host().to_ascii_lowercase();
        host.strip_suffix('.').unwrap_or(&host).to_owned()
    }

    /// `:port` if there is one.
    pub(super) fn port_suffix(&self) -> String {
        let port = self.authority.port();
        port.map(|port| format!(":{port}")).unwrap_or_default()
    }

    /// `scheme://host[:port]`.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Whether the host names the machine that the client runs on.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.host();
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost"
            || host.ends_with(".localhost")
            || address.is_ok_and(|address| address.is_loopback())
    }
}

/// The value that the proxy nearest to the caller has set.
fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.split(',').next().unwrap_or_default().trim())
}

/// Where a preview is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// What stands for the sandbox: its id, or a token.
    pub(super) key: String,
    /// The port inside.
    pub(super) port: u16,
    /// How it was written.
    pub(super) form: Form,
    /// Path and query inside; no path at all when a URL by path ends with the port.
    pub(super) inner: String,
}

/// How an address is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In the host; the rest of the host.
    Host(String),
    /// In the path.
    Path,
}

/// It looks like an address, but is none; for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoAddress(pub(super) String);

impl Address {
    /// The address, if the request is for a preview at all.
    pub(super) fn of(arrival: &Arrival, uri: &Uri, keys: Keys) -> Option<Result<Self, NoAddress>> {
        let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let host = arrival.host();
        if let Some((port, key, parent)) = split_host(&host, keys) {
            return Some(port_of(port).map(|port| Self {
                key: key.to_owned(),
                port,
                form: Form::Host(parent.to_owned()),
                inner: whole.to_owned(),
            }));
        }
        let path = whole.strip_prefix(PATH_PREFIX)?;
        let Some((key, rest)) = path.split_once('/') else {
            return Some(Err(NoAddress(
                "a preview is at /preview/SANDBOX/PORT/".to_owned(),
            )));
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (port, inner) = rest.split_at(end);
        Some(port_of(port).map(|port| Self {
            key: key.to_owned(),
            port,
            form: Form::Path,
            inner: inner.to_owned(),
        }))
    }

    /// Whether this may be one of the upstream's ports.
    pub(super) fn may_be_daytonas(&self) -> bool {
        Keys::Any.contain(&self.key)
    }

    /// Whether the URL itself may open the port.
    pub(super) fn is_secret(&self) -> bool {
        !is_daytona_id(&self.key) && self.key.len() != KEY_CHARS[0]
    }

    /// What all paths of this port begin with, without a trailing slash.
    pub(super) fn prefix(&self) -> String {
        match self.form {
            Form::Host(_) => String::new(),
            Form::Path => format!("{PATH_PREFIX}{}/{}", self.key, self.port),
        }
    }

    /// Path and query inside, with a path.
    pub(super) fn inner_with_path(&self) -> String {
        match self.inner.starts_with('/') || self.inner == "*" {
            true => self.inner.clone(),
            false => format!("/{}", self.inner),
        }
    }
}

/// Port, key and parent of a host that is meant as an address. Keys may have
/// dashes, ports have none.
fn split_host(host: &str, keys: Keys) -> Option<(&str, &str, &str)> {
    let (label, parent) = host.split_once('.')?;
    let (port, key) = label.split_once('-')?;
    (keys.contain(key) && !parent.is_empty()).then_some((port, key, parent))
}

/// A port in its only writing: decimal digits without a leading zero.
fn port_of(text: &str) -> Result<u16, NoAddress> {
    let is_canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse()
        .ok()
        .filter(|_| is_canonical)
        .ok_or_else(|| NoAddress(format!("{text:?} is not a port from 1 to 65535")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    const KEY: &str = "abcdefghijkmnpqrstuvwxyz23";

    fn arrival(host: &str) -> Option<Arrival> {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]);
        Arrival::of(&Uri::from_static("/"), &headers)
    }

    fn of(host: &str, uri: &str) -> Option<Result<Address, NoAddress>> {
        Address::of(&arrival(host)?, &uri.parse().unwrap(), Keys::Own)
    }

    #[test]
    fn an_address_is_in_the_host() {
        let found = of(&format!("3000-{KEY}.localhost:5266"), "/a?b")
            .unwrap()
            .unwrap();
        assert_eq!((found.port, found.key.as_str()), (3000, KEY));
        assert_eq!(found.form, Form::Host("localhost".to_owned()));
        assert_eq!(
            (found.inner.as_str(), found.prefix().as_str()),
            ("/a?b", "")
        );
        let upper = format!("1-{}.Box.Example.com.", KEY.to_uppercase());
        let found = of(&upper, "/").unwrap().unwrap();
        assert_eq!(found.form, Form::Host("box.example.com".to_owned()));
        assert_eq!(found.key, KEY);
    }

    #[test]
    fn an_address_is_in_the_path() {
        for (rest, inner, with_path) in [
            ("", "", "/"),
            ("?q", "?q", "/?q"),
            ("/", "/", "/"),
            ("/a/b?c=/d", "/a/b?c=/d", "/a/b?c=/d"),
            ("//host/%2e%2e/", "//host/%2e%2e/", "//host/%2e%2e/"),
        ] {
            let found = of("localhost:1", &format!("/preview/{KEY}/8080{rest}"));
            let found = found.unwrap().unwrap();
            assert_eq!((found.port, found.inner.as_str()), (8080, inner));
            assert_eq!(found.inner_with_path(), with_path);
            assert_eq!(found.prefix(), format!("/preview/{KEY}/8080"));
        }
    }

    #[test]
    fn a_port_has_one_writing() {
        for port in [
            "02280",
            "+2280",
            "2280.",
            "0x8e8",
            "%32280",
            "0",
            "65536",
            "-1",
            "",
            "2280-",
            "1-1",
            "２２８０",
            "4294969576",
        ] {
            for (host, path) in [
                (format!("{port}-{KEY}.localhost"), "/".to_owned()),
                ("localhost".to_owned(), format!("/preview/{KEY}/{port}/")),
            ] {
                let (Ok(_), Ok(uri)) = (HeaderValue::from_str(&host), path.parse::<Uri>()) else {
                    continue;
                };
                let found =
                    arrival(&host).and_then(|arrival| Address::of(&arrival, &uri, Keys::Any));
                assert!(!matches!(found, Some(Ok(_))), "{port}: {found:?}");
            }
        }
    }

    #[test]
    fn other_requests_are_not_for_previews() {
        for (host, uri) in [
            ("localhost:5266", "/api/sandbox"),
            ("localhost", "/preview"),
            ("3000.localhost", "/"),
            ("3000-short.localhost", "/"),
            ("127.0.0.1", "/v1/healthz"),
        ] {
            assert_eq!(of(host, uri), None, "{host}{uri}");
        }
        assert_eq!(of(&format!("3000-{KEY}"), "/"), None);
        assert!(matches!(of("localhost", "/preview/x"), Some(Err(_))));
    }

    #[test]
    fn one_host_is_named_or_none() {
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("a.localhost"));
        let other = Uri::from_static("http://b.localhost/");
        assert!(Arrival::of(&other, &headers).is_none());
        headers.append(header::HOST, HeaderValue::from_static("a.localhost"));
        assert!(Arrival::of(&Uri::from_static("/"), &headers).is_none());
        assert!(arrival("user@host").is_none());
    }

    #[test]
    fn a_proxy_says_where_it_was_asked() {
        let headers = HeaderMap::from_iter([
            (header::HOST, HeaderValue::from_static("10.0.0.1:5266")),
            (
                FORWARDED_HOST,
                HeaderValue::from_static("box.example.com, x"),
            ),
            (FORWARDED_PROTO, HeaderValue::from_static("https")),
        ]);
        let arrival = Arrival::of(&Uri::from_static("/"), &headers).unwrap();
        assert_eq!(arrival.origin(), "https://box.example.com");
        assert!(!arrival.is_loopback());
    }

    #[test]
    fn keys_of_daytona_are_taken_in_front_of_one_alone() {
        let id = "0195c1a2-7e01-4abc-8def-0123456789ab";
        for key in [id, "abcdefghij012345"] {
            let host = arrival(&format!("3000-{key}.localhost")).unwrap();
            let root = Uri::from_static("/");
            assert_eq!(Address::of(&host, &root, Keys::Own), None, "{key}");
            let found = Address::of(&host, &root, Keys::Any).unwrap().unwrap();
            assert_eq!((found.port, found.key.as_str()), (3000, key));
            assert!(found.may_be_daytonas());
        }
        for odd in [
            "0195c1a2-7e01-4abc-8def-0123456789ag",
            "0195c1a2-7e01-4abc-8def0123456789ab",
            "0195c1a27-e01-4abc-8def-0123456789ab",
            "-0195c1a2-7e01-4abc-8def-0123456789ab",
            "0195c1a2-7e01-4abc-8def-0123456789ab-",
            "abcdefghij01234",
            "abcdefghij01234_",
        ] {
            let host = arrival(&format!("3000-{odd}.localhost")).unwrap();
            assert_eq!(
                Address::of(&host, &Uri::from_static("/"), Keys::Any),
                None,
                "{odd}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_port_of_daytona_is_found(port in 1u16.., id in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}") {
            let host = arrival(&format!("{port}-{id}.localhost")).unwrap();
            let found = Address::of(&host, &Uri::from_static("/"), Keys::Any).unwrap().unwrap();
            prop_assert_eq!((found.port, found.key), (port, id));
        }

        #[test]
        fn every_port_is_found_in_both_forms(port in 1u16.., path in "(/[a-z.%?=/]{0,20})?") {
            let found = of(&format!("{port}-{KEY}.localhost"), "/").unwrap().unwrap();
            prop_assert_eq!(found.port, port);
            let found = of("localhost", &format!("/preview/{KEY}/{port}{path}")).unwrap().unwrap();
            prop_assert_eq!((found.port, found.inner), (port, path));
        }

        #[test]
        fn what_is_found_was_written_so(label in "[0-9a-z+%-]{0,12}", digits in "[0-9]{0,7}") {
            for label in [label, digits] {
                for key in [KEY, "abcdefghij012345", "0195c1a2-7e01-4abc-8def-0123456789ab"] {
                    let Some(arrival) = arrival(&format!("{label}-{key}.localhost")) else {
                        continue;
                    };
                    let root = Uri::from_static("/");
                    if let Some(Ok(found)) = Address::of(&arrival, &root, Keys::Any) {
                        prop_assert_eq!((found.port.to_string(), found.key.as_str()), (label.clone(), key));
                    }
                }
            }
        }

        #[test]
        fn any_host_and_path_are_read_without_panic(host in "[ -~]{0,40}", path in "/[!-~]{0,40}") {
            if let Ok(uri) = path.parse::<Uri>() {
                let _found = arrival(&host).and_then(|arrival| Address::of(&arrival, &uri, Keys::Any));
            }
        }
    }
}
