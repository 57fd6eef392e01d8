//! Previews: the way from a browser or a program to a port inside a sandbox.
//!
//! ```text
//! request ─► address (which port) ─► gate (who may) ─► ready (does it run)
//!        ─► hygiene (headers) ─► forward (one connection inside) ─► hygiene, cors ─► answer
//! ```
//!
//! Why pages of sandboxes cannot act on the server's own interface is in
//! `docs/previews.md`.

mod address;
mod cors;
mod forward;
mod hygiene;
mod ready;
mod refusal;
mod slots;
mod upstream;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{OriginalUri, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use control::Control;
use facade_daytona::{
    preview::{Admitted, Denied, Gate, Visit, is_navigation, is_page},
    preview_url::{Links, TOOLBOX_PORT},
};

use edge::request_id::{self, RequestIds};
use tracing::{Instrument as _, Span};

use crate::serve::Peer;
use address::{Address, Arrival, Form, Keys, NoAddress};
use refusal::Refusal;
use slots::{Slot, Slots};

/// What a trusted proxy was asked for.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What the log calls the route of a preview.
const ROUTE: &str = "preview";

/// How previews behave.
#[derive(Clone, Debug)]
pub struct PreviewConfig {
    /// Start a sandbox that does not run when somebody visits it.
    pub auto_start: bool,
    /// Connections to one sandbox at once.
    pub connections_max: usize,
    /// End connections on which nothing moves for so long.
    pub idle_timeout: Duration,
}

/// What all visits share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Previews {
    control: Control,
    gate: Gate,
    links: Links,
    config: Arc<PreviewConfig>,
    slots: Slots,
    request_ids: Arc<RequestIds>,
}

/// A request for a preview, as far as it is understood.
#[derive(Debug)]
struct Asked {
    arrival: Arrival,
    address: Address,
}

impl Previews {
    pub(crate) fn new(control: Control, gate: Gate, links: Links, config: PreviewConfig) -> Self {
        Self {
            control,
            gate,
            links,
            slots: Slots::new(config.connections_max),
            request_ids: Arc::default(),
            config: Arc::new(config),
        }
    }
}

/// The layer: takes requests for previews, and leaves the others.
pub(crate) async fn serve(
    State(previews): State<Previews>,
    request: Request,
    next: Next,
) -> Response {
    let arrival = Arrival::of(request.uri(), request.headers());
    let Some(arrival) = arrival else {
        return next.run(request).await;
    };
    let keys = match previews.gate.has_upstream() {
        true => Keys::Any,
        false => Keys::Own,
    };
    let address = match Address::of(&arrival, request.uri(), keys) {
        None => return next.run(request).await,
        Some(Ok(address)) => address,
        Some(Err(NoAddress(message))) => {
            let refusal = Refusal::new(StatusCode::BAD_REQUEST, message);
            return refusal.into_response(request.headers());
        }
    };
    let asked = Asked { arrival, address };
    if asked.address.port == TOOLBOX_PORT {
        let headers = request.headers().clone();
        return match toolbox_request(&asked, request) {
            Ok(request) => next.run(request).await,
            Err(refusal) => refusal.into_response(&headers),
        };
    }
    let question = Question::of(&request);
    let request_id = previews.request_ids.of(request.headers());
    let span = edge::span(&request_id, request.method(), ROUTE);
    let answer = async move {
        let mut response = match previews.visit(&asked, request).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(&question.headers),
        };
        question.complete(&mut response);
        // An application may have ids of its own.
        let id = response.headers_mut().entry(request_id::HEADER);
        id.or_insert_with(|| request_id.header());
        let status = response.status().as_u16();
        tracing::debug!(status, port = asked.address.port, "answered");
        response
    };
    let response = answer.instrument(span.clone()).await;
    edge::in_span(response, span)
}

/// What the answer's completion needs of a request.
#[derive(Debug)]
struct Question {
    is_preflight: bool,
    headers: HeaderMap,
}

/// Says in an answer that only its own pages may read it; never leaves the server.
#[derive(Clone, Copy, Debug)]
struct NotShared;

impl Question {
    fn of(request: &Request) -> Self {
        Self {
            is_preflight: cors::is_preflight(request.method(), request.headers()),
            headers: request.headers().clone(),
        }
    }

    /// Adds what lets pages of other origins use the answer.
    fn complete(&self, response: &mut Response) {
        if response.extensions_mut().remove::<NotShared>().is_some() {
            return;
        }
        if self.is_preflight && !cors::is_answered(response.headers()) {
            *response = cors::preflight(&self.headers);
        } else {
            cors::complete(&self.headers, response.headers_mut());
        }
    }
}

