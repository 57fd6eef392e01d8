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

/// Makes ids: a random word per server, then a number that counts up. Unique
/// without asking the kernel for every request.
#[derive(Debug, Default)]
pub(crate) struct RequestIds {
    prefix: OnceLock<String>,
    next: AtomicU64,
}

impl RequestIds {
    /// The caller's id when it has a usable one, else a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(HEADER) {
            Some(given) if is_usable(given.as_bytes()) => given.clone(),
            _ => self.make(),
        }
    }

    fn make(&self) -> HeaderValue {
        let prefix = self.prefix.get_or_init(|| {
            // Without random bytes ids still differ within this server.
            sandbox::Name::random().map_or_else(|_| "request".to_owned(), |name| name.to_string())
        });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        HeaderValue::from_str(&format!("{prefix}-{number}"))
            .unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// Ids go into logs and headers: nothing that could forge a line there.
fn is_usable(text: &[u8]) -> bool {
    !text.is_empty()
        && text.len() <= CHARS_MAX
        && text
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_id_is_kept_and_another_replaced() {
        let ids = RequestIds::default();
        let of = |given: &'static str| {
            ids.of(&HeaderMap::from_iter([(
                HEADER,
                HeaderValue::from_static(given),
            )]))
        };
        assert_eq!(of("0195c1a2-7e.x:1_"), "0195c1a2-7e.x:1_");
        for bad in ["", "a b", "a\"b", "a=b"] {
            assert_ne!(of(bad), bad);
        }
        assert_ne!(ids.make(), ids.make());
    }
}
