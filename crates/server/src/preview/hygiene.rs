//! Which headers pass between a visitor and an application, and how.
//!
//! The application sees itself at `localhost:{port}`, as if its browser ran
//! inside: that is the one name that no application refuses. What it says about
//! that name is said about the visitor's name for it on the way out.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use facade_daytona::hop_by_hop::{self, tokens};

use super::address::{Address, Arrival, Form};

/// Headers of an answer that speak for the whole host and port: of the server,
/// not of the application.
const OF_THE_HOST: [HeaderName; 1] = [header::ALT_SVC];
/// Headers of an answer that speak for the whole origin, which URLs by path
/// share with each other and with the server's own interface.
const OF_THE_ORIGIN: [HeaderName; 8] = [
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("origin-agent-cluster"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("speculation-rules"),
    header::STRICT_TRANSPORT_SECURITY,
];
/// Gives documents an origin that equals no other. They may do what pages do,
/// except to act as the origin that they came from.
const OWN_ORIGIN: &str = "sandbox allow-scripts allow-forms allow-popups allow-popups-to-escape-sandbox allow-modals allow-downloads allow-pointer-lock allow-presentation allow-orientation-lock";
/// Whom the request is from.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Makes the headers of a request those that the application gets.
pub(super) fn to_application(
    headers: &mut HeaderMap,
    arrival: &Arrival,
    address: &Address,
    peer: Option<IpAddr>,
) {
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    hop_by_hop::renew_of_request(headers);
    if is_chunked {
        // Also where a body is unusual: else it would be taken for none.
        let chunked = HeaderValue::from_static("chunked");
        headers.insert(header::TRANSFER_ENCODING, chunked);
    }
    set(
        headers,
        header::HOST,
        &format!("localhost:{}", address.port),
    );
    if let Some(peer) = peer {
        let earlier: Vec<&str> = tokens(headers, &FORWARDED_FOR).collect();
        let chain = earlier
            .into_iter()
            .map(str::to_owned)
            .chain([peer.to_string()]);
        let chain = chain.collect::<Vec<_>>().join(", ");
        set(headers, FORWARDED_FOR, &chain);
    }
    set(headers, FORWARDED_PROTO, arrival.scheme);
    match address.form {
        Form::Path => set(headers, FORWARDED_PREFIX, &address.prefix()),
        Form::Host(_) => drop(headers.remove(FORWARDED_PREFIX)),
    }
    let own = arrival.origin();
    let is_own = headers
        .get(header::ORIGIN)
        .is_some_and(|origin| origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()));
    if is_own && address.form != Form::Path {
        // Applications compare the origin with either host: both must agree.
        set(
            headers,
            header::ORIGIN,
            &format!("http://localhost:{}", address.port),
        );
        headers.remove(FORWARDED_HOST);
    } else {
        set(headers, FORWARDED_HOST, arrival.authority.as_str());
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 sandboxai"));
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Makes the headers of an answer those that the visitor gets.
pub(super) fn to_visitor(headers: &mut HeaderMap, arrival: &Arrival, address: &Address) {
    hop_by_hop::renew_of_answer(headers);
    for name in &OF_THE_HOST {
        headers.remove(name);
    }
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let moved = headers
            .get(&name)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| moved(value, arrival, address));
        if let Some(moved) = moved {
            set(headers, name, &moved);
        }
    }
    keep_cookies(headers, "", &address.prefix());
    remove_words_about_the_origin(headers, address);
}

/// Makes the headers of an upstream's answer those that the visitor gets. The
/// upstream speaks of the port as being at `base`.
pub(super) fn from_upstream(
    headers: &mut HeaderMap,
    arrival: &Arrival,
    address: &Address,
    base: &str,
) {
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let moved = headers
            .get(&name)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| moved_here(value, arrival, address, base));
        if let Some(moved) = moved {
            set(headers, name, &moved);
        }
    }
    keep_cookies(headers, split_base(base).1, &address.prefix());
    remove_words_about_the_origin(headers, address);
}

