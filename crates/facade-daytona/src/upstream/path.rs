//! Paths of requests that may go on to the upstream.
//!
//! They are passed as they came. So that they lead to what this server took
//! them for, and to nothing else, those are refused that somebody on the way
//! could understand in another way.

use std::borrow::Cow;

use axum::{
    extract::{OriginalUri, Request},
    http::StatusCode,
};
use percent_encoding::percent_decode_str;

use crate::error::{ApiError, ApiResult};

/// How often a path may be encoded: decoded so often, it must not change any more.
const DECODINGS_MAX: usize = 4;

/// Path and query of a request, as it came to the server.
pub(super) fn target_of(request: &Request) -> &str {
    let uri = request
        .extensions()
        .get::<OriginalUri>()
        .map_or(request.uri(), |OriginalUri(uri)| uri);
    uri.path_and_query().map_or("/", |whole| whole.as_str())
}

/// The path of path and query.
pub(super) fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// Refuses a path that climbs (`..`), however it is written.
///
/// # Errors
/// 400.
pub(super) fn check(path: &str) -> ApiResult<()> {
    let mut text = Cow::Borrowed(path);
    for _ in 0..DECODINGS_MAX {
        if is_ambiguous(&text) {
            return Err(refusal());
        }
        let decoded = percent_decode_str(&text)
            .decode_utf8()
            .map_err(|_| refusal())?;
        if decoded == text {
            return Ok(());
        }
        text = Cow::Owned(decoded.into_owned());
    }
    Err(refusal())
}

/// Refuses a path of the API that is not made of names, each in its place: what
/// stands in one segment here could be two elsewhere.
///
/// # Errors
/// 400.
pub(super) fn check_names(path: &str) -> ApiResult<()> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    match inner.split('/').all(|segment| name(segment).is_some()) {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "the path has an empty segment, or one with an encoded slash, which are not passed on to the upstream",
        )),
    }
}

fn is_ambiguous(path: &str) -> bool {
    let climbs = |segment: &str| {
        // Some servers cut off what follows a semicolon.
        let name = segment.split(';').next().unwrap_or_default();
        name == "." || name == ".."
    };
    path.contains('\\') || path.chars().any(char::is_control) || path.split('/').any(climbs)
}

fn refusal() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "the path has `.` or `..` segments, backslashes or control characters, which are not passed on to the upstream",
    )
}

/// A segment of a path, decoded; `None` when it is more or less than one name.
pub(super) fn name(segment: &str) -> Option<Cow<'_, str>> {
    let name = percent_decode_str(segment).decode_utf8().ok()?;
    let is_one = !name.is_empty() && !name.contains(['/', '\\', '%', '?', '#']);
    is_one.then_some(name)
}

/// The segments of a path below the API, decoded where they are one name and as
/// they came where they are not.
pub(super) fn segments(path: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/')
        .map(|segment| name(segment).unwrap_or(Cow::Borrowed(segment)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_climb_are_refused_however_they_are_written() {
        for path in [
            "/sandbox/x/../../volumes",
            "/sandbox/x/..",
            "/sandbox/./x",
            "/sandbox/x/%2e%2e/volumes",
            "/sandbox/x/.%2E/volumes",
            "/sandbox/x%2f..%2fvolumes",
            "/sandbox/x/%252e%252e/volumes",
            "/sandbox/x/%25252e./volumes",
            "/sandbox/x/..;a/volumes",
            "/sandbox/x\\..\\volumes",
            "/sandbox/x%5c..%5cvolumes",
            "/sandbox/x/a%00b",
            "/sandbox/x/a%0d%0ab",
            "/sandbox/x/%ff",
            "/sandbox/x/%2525252525252e",
        ] {
            assert!(check(path).is_err(), "{path}");
        }
    }

    #[test]
    fn other_paths_pass() {
        for path in [
            "/sandbox/x/ports/3000/preview-url",
            "/process/session/my.session/command/..a/logs",
            "/a%20b/%C3%BC/...",
            "/snapshots/kortix%2Fsuna:0.1",
            "//",
            "",
        ] {
            assert!(check(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn paths_of_the_api_are_made_of_names() {
        for path in [
            "/volumes",
            "/volumes/",
            "/sandbox/x%20y/start",
            "/volumes/by-name/a:b",
        ] {
            assert!(check_names(path).is_ok(), "{path}");
        }
        for path in [
            "",
            "/",
            "//volumes",
            "/%2fapi-keys",
            "/volumes//x",
            "/volumes/a%5cb",
            "/a%3fb",
        ] {
            assert!(check_names(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_name_is_one_segment() {
        assert_eq!(name("a%20b").unwrap(), "a b");
        for odd in ["", "a%2fb", "a%5cb", "a%2541", "a%3fb", "a%23", "%ff"] {
            assert!(name(odd).is_none(), "{odd}");
        }
        let found: Vec<_> = segments("/%73andbox/a%2fb/c").collect();
        assert_eq!(found, ["sandbox", "a%2fb", "c"]);
    }

    proptest! {
        #[test]
        fn what_passes_is_not_moved_by_url_parsers(path in "(/([.%2efE5c;a-]{0,8})){1,4}") {
            if check(&path).is_ok() {
                let url = reqwest::Url::parse(&format!("http://h/api{path}")).unwrap();
                prop_assert_eq!(url.path(), format!("/api{path}"));
            }
        }
    }
}
