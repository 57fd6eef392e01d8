//! Answers that the server gives in an application's place.

use axum::{
    Json,
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

/// How soon to try again, seconds, where that may help.
const RETRY_SECONDS: u32 = 1;
/// The page shows itself and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

/// Why a preview is not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    is_transient: bool,
}

impl Refusal {
    /// One that stays until somebody does something.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            is_transient: false,
        }
    }

    /// One that may pass by itself.
    pub(super) fn transient(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            is_transient: true,
            ..Self::new(status, message)
        }
    }

    /// The answer: a page for browsers, JSON for programs.
    pub(super) fn into_response(self, asked: &HeaderMap) -> Response {
        let mut response = if wants_page(asked) {
            let mut response = Response::new(Body::from(self.page()));
            let headers = response.headers_mut();
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, html);
            let policy = HeaderValue::from_static(PAGE_POLICY);
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
            response
        } else {
            Json(json!({
                "statusCode": self.status.as_u16(),
                "error": self.reason(),
                "message": self.message,
            }))
            .into_response()
        };
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if self.is_transient {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        response
    }

    fn reason(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }

    fn page(&self) -> String {
        let again = match self.is_transient {
            true => format!(
                "<meta http-equiv=\"refresh\" content=\"{}\">",
                RETRY_SECONDS + 1
            ),
            false => String::new(),
        };
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">{again}<title>{title}</title>\
             <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#333}}\
             h1{{font-size:1.3em}}</style><h1>{title}</h1><p>{message}</p></html>\n",
            title = self.reason(),
            message = escaped(&self.message),
        )
    }
}

fn wants_page(asked: &HeaderMap) -> bool {
    let accept = asked
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_a_page_and_programs_json() {
        let refusal = Refusal::transient(StatusCode::BAD_GATEWAY, "<script>");
        let browser = HeaderMap::from_iter([(
            header::ACCEPT,
            HeaderValue::from_static("text/html,application/xhtml+xml,*/*;q=0.8"),
        )]);
        assert!(refusal.page().contains("&lt;script&gt;") && refusal.page().contains("refresh"));
        let page = refusal.clone().into_response(&browser);
        assert_eq!(page.status(), StatusCode::BAD_GATEWAY);
        assert!(
            page.headers()[header::CONTENT_TYPE]
                .to_str()
                .unwrap()
                .starts_with("text/html")
        );
        assert_eq!(page.headers()[header::RETRY_AFTER], "1");
        let json = refusal.into_response(&HeaderMap::new());
        assert_eq!(json.headers()[header::CONTENT_TYPE], "application/json");
        let denied = Refusal::new(StatusCode::UNAUTHORIZED, "x");
        assert!(!denied.page().contains("refresh"));
        assert!(
            denied
                .into_response(&browser)
                .headers()
                .contains_key(header::WWW_AUTHENTICATE)
        );
    }
}
