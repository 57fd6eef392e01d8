//! Answers of the control plane that are URLs: of toolboxes, of ports, of logs.

use axum::{
    body::Body,
    http::{HeaderMap, Method},
    response::Response,
};
use reqwest::Url;
use serde::Deserialize;

use super::{Upstream, header as headers_of, path, rewrite, send};
use crate::{
    Facade,
    base_url::BaseUrl,
    error::ApiResult,
    preview_url::{self, TOOLBOX_PORT},
};

/// What paths of logs of builds end with.
const BUILD_LOGS: &str = "/build-logs";

/// What an answer has in its field `url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// The base of the toolbox of a sandbox.
    Toolbox(String),
    /// A port of a sandbox.
    Port(String, u16),
    /// A port, by a token that the answer has, too.
    SignedPort(u16),
    /// The log of a build, by its own path below the API.
    BuildLogs(String),
}

impl Link {
    /// What the answer to a request for this path below the API is.
    pub(super) fn of(path: &str) -> Option<Self> {
        if let Some(logs) = path.strip_suffix("/build-logs-url") {
            return Some(Self::BuildLogs(format!("{logs}{BUILD_LOGS}")));
        }
        let segments: Vec<_> = path::segments(path).collect();
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        match segments[..] {
            ["sandbox", asked, "toolbox-proxy-url"] => Some(Self::Toolbox(asked.to_owned())),
            ["sandbox", asked, "ports", port, "preview-url"] => {
                Some(Self::Port(asked.to_owned(), port.parse().ok()?))
            }
            ["sandbox", _, "ports", port, "signed-preview-url"] => {
                Some(Self::SignedPort(port.parse().ok()?))
            }
            _ => None,
        }
    }
}

/// What matters of an answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    url: String,
    sandbox_id: Option<String>,
    token: Option<String>,
}

impl Upstream {
    /// The answer with a URL that leads to this server, where the way on is
    /// remembered; `None` when it is none that could be changed.
    pub(super) fn through_here(
        &self,
        facade: &Facade,
        base: &BaseUrl,
        link: &Link,
        body: &[u8],
    ) -> Option<Vec<u8>> {
        let told: Told = serde_json::from_slice(body).ok()?;
        let url = match link {
            Link::Toolbox(asked) => {
                self.learn_toolbox(asked, &told.url);
                base.toolbox()
            }
            Link::Port(asked, TOOLBOX_PORT) => {
                let id = told.sandbox_id.as_ref().unwrap_or(asked);
                format!("{}/{id}", base.toolbox())
            }
            Link::Port(asked, port) => {
                let key = told.sandbox_id.as_ref().unwrap_or(asked);
                self.learn_port(key, *port, &told.url);
                preview_url::link(&facade.config.links, &base.0, key, *port)
            }
            Link::SignedPort(port) => {
                let token = told.token.as_ref()?;
                self.learn_port(token, *port, &told.url);
                preview_url::link(&facade.config.links, &base.0, token, *port)
            }
            Link::BuildLogs(path) => format!("{}{path}", base.api()),
        };
        rewrite::url(body, &url)
    }

    /// The log of a build, which may be on another host than the API; `None`
    /// when the API does not tell where.
    ///
    /// # Errors
    /// That it names a place where the key may not go, or cannot be reached.
    pub(super) async fn build_logs(
        &self,
        target: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> ApiResult<Option<Response>> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if method != Method::GET || !path.ends_with(BUILD_LOGS) {
            return Ok(None);
        }
        let (status, body) = self.ask_raw(&format!("{path}-url")).await?;
        let told: Option<Told> = serde_json::from_slice(&body).ok();
        let Some(told) = told.filter(|_| status.is_success()) else {
            return Ok(None);
        };
        let mut url = Url::parse(&told.url)
            .map_err(|error| self.failed(&format!("has no valid URL of the log: {error}")))?;
        if !self.may_have_key(&url) {
            return Err(self.failed("names a log on a host where the key is not sent"));
        }
        if !query.is_empty() {
            let own = url.query().map(|own| format!("{own}&{query}"));
            url.set_query(Some(own.as_deref().unwrap_or(query)));
        }
        let mut headers = headers.clone();
        headers_of::to_upstream(&mut headers);
        headers_of::exchange_key(&mut headers, &self.0.key);
        headers_of::remove_upgrade(&mut headers);
        let answer = self.send(Method::GET, url, headers, Body::empty()).await?;
        Ok(Some(send::streamed(answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_known_by_the_path_that_is_asked() {
        for (path, link) in [
            (
                "/sandbox/x/toolbox-proxy-url",
                Some(Link::Toolbox("x".into())),
            ),
            (
                "/sandbox/x/ports/80/preview-url",
                Some(Link::Port("x".into(), 80)),
            ),
            (
                "/sandbox/x/ports/80/signed-preview-url",
                Some(Link::SignedPort(80)),
            ),
            (
                "/sandbox/x/build-logs-url",
                Some(Link::BuildLogs("/sandbox/x/build-logs".into())),
            ),
            ("/sandbox/x/ports/y/preview-url", None),
            ("/sandbox/x/ports/80/signed-preview-url/t/expire", None),
            ("/sandbox/x", None),
        ] {
            assert_eq!(Link::of(path), link, "{path}");
        }
    }
}
