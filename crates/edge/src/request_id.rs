//! The id under which one request is found again in the log.

use std::{
    fmt,
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries it, in both directions.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id accepted from a caller.
const CHARS_MAX: usize = 128;

/// The id of the request under way; an extension of the request.
#[derive(Clone, Debug)]
pub struct RequestId(String);

impl RequestId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a header; it holds only characters that a header may hold.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// Fails on a text that is no usable id.
impl FromStr for RequestId {
    type Err = sandbox::Error;
    fn from_str(text: &str) -> sandbox::Result<Self> {
        match is_usable(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(sandbox::Error::invalid(format!(
                "field `X-Request-Id`: give 1 to {CHARS_MAX} letters, digits, '-', '_', '.' or ':'"
            ))),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes ids: a random word per server, then a number that counts up. Unique
/// without asking the kernel for every request.
#[derive(Debug, Default)]
pub struct RequestIds {
    prefix: OnceLock<String>,
    next: AtomicU64,
}

impl RequestIds {
    /// The caller's id when it has a usable one, else a new one.
    pub fn of(&self, headers: &HeaderMap) -> RequestId {
        let given = headers.get(HEADER).and_then(|value| value.to_str().ok());
        let usable = given.and_then(|given| given.parse().ok());
        usable.unwrap_or_else(|| self.make())
    }

    fn make(&self) -> RequestId {
        let prefix = self.prefix.get_or_init(|| {
            // Without random bytes ids still differ within this server.
            sandbox::Name::random().map_or_else(|_| "request".to_owned(), |name| name.to_string())
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        RequestId(format!("{prefix}-{number}"))
    }
}

/// Ids go into logs and headers: nothing that could forge a line there.
fn is_usable(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= CHARS_MAX
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: Option<&'static str>) -> String {
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.insert(HEADER, HeaderValue::from_static(given));
        }
        RequestIds::default().of(&headers).0
    }

    #[test]
    fn a_usable_id_is_kept() {
        assert_eq!(id_for(Some("0195c1a2-7e.x:1_")), "0195c1a2-7e.x:1_");
    }

    #[test]
    fn an_unusable_id_is_replaced() {
        for bad in ["", "a b", "a\"b", "a=b"] {
            assert_ne!(id_for(Some(bad)), bad);
        }
    }

    #[test]
    fn made_up_ids_differ() {
        let ids = RequestIds::default();
        assert_ne!(ids.make().0, ids.make().0);
        assert!(is_usable(&ids.make().0));
    }
}
