//! Headers that concern one connection only (RFC 9110, section 7.6.1).

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Those that do so by themselves, besides those that `Connection` names.
const NAMES: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a message wants its connection to become, if that is asked for properly.
#[must_use]
pub fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_asked =
        tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| is_asked).cloned()
}

/// Removes them all.
pub fn remove(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| token.parse().ok())
        .collect();
    for name in named.iter().chain(&NAMES) {
        headers.remove(name);
    }
}

/// Removes those of a request, and asks for what it asks for on the next connection.
pub fn renew_of_request(headers: &mut HeaderMap) {
    let takes_trailers =
        tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    if !renew(headers) && takes_trailers {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes those of an answer, and grants what it grants on the next connection.
pub fn renew_of_answer(headers: &mut HeaderMap) {
    renew(headers);
}

/// Whether the connection becomes another one.
fn renew(headers: &mut HeaderMap) -> bool {
    let upgrade = upgrade_of(headers);
    remove(headers);
    let Some(upgrade) = upgrade else {
        return false;
    };
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, upgrade);
    true
}

/// The comma-separated values of a header.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a message has, nothing that frames messages passes from one
        /// connection to the next but an upgrade that is asked for.
        #[test]
        fn no_framing_passes(
            connection in "[a-z, -]{0,30}",
            names in prop::collection::vec("(te|upgrade|keep-alive|x-a|proxy-connection|connection)", 0..6),
            value in "[ -~]{0,20}",
        ) {
            let mut given = HeaderMap::new();
            given.append(header::CONNECTION, HeaderValue::from_str(&connection).unwrap());
            for name in &names {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                given.append(name, HeaderValue::from_str(&value).unwrap());
            }
            let mut removed = given.clone();
            remove(&mut removed);
            prop_assert!(NAMES.iter().all(|name| !removed.contains_key(name)));
            let asked = upgrade_of(&given);
            renew_of_request(&mut given);
            prop_assert_eq!(given.get(header::UPGRADE).cloned(), asked);
        }
    }
}
