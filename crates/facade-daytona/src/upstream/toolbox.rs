//! Requests of the toolboxes of the upstream's sandboxes.
//!
//! Who may use one is the upstream's to decide, so a request without a key of
//! this server goes on with what it has: the token of a preview, a signature of
//! a file. One that has nothing is refused there.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use reqwest::Url;

use super::{SILENCE_MAX, Upstream, header as headers_of, path};
use crate::{Facade, access, error::ApiResult, side::Side};

/// What paths of toolboxes begin with.
const PREFIX: &str = "/toolbox/";
/// What they begin with for old SDKs; the id and `/toolbox` follow.
const OLD_PREFIX: &str = "/api/toolbox/";

/// The layer: passes on what is about a sandbox that is not known here.
pub(crate) async fn pass_toolbox(
    State(facade): State<Facade>,
    request: Request,
    next: Next,
) -> Response {
    let Some(upstream) = facade.upstream.clone() else {
        return next.run(request).await;
    };
    let target = path::target_of(&request).to_owned();
    let Some(asked) = Asked::of(&target).filter(|asked| !asked.is_known(&facade)) else {
        return next.run(request).await;
    };
    if access::has_misplaced_key(&facade, request.headers(), request.uri()) {
        return access::refusal().into_response();
    }
    let has_key = access::has_key(&facade, request.headers());
    let passed = upstream.pass_toolbox(&asked, has_key, request).await;
    let mut response = passed.unwrap_or_else(IntoResponse::into_response);
    headers_of::keep_apart(response.headers_mut());
    response.extensions_mut().insert(Side::Daytona);
    response
}

/// What is asked of which toolbox.
#[derive(Debug)]
struct Asked<'a> {
    is_old: bool,
    /// The id as it came.
    segment: &'a str,
    /// Path and query below the toolbox.
    rest: &'a str,
}

impl<'a> Asked<'a> {
    fn of(target: &'a str) -> Option<Self> {
        let (is_old, rest) = match target.strip_prefix(OLD_PREFIX) {
            Some(rest) => (true, rest),
            None => (false, target.strip_prefix(PREFIX)?),
        };
        let (segment, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let rest = match is_old {
            true => rest.strip_prefix("/toolbox")?,
            false => rest,
        };
        Some(Self {
            is_old,
            segment,
            rest,
        })
    }

    /// Whether it is about a sandbox of this server. What names none is answered here.
    fn is_known(&self, facade: &Facade) -> bool {
        path::name(self.segment).is_none_or(|asked| facade.knows(&asked))
    }
}

impl Upstream {
    async fn pass_toolbox(
        &self,
        asked: &Asked<'_>,
        has_key: bool,
        request: Request,
    ) -> ApiResult<Response> {
        path::check(path::path_of(asked.rest))?;
        let url = self.toolbox_url(asked, has_key).await?;
        let (mut parts, body) = request.into_parts();
        headers_of::to_upstream(&mut parts.headers);
        match has_key {
            true => headers_of::exchange_key(&mut parts.headers, &self.0.key),
            false => headers_of::keep_one_authorization(&mut parts.headers),
        }
        let visitor = parts.extensions.remove::<OnUpgrade>();
        let answer = self.send(parts.method, url, parts.headers, body).await?;
        self.deliver(answer, visitor, SILENCE_MAX, ()).await
    }

    async fn toolbox_url(&self, asked: &Asked<'_>, has_key: bool) -> ApiResult<Url> {
        let Asked { segment, rest, .. } = asked;
        let url = match asked.is_old {
            true => return self.api(&format!("/toolbox/{segment}/toolbox{rest}")),
            false => format!(
                "{}/{segment}{rest}",
                self.toolbox_of(segment, has_key).await?
            ),
        };
        let url = Url::parse(&url)
            .map_err(|error| self.failed(&format!("has no valid URL of the toolbox: {error}")))?;
        match !has_key || self.may_have_key(&url) {
            true => Ok(url),
            false => Err(self.failed(&format!(
                "names a toolbox at {}, where the key is not sent: it is neither by https nor on the host of the API",
                url.origin().ascii_serialization()
            ))),
        }
    }
}