impl Previews {
    async fn visit(&self, asked: &Asked, request: Request) -> Result<Response, Refusal> {
        let address = &asked.address;
        let method = request.method();
        if method == Method::CONNECT || method == Method::TRACE {
            let message = format!("{method} is not possible here");
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        if let Some(url) = self.better_url(asked, &request) {
            return Ok(redirect(&url, None));
        }
        if let Some(upstream) = self.upstream_of(address) {
            return self.visit_upstream(upstream, asked, request).await;
        }
        let (mut parts, body) = request.into_parts();
        parts.uri = inner_uri(address)?;
        let admitted = self.admit(asked, &parts)?;
        Span::current().record("sandbox", admitted.sandbox.id.as_str());
        if let Some(path) = &admitted.go_to {
            let url = format!("{}{path}", address.prefix());
            return Ok(redirect(&url, admitted.cookie));
        }
        let mut response = self.pass(asked, &admitted, parts, body).await?;
        conclude(&admitted, &mut response);
        Ok(response)
    }

    /// Where a browser shows the same with an origin of its own, or with paths
    /// that work.
    fn better_url(&self, asked: &Asked, request: &Request) -> Option<String> {
        let Asked { arrival, address } = asked;
        let is_get = request.method() == Method::GET || request.method() == Method::HEAD;
        if address.form != Form::Path || !is_page(request.headers()) || !is_get {
            return None;
        }
        let inner = address.inner_with_path();
        let by_host = self
            .links
            .by_host(&arrival.origin(), &address.key, address.port)
            .filter(|_| is_navigation(request.headers()));
        match by_host {
            Some(url) => Some(format!("{url}{inner}")),
            None if address.inner.starts_with('/') => None,
            None => Some(format!("{}{inner}", address.prefix())),
        }
    }

    fn admit(&self, asked: &Asked, parts: &Parts) -> Result<Admitted, Refusal> {
        let Asked { arrival, address } = asked;
        let (origin, prefix) = (arrival.origin(), address.prefix());
        let visit = Visit {
            key: &address.key,
            port: address.port,
            request: parts,
            origin: &origin,
            path: if prefix.is_empty() { "/" } else { &prefix },
            is_secure: arrival.scheme == "https" || arrival.is_loopback(),
        };
        self.gate.admit(&visit).map_err(|denied| match denied {
            Denied::Unknown => Refusal::new(
                StatusCode::NOT_FOUND,
                "There is no sandbox for this address; it may have been deleted.",
            ),
            Denied::NothingShown => Refusal::new(
                StatusCode::UNAUTHORIZED,
                "This preview is private. Open a signed URL of it, or send its token in the header `X-Daytona-Preview-Token` or in the query as `DAYTONA_SANDBOX_AUTH_KEY`.",
            ),
            Denied::Expired => Refusal::new(
                StatusCode::UNAUTHORIZED,
                "This signed URL has expired or was revoked. Ask for a new one.",
            ),
            Denied::ForeignPage => Refusal::new(
                StatusCode::FORBIDDEN,
                "Another page asks for this private preview with your browser's cookie. Let it send the preview's token instead.",
            ),
        })
    }

    fn take_slot(&self, sandbox: &str) -> Result<Slot, Refusal> {
        self.slots.take(sandbox).ok_or_else(|| {
            Refusal::transient(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "There are {} connections to this sandbox already; more are temporarily unavailable.",
                    self.config.connections_max
                ),
            )
        })
    }

    async fn pass(
        &self,
        asked: &Asked,
        admitted: &Admitted,
        mut parts: Parts,
        body: Body,
    ) -> Result<Response, Refusal> {
        let Asked { arrival, address } = asked;
        let slot = self.take_slot(admitted.sandbox.id.as_str())?;
        let stream = self.connect(&admitted.sandbox, address.port).await?;
        self.gate.strip(admitted, &mut parts);
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
        hygiene::to_application(&mut parts.headers, arrival, address, peer);
        parts.version = axum::http::Version::HTTP_11;
        let request = Request::from_parts(parts, body);
        let mut response = forward::forward(stream, slot, self.config.idle_timeout, request)
            .await
            .map_err(|error| {
                tracing::debug!(%error, port = address.port, "an application gave no answer");
                Refusal::new(
                    StatusCode::BAD_GATEWAY,
                    format!(
                        "What listens on port {} inside the sandbox gave no valid HTTP answer.",
                        address.port
                    ),
                )
            })?;
        hygiene::to_visitor(response.headers_mut(), arrival, address);
        Ok(response)
    }
}

/// Path and query inside, as the target of a request.
fn inner_uri(address: &Address) -> Result<Uri, Refusal> {
    address.inner_with_path().parse().map_err(|_| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "The path of this address is not valid.",
        )
    })
}

/// Adds what the gate wants the visitor to have.
fn conclude(admitted: &Admitted, response: &mut Response) {
    if !admitted.is_shared {
        response.extensions_mut().insert(NotShared);
    }
    let headers = response.headers_mut();
    if let Some(cookie) = &admitted.cookie {
        headers.append(header::SET_COOKIE, cookie.clone());
    }
    if admitted.is_secret_url {
        let policy = HeaderValue::from_static("same-origin");
        headers.entry(header::REFERRER_POLICY).or_insert(policy);
    }
}

fn redirect(url: &str, cookie: Option<HeaderValue>) -> Response {
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    let headers = response.headers_mut();
    if let Ok(url) = HeaderValue::from_str(url) {
        headers.insert(header::LOCATION, url);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(cookie) = cookie {
        headers.append(header::SET_COOKIE, cookie);
    }
    response
}

/// The same request to the toolbox, under the host that has it. The facade
/// decides who may use it, and all rules for its requests apply.
fn toolbox_request(asked: &Asked, request: Request) -> Result<Request, Refusal> {
    let Asked { arrival, address } = asked;
    let target = format!("/toolbox/{}{}", address.key, address.inner_with_path());
    let host = match &address.form {
        Form::Host(parent) => format!("{parent}{}", arrival.port_suffix()),
        Form::Path => arrival.authority.to_string(),
    };
    let (mut parts, body) = request.into_parts();
    let (Ok(uri), Ok(host)) = (target.parse(), HeaderValue::from_str(&host)) else {
        let message = "The address is not valid.";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    };
    parts.uri = uri;
    // The router notes where the request leads to now.
    parts.extensions.remove::<OriginalUri>();
    if parts.headers.contains_key(&FORWARDED_HOST) {
        parts.headers.insert(FORWARDED_HOST, host.clone());
    }
    parts.headers.insert(header::HOST, host);
    Ok(Request::from_parts(parts, body))
}
