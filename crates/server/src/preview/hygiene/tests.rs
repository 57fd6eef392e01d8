use axum::http::Uri;
use proptest::prelude::*;

use super::*;
use crate::preview::address::Keys;

const KEY: &str = "abcdefghijkmnpqrstuvwxyz23";

fn place(host: &str, path: &str) -> (Arrival, Address) {
    let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]);
    let uri: Uri = path.parse().unwrap();
    let arrival = Arrival::of(&uri, &headers).unwrap();
    let address = Address::of(&arrival, &uri, Keys::Any).unwrap().unwrap();
    (arrival, address)
}

fn by_host() -> (Arrival, Address) {
    place(&format!("3000-{KEY}.localhost:5266"), "/")
}

fn by_path() -> (Arrival, Address) {
    place("box:5266", &format!("/preview/{KEY}/3000/"))
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

fn asked(place: (Arrival, Address), pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = headers(pairs);
    to_application(&mut headers, &place.0, &place.1, "10.9.8.7".parse().ok());
    headers
}

fn answered(place: (Arrival, Address), pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = headers(pairs);
    to_visitor(&mut headers, &place.0, &place.1);
    headers
}

#[test]
fn what_concerns_one_connection_is_not_passed_on() {
    let got = asked(
        by_host(),
        &[
            ("connection", "keep-alive, X-Mine, close"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ],
    );
    for name in [
        "connection",
        "x-mine",
        "keep-alive",
        "proxy-authorization",
        "te",
        "upgrade",
    ] {
        assert!(!got.contains_key(name), "{name}");
    }
    assert_eq!(got["x-kept"], "1");
    assert_eq!(got["host"], "localhost:3000");
    assert_eq!(got["x-forwarded-for"], "10.9.8.7");
    assert_eq!(got["x-forwarded-proto"], "http");
    assert_eq!(
        got["x-forwarded-host"],
        format!("3000-{KEY}.localhost:5266")
    );
}

#[test]
fn an_upgrade_and_trailers_are_asked_for_again() {
    let got = asked(
        by_host(),
        &[("connection", "Upgrade"), ("upgrade", "websocket")],
    );
    assert_eq!(
        (&got["connection"], &got["upgrade"]),
        (
            &HeaderValue::from_static("upgrade"),
            &HeaderValue::from_static("websocket")
        )
    );
    let got = asked(
        by_host(),
        &[
            ("te", "deflate, trailers"),
            ("transfer-encoding", "chunked"),
        ],
    );
    assert_eq!(
        (&got["connection"], &got["te"]),
        (
            &HeaderValue::from_static("te"),
            &HeaderValue::from_static("trailers")
        )
    );
    assert_eq!(got["transfer-encoding"], "chunked");
}

#[test]
fn the_chain_of_a_trusted_proxy_goes_on() {
    let got = asked(by_path(), &[("x-forwarded-for", "1.2.3.4")]);
    assert_eq!(got["x-forwarded-for"], "1.2.3.4, 10.9.8.7");
    assert_eq!(got["x-forwarded-prefix"], format!("/preview/{KEY}/3000"));
    assert!(!asked(by_host(), &[("x-forwarded-prefix", "/x")]).contains_key("x-forwarded-prefix"));
}

#[test]
fn the_own_page_is_at_localhost_too() {
    let own = format!("http://3000-{KEY}.localhost:5266");
    let got = asked(by_host(), &[("origin", &own)]);
    assert_eq!(got["origin"], "http://localhost:3000");
    assert!(!got.contains_key("x-forwarded-host"));
    let got = asked(by_host(), &[("origin", "https://suna.example")]);
    assert_eq!(got["origin"], "https://suna.example");
}

#[test]
fn places_are_told_as_the_visitor_sees_them() {
    let host = format!("http://3000-{KEY}.localhost:5266");
    let prefix = format!("/preview/{KEY}/3000");
    for (url, via_host, via_path) in [
        (
            "/login?a",
            "/login?a".to_owned(),
            format!("{prefix}/login?a"),
        ),
        ("b", "b".to_owned(), "b".to_owned()),
        (
            "//elsewhere/x",
            "//elsewhere/x".to_owned(),
            "//elsewhere/x".to_owned(),
        ),
        (
            "http://localhost:3000",
            host.clone(),
            format!("http://box:5266{prefix}"),
        ),
        (
            "http://127.0.0.1:3000/x",
            format!("{host}/x"),
            format!("http://box:5266{prefix}/x"),
        ),
        (
            "http://localhost:3001/",
            "http://localhost:3001/".into(),
            "http://localhost:3001/".into(),
        ),
        (
            "https://example.com/",
            "https://example.com/".into(),
            "https://example.com/".into(),
        ),
        (
            &format!("{prefix}/a"),
            format!("{prefix}/a"),
            format!("{prefix}/a"),
        ),
    ] {
        assert_eq!(
            answered(by_host(), &[("location", url)])["location"],
            via_host,
            "{url}"
        );
        assert_eq!(
            answered(by_path(), &[("location", url)])["location"],
            via_path,
            "{url}"
        );
    }
}

#[test]
fn cookies_stay_with_their_port() {
    let set = |place, cookie| {
        let got = answered(place, &[("set-cookie", cookie)]);
        got["set-cookie"].to_str().unwrap().to_owned()
    };
    assert_eq!(
        set(by_host(), "a=b; Domain=.localhost; Path=/x; Secure"),
        "a=b; Path=/x; Secure"
    );
    let prefix = format!("/preview/{KEY}/3000");
    for (cookie, expected) in [
        ("a=b", format!("a=b; Path={prefix}/")),
        (
            "a=b; path=/; HttpOnly",
            format!("a=b; HttpOnly; Path={prefix}/"),
        ),
        ("a=b; Path=/x;domain=box", format!("a=b; Path={prefix}/x")),
    ] {
        assert_eq!(set(by_path(), cookie), expected);
    }
}

#[test]
fn documents_by_path_get_an_origin_of_their_own() {
    let pairs = [
        ("content-security-policy", "default-src *"),
        ("clear-site-data", "\"*\""),
        ("strict-transport-security", "max-age=9"),
        ("alt-svc", "h3=\":1\""),
        ("x-frame-options", "DENY"),
    ];
    let got = answered(by_path(), &pairs);
    let policies: Vec<_> = got.get_all("content-security-policy").iter().collect();
    assert_eq!(policies.len(), 2);
    let policy = policies[1].to_str().unwrap();
    assert!(policy.starts_with("sandbox ") && !policy.contains("allow-same-origin"));
    assert!(!got.contains_key("clear-site-data") && !got.contains_key("strict-transport-security"));
    assert_eq!(got["x-frame-options"], "DENY", "the application's own wish");
    let got = answered(by_host(), &pairs);
    assert_eq!(got.get_all("content-security-policy").iter().count(), 1);
    assert!(got.contains_key("clear-site-data") && !got.contains_key("alt-svc"));
}

proptest! {
    /// Whatever a visitor or an application sends, nothing that frames messages
    /// passes from one connection to the other.
    #[test]
    fn no_framing_passes(
        connection in "[a-z, -]{0,30}",
        names in prop::collection::vec("(te|upgrade|keep-alive|x-a|proxy-connection|connection)", 0..6),
        value in "[ -~]{0,20}",
    ) {
        let mut given = HeaderMap::new();
        given.append(header::CONNECTION, HeaderValue::from_str(&connection).unwrap());
        for name in &names {
            given.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(&value).unwrap());
        }
        for place in [by_host(), by_path()] {
            let mut request = given.clone();
            to_application(&mut request, &place.0, &place.1, None);
            prop_assert_eq!(request.get_all(header::HOST).iter().count(), 1);
            let asked = hop_by_hop::upgrade_of(&given).is_some();
            prop_assert_eq!(request.contains_key(header::UPGRADE), asked);
        }
    }

    #[test]
    fn any_cookie_and_place_are_read_without_panic(text in "[ -~]{0,60}") {
        let pairs = [("set-cookie", text.as_str()), ("location", &text)];
        for place in [by_host(), by_path()] {
            let got = answered(place, &pairs);
            prop_assert!(!got.get("set-cookie").is_some_and(|cookie|
                cookie.to_str().unwrap().to_ascii_lowercase().contains("; domain")));
        }
    }
}

/// Where the upstream has the port, by path and by host.
fn bases() -> [String; 2] {
    [
        format!("http://up:1/preview/{KEY}/3000"),
        format!("https://3000-{KEY}.proxy.test"),
    ]
}

/// A header of the upstream's answer as the visitor gets it.
fn from_upstream_at(
    place: (Arrival, Address),
    base: &str,
    name: &'static str,
    given: &str,
) -> String {
    let mut headers = headers(&[(name, given)]);
    from_upstream(&mut headers, &place.0, &place.1, base);
    headers[name].to_str().unwrap().to_owned()
}

#[test]
fn the_upstreams_redirects_within_the_port_stay_here() {
    let [by_path_there, by_host_there] = &bases();
    let here = format!("/preview/{KEY}/3000");
    let moved = |place, base: &str, given: &str| from_upstream_at(place, base, "location", given);
    assert_eq!(
        moved(by_path(), by_host_there, "/login"),
        format!("{here}/login")
    );
    let whole = format!("{by_host_there}/a?b");
    assert_eq!(
        moved(by_path(), by_host_there, &whole),
        format!("http://box:5266{here}/a?b")
    );
    let path = format!("{here}/a");
    assert_eq!(moved(by_path(), by_path_there, &path), path);
    assert_eq!(moved(by_host(), by_path_there, &path), "/a");
    assert_eq!(moved(by_host(), by_host_there, "/a"), "/a");
    let foreign = format!("{by_host_there}.evil.test/");
    for elsewhere in ["https://login.test/?to=x", "//evil.test/", &foreign] {
        assert_eq!(moved(by_path(), by_host_there, elsewhere), elsewhere);
    }
}

#[test]
fn the_upstreams_cookies_stay_with_the_port() {
    let [by_path_there, by_host_there] = &bases();
    let here = format!("/preview/{KEY}/3000");
    let kept = |place, base: &str, given: &str| from_upstream_at(place, base, "set-cookie", given);
    let at_root = "a=1; Domain=proxy.test; Path=/";
    assert_eq!(
        kept(by_path(), by_host_there, at_root),
        format!("a=1; Path={here}/")
    );
    assert_eq!(kept(by_host(), by_host_there, at_root), "a=1; Path=/");
    let below = format!("a=1; Path={here}/x");
    assert_eq!(kept(by_path(), by_path_there, &below), below);
    assert_eq!(kept(by_host(), by_path_there, &below), "a=1; Path=/x");
}
