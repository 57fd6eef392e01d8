//! Requests of the control plane that are about something of the upstream.

use axum::{
    extract::{Request, State},
    http::{Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use reqwest::Url;

use super::{Upstream, header as headers_of, link::Link, path, rewrite, send};
use crate::{
    Facade,
    base_url::BaseUrl,
    error::{ApiError, ApiResult},
    side::Side,
};

/// What paths of the control plane begin with.
const PREFIX: &str = "/api";
/// What this server answers itself, by the first segment of the path.
const OWN: [&str; 7] = [
    "",
    "config",
    "health",
    "object-storage",
    "snapshots",
    "socket.io",
    "toolbox",
];

/// The layer: passes on what is about a sandbox that is not known here, or about
/// what only the upstream has. The request has shown a key.
pub(crate) async fn pass_unknown(
    State(facade): State<Facade>,
    request: Request,
    next: Next,
) -> Response {
    match &facade.upstream {
        Some(upstream) if !is_own(&facade, request.method(), below_api(&request)) => {
            upstream.pass(&facade, request).await
        }
        _ => next.run(request).await,
    }
}

/// Path and query of a request below the API.
fn below_api(request: &Request) -> &str {
    let target = path::target_of(request);
    target.strip_prefix(PREFIX).unwrap_or(target)
}

/// Whether this server answers itself.
fn is_own(facade: &Facade, method: &Method, target: &str) -> bool {
    let mut segments = path::segments(path::path_of(target));
    // Daytona's router takes both cases.
    let first = segments.next().unwrap_or_default().to_ascii_lowercase();
    match first.as_str() {
        "sandbox" => match segments.next().as_deref() {
            None | Some("" | "paginated") => true,
            Some(asked) => facade.knows(asked),
        },
        // Who has a key of this server shall not get a key of the upstream that
        // goes on to open it when the first is taken away.
        "api-keys" => method != Method::GET,
        first => OWN.contains(&first),
    }
}

impl Upstream {
    /// Passes on a request of the control plane that has shown a key of this
    /// server. The answer carries [`Side::Daytona`], also when it is an error
    /// because the upstream gave none.
    pub(crate) async fn pass(&self, facade: &Facade, request: Request) -> Response {
        let passed = self.try_pass(facade, request).await;
        let mut response = passed.unwrap_or_else(IntoResponse::into_response);
        headers_of::keep_apart(response.headers_mut());
        response.extensions_mut().insert(Side::Daytona);
        response
    }

    async fn try_pass(&self, facade: &Facade, request: Request) -> ApiResult<Response> {
        let target = below_api(&request).to_owned();
        let path = path::path_of(&target);
        path::check_names(path)?;
        let base = BaseUrl::of(request.headers())
            .ok_or_else(|| ApiError::bad_request("the request has no valid Host header"))?;
        if let Some(log) = self
            .build_logs(&target, request.method(), request.headers())
            .await?
        {
            return Ok(log);
        }
        let mut answer = self.exchange(&target, request).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // The caller's key was right; that of the upstream is not.
            let status = answer.status();
            return Err(self.refused(status, &self.whole(answer).await?));
        }
        let is_about_sandboxes = path::segments(path)
            .next()
            .is_some_and(|first| first.eq_ignore_ascii_case("sandbox"));
        let link = Link::of(path);
        let is_read = is_about_sandboxes || link.is_some();
        if !is_read || !answer.status().is_success() || !send::is_json(answer.headers()) {
            return Ok(send::streamed(answer));
        }
        let head = send::head_of(&mut answer);
        let body = self.whole(answer).await?;
        let rewritten = match &link {
            Some(link) => self.through_here(facade, &base, link, &body),
            None => rewrite::sandboxes(&body, &base, &|id, url| self.learn_toolbox(id, url)),
        };
        Ok(match rewritten {
            Some(rewritten) => send::with_body(head, rewritten),
            None => send::with_body(head, body),
        })
    }

    /// Sends a request of a caller to the API, with the upstream's key.
    ///
    /// # Errors
    /// 400 for a path that is not passed on, 502 when there is no answer.
    pub(super) async fn exchange(
        &self,
        target: &str,
        request: Request,
    ) -> ApiResult<reqwest::Response> {
        let url = self.api(target)?;
        let (mut parts, body) = request.into_parts();
        headers_of::to_upstream(&mut parts.headers);
        headers_of::exchange_key(&mut parts.headers, &self.0.key);
        headers_of::remove_upgrade(&mut parts.headers);
        parts.headers.remove(header::COOKIE);
        // Answers are read.
        parts.headers.remove(header::ACCEPT_ENCODING);
        self.send(parts.method, url, parts.headers, body).await
    }

    /// A URL of the upstream's API; `target` is path and query below it.
    pub(super) fn api(&self, target: &str) -> ApiResult<Url> {
        path::check(path::path_of(target))?;
        Url::parse(&format!("{}{target}", self.api_url()))
            .map_err(|error| ApiError::bad_request(format!("the path is not valid: {error}")))
    }
}
