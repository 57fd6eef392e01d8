//! Visits of ports of the upstream's sandboxes.
//!
//! Who may use one is the upstream's to decide, by what the visitor shows: a
//! token, a signed URL, a cookie. The upstream's key is never sent there, since
//! behind a port is code of a sandbox: who shows a key of this server is given
//! the token of the port.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use hyper::upgrade::OnUpgrade;
use reqwest::Url;

use super::{Upstream, address::PortLink, header as headers_of, path};
use crate::{
    access::TOKEN_HEADER,
    error::{ApiError, ApiResult},
    side::Side,
};

/// A visit of a port.
#[derive(Clone, Copy, Debug)]
pub struct PortVisit<'a> {
    /// What the URL has for a sandbox: its id, or a token that stands for it.
    pub key: &'a str,
    /// The port inside.
    pub port: u16,
    /// `scheme://host[:port]` that only this port has, if it has one.
    pub own_origin: Option<&'a str>,
    /// Whether the visitor has shown a key of this server.
    pub has_key: bool,
    /// End a tunnel on which nothing moves for so long.
    pub idle_timeout: Duration,
}

/// The upstream's answer.
#[derive(Debug)]
pub struct Visited {
    /// As it is to the upstream's own visitors.
    pub response: Response,
    /// The URL that the port has there, without a trailing slash.
    pub base: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct NotVisited {
    /// The status that says so.
    pub status: StatusCode,
    /// The same for people.
    pub message: String,
}

impl From<ApiError> for NotVisited {
    fn from(error: ApiError) -> Self {
        Self {
            status: error.status,
            message: error.message,
        }
    }
}

impl Upstream {
    /// Passes on a request for a port; its URI is path and query inside. `held`
    /// is kept until the answer or the tunnel has ended.
    ///
    /// # Errors
    /// Why there is no answer; it names the upstream.
    pub async fn visit(
        &self,
        visit: &PortVisit<'_>,
        mut parts: Parts,
        body: Body,
        held: impl Send + Unpin + 'static,
    ) -> Result<Visited, NotVisited> {
        path::check(parts.uri.path())?;
        let link = match visit.has_key {
            true => self.opened(visit).await?,
            false => None,
        };
        let headers = &mut parts.headers;
        headers_of::to_upstream(headers);
        let base = match link {
            Some(link) => {
                let token = HeaderValue::from_str(&link.token)
                    .map_err(|_| self.failed("gave a token that no header can carry"))?;
                headers.insert(TOKEN_HEADER, token);
                link.url.trim_end_matches('/').to_owned()
            }
            None => self.port_of(visit.key, visit.port).await?,
        };
        let whole = parts
            .uri
            .path_and_query()
            .map_or("/", |whole| whole.as_str());
        let url = Url::parse(&format!("{base}{whole}"))
            .map_err(|error| self.failed(&format!("has no valid URL of the port: {error}")))?;
        if visit.own_origin.is_some_and(|own| {
            headers
                .get(header::ORIGIN)
                .is_some_and(|origin| origin == own)
        }) && let Ok(origin) = HeaderValue::from_str(&url.origin().ascii_serialization())
        {
            // Applications compare it with the host that they see.
            headers.insert(header::ORIGIN, origin);
        }
        let visitor = parts.extensions.remove::<OnUpgrade>();
        let answer = self.send(parts.method, url, parts.headers, body).await?;
        let mut response = self
            .deliver(answer, visitor, visit.idle_timeout, held)
            .await?;
        response.extensions_mut().insert(Side::Daytona);
        Ok(Visited { response, base })
    }

    /// The link of the port; `None` when there is no sandbox of that id, as where
    /// a token stands for it.
    async fn opened(&self, visit: &PortVisit<'_>) -> ApiResult<Option<PortLink>> {
        match self.link_of(visit.key, visit.port).await {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }
}
