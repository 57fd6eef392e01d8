//! The id under which one request is found again in the log.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries it, in both directions.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id accepted from a caller.
const CHARS_MAX: usize = 128;

/// The id of the request under way; an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    /// The id as a header; it holds only characters that a header may hold.
    pub(crate) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// Makes ids: a random word per server, then a number that counts up. Unique
/// without asking the kernel for every request.
#[derive(Debug, Default)]
pub(crate) struct RequestIds {
    prefix: OnceLock<String>,
    next: AtomicU64,
}

impl RequestIds {
    /// The caller's id when it has a usable one, else a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> RequestId {
        let given = headers.get(HEADER).and_then(|value| value.to_str().ok());
        match given {
            Some(given) if is_usable(given) => RequestId(given.to_owned()),
            _ => self.make(),
        }
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