fn keep_cookies(headers: &mut HeaderMap, inside: &str, prefix: &str) {
    let cookies: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|cookie| kept_cookie(cookie, inside, prefix))
        .collect();
    headers.remove(header::SET_COOKIE);
    for cookie in cookies {
        headers.append(header::SET_COOKIE, cookie);
    }
}

fn remove_words_about_the_origin(headers: &mut HeaderMap, address: &Address) {
    if address.form == Form::Path {
        for name in &OF_THE_ORIGIN {
            headers.remove(name);
        }
        let policy = HeaderValue::from_static(OWN_ORIGIN);
        headers.append(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// A URL as the visitor needs it, if the application's would lead elsewhere.
fn moved(url: &str, arrival: &Arrival, address: &Address) -> Option<String> {
    let prefix = address.prefix();
    if let Some(path) = url.strip_prefix('/') {
        let is_path = !path.starts_with(['/', '\\']);
        let has_prefix = url
            .strip_prefix(&prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        return (is_path && !has_prefix).then(|| format!("{prefix}{url}"));
    }
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let is_own = ["localhost", "127.0.0.1", "[::1]", "0.0.0.0"]
        .iter()
        .any(|host| authority == format!("{host}:{}", address.port));
    (is_own && (scheme == "http" || scheme == "https"))
        .then(|| format!("{}{prefix}{path}", arrival.origin()))
}

/// A URL as the visitor needs it, if the upstream's is one of this port.
fn moved_here(url: &str, arrival: &Arrival, address: &Address, base: &str) -> Option<String> {
    let (origin, inside) = split_base(base);
    let (own, path) = match url.strip_prefix(origin) {
        Some(path) if path.is_empty() || path.starts_with(['/', '?', '#']) => {
            (arrival.origin(), path)
        }
        _ if url.starts_with('/') && !url[1..].starts_with(['/', '\\']) => (String::new(), url),
        _ => return None,
    };
    let path = path.strip_prefix(inside)?;
    let is_below = path.is_empty() || path.starts_with(['/', '?', '#']);
    is_below.then(|| format!("{own}{}{path}", address.prefix()))
}

/// Origin and path of a URL.
fn split_base(base: &str) -> (&str, &str) {
    let host = base.find("://").map_or(0, |scheme| scheme + 3);
    let end = base[host..]
        .find('/')
        .map_or(base.len(), |path| host + path);
    base.split_at(end)
}

/// A cookie that stays with this port: not for hosts above, and by path not for
/// other paths. `inside` is what the paths of who sets it begin with.
fn kept_cookie(cookie: &HeaderValue, inside: &str, prefix: &str) -> Option<HeaderValue> {
    let is_at_root = prefix.is_empty() && inside.is_empty();
    let Ok(text) = cookie.to_str() else {
        return Some(cookie.clone()).filter(|_| is_at_root);
    };
    let mut parts = text.split(';').map(str::trim);
    let pair = parts.next()?;
    let name_of = |part: &str| {
        let name = part.split('=').next().unwrap_or_default();
        name.trim().to_ascii_lowercase()
    };
    let mut path = None;
    let mut kept = vec![pair.to_owned()];
    for part in parts {
        match name_of(part).as_str() {
            "domain" => {}
            "path" if !is_at_root => {
                path = part.split_once('=').map(|(_, value)| value.trim());
            }
            _ => kept.push(part.to_owned()),
        }
    }
    if !is_at_root {
        let path = path.map(|path| path.strip_prefix(inside).unwrap_or(path));
        let is_inner =
            |path: &&str| path.starts_with('/') && (prefix.is_empty() || !path.starts_with(prefix));
        let inner = path.filter(is_inner);
        kept.push(format!("Path={prefix}{}", inner.unwrap_or("/")));
    }
    HeaderValue::from_str(&kept.join("; ")).ok()
}

#[cfg(test)]
mod tests;
