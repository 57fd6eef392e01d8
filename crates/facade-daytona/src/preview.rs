//! Who may use a port inside a sandbox.
//!
//! Everybody, if the sandbox is public. Else who shows one of these:
//!
//! | what | where | opens |
//! |---|---|---|
//! | a key of the server | `Authorization: Bearer` | every port |
//! | the token of a port | `X-Daytona-Preview-Token`, query `DAYTONA_SANDBOX_AUTH_KEY` | that port |
//! | the sandbox's own token | the same | every port, and the toolbox |
//! | a signed token | instead of the id in the URL | that port until it expires |
//! | a pass | cookie `daytona-sandbox-auth-{id}`, set after one of the last three | that port, in that browser |
//!
//! All are made from the sandbox's own token by [`seal`], so that none can be
//! made into another. A cookie alone does not count for what other pages ask:
//! browsers send it along without being told to by the page that it is for.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request::Parts};
use control::{Control, Sandbox};
use jiff::Timestamp;
use sandbox::{Error, Id, Result, Space};
use tokio::sync::Mutex;

use crate::{
    Facade, FacadeConfig, KeyCheck,
    access::{TOKEN_COOKIE_PREFIX, TOKEN_HEADER, TOKEN_PARAMETER, bearer},
    annotation::{PREVIEW_TOKEN, PUBLIC, REVOKED_PREFIX},
    base_url::BaseUrl,
    preview_url::{self, TOOLBOX_PORT},
    seal::{self, Seal},
    token,
    upstream::Upstream,
};

/// Ports that stay private in public sandboxes: the toolbox, and where Daytona's
/// images have a terminal and recordings.
const PRIVATE_PORTS: [u16; 3] = [TOOLBOX_PORT, 22222, 33333];
/// For this port SDKs ask when they need a token for websockets of the toolbox.
const TOKEN_PORT: u16 = 1;
/// How long a signed URL is valid unless its request says.
const SIGNED_SECONDS_DEFAULT: u32 = 60;
/// How long a signed URL may be valid.
const SIGNED_SECONDS_MAX: u32 = 24 * 3600;
/// How long a browser that came by a signed URL may go on at least.
const SIGNED_PASS_SECONDS: i64 = 3600;
/// How long a browser that showed a token once may go on without it.
const TOKEN_PASS_SECONDS: i64 = 24 * 3600;
/// Signed URLs of one sandbox that are revoked and not yet forgotten.
const REVOKED_MAX: usize = 40;
/// Switches off that the server adds CORS headers.
const DISABLE_CORS: HeaderName = HeaderName::from_static("x-daytona-disable-cors");
/// Headers that are for the server and not for the application.
const OWN_HEADERS: [HeaderName; 4] = [
    TOKEN_HEADER,
    DISABLE_CORS,
    HeaderName::from_static("x-daytona-skip-preview-warning"),
    HeaderName::from_static("x-daytona-skip-last-activity-update"),
];
/// The other header in which the server takes keys.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// What a browser says about who asks.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What a browser asks for.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// How to reach a port.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) url: String,
    pub(crate) token: String,
}

/// The link of a port, with a token that opens it if the sandbox is private.
///
/// # Errors
/// When a sandbox that has no token yet cannot be given one.
pub(crate) async fn link(
    facade: &Facade,
    base: &BaseUrl,
    sandbox: Sandbox,
    port: u16,
) -> Result<Link> {
    let (sandbox, own) = with_own_token(facade, sandbox).await?;
    Ok(Link {
        url: preview_url::url(facade, base, &sandbox, port),
        token: match port {
            TOOLBOX_PORT | TOKEN_PORT => own,
            port => seal::port_token(&own, port),
        },
    })
}

/// A link whose token is part of the URL and valid for `seconds`.
///
/// # Errors
/// `InvalidRequest`, or as [`link`].
pub(crate) async fn sign(
    facade: &Facade,
    base: &BaseUrl,
    sandbox: Sandbox,
    port: u16,
    seconds: Option<u32>,
) -> Result<Link> {
    let seconds = seconds.unwrap_or(SIGNED_SECONDS_DEFAULT);
    if !(1..=SIGNED_SECONDS_MAX).contains(&seconds) {
        return Err(Error::invalid(format!(
            "field `expiresInSeconds`: {seconds} is not from 1 to {SIGNED_SECONDS_MAX}"
        )));
    }
    if port == TOOLBOX_PORT {
        return Err(Error::invalid(format!(
            "field `port`: there are no signed URLs of the toolbox (port {TOOLBOX_PORT})"
        )));
    }
    let (sandbox, own) = with_own_token(facade, sandbox).await?;
    let expires = Timestamp::now().as_second() + i64::from(seconds);
    let token = format!("{}{}", sandbox.id, Seal::signed(&own, port, expires));
    Ok(Link {
        url: preview_url::link(&facade.config.links, &base.0, &token, port),
        token,
    })
}

/// Makes a signed token worthless before it expires.
///
/// # Errors
/// `NotFound` when it is none of this port, `LimitReached`, or what hinders the store.
pub(crate) async fn revoke(
    facade: &Facade,
    sandbox: &Sandbox,
    port: u16,
    token: &str,
) -> Result<()> {
    let own = sandbox.annotations.get(PREVIEW_TOKEN);
    let seal = split(token)
        .and_then(|(id, rest)| (id == sandbox.id).then_some(rest?))
        .and_then(Seal::parse)
        .filter(|seal| own.is_some_and(|own| seal.is_signed(own, port)))
        .ok_or_else(|| Error::not_found(format!("port {port} has no such signed URL")))?;
    let now = Timestamp::now().as_second();
    let mut changes: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut kept = 0usize;
    for (name, expires) in &sandbox.annotations {
        if name.starts_with(REVOKED_PREFIX) {
            let last_use = expires.parse::<i64>().unwrap_or(0) + SIGNED_PASS_SECONDS;
            match last_use < now {
                true => drop(changes.insert(name.clone(), None)),
                false => kept += 1,
            }
        }
    }
    let name = revoked_name(&seal);
    if kept >= REVOKED_MAX && !sandbox.annotations.contains_key(&name) {
        return Err(Error::new(
            sandbox::Kind::LimitReached,
            format!(
                "{kept} signed URLs of this sandbox are revoked already; wait until some have expired"
            ),
        ));
    }
    changes.insert(name, Some(seal.expires.to_string()));
    facade
        .control
        .annotate(&sandbox.space, &sandbox.name, changes)
        .await
        .map(drop)
}

fn revoked_name(seal: &Seal) -> String {
    format!("{REVOKED_PREFIX}{}", seal.mac)
}

/// The sandbox with its own token, made if it has none: it may come from another facade.
async fn with_own_token(facade: &Facade, sandbox: Sandbox) -> Result<(Sandbox, String)> {
    /// Two first requests must not make two tokens.
    static MAKING: Mutex<()> = Mutex::const_new(());
    if let Some(own) = sandbox.annotations.get(PREVIEW_TOKEN).cloned() {
        return Ok((sandbox, own));
    }
    let _turn = MAKING.lock().await;
    let sandbox = facade.control.find(&sandbox.space, sandbox.id.as_str())?;
    if let Some(own) = sandbox.annotations.get(PREVIEW_TOKEN).cloned() {
        return Ok((sandbox, own));
    }
    let own = token::random()?;
    let change = BTreeMap::from([(PREVIEW_TOKEN.to_owned(), Some(own.clone()))]);
    let sandbox = facade
        .control
        .annotate(&sandbox.space, &sandbox.name, change)
        .await?;
    Ok((sandbox, own))
}

/// Lets requests through to ports inside sandboxes, or not.
#[derive(Clone)]
pub struct Gate {
    control: Control,
    space: Space,
    accepts_key: KeyCheck,
    has_keys: bool,
    upstream: Option<Upstream>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

/// A request for a port.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// What the URL has for a sandbox: its id, or a signed token.
    pub key: &'a str,
    /// The port inside.
    pub port: u16,
    /// The request.
    pub request: &'a Parts,
    /// `scheme://host[:port]` of the request.
    pub origin: &'a str,
    /// The path that all URLs of this port begin with.
    pub path: &'a str,
    /// Whether the browser keeps cookies of the origin from the network: by TLS,
    /// or because it is on this machine.
    pub is_secure: bool,
}

/// A request that may pass.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// To which sandbox.
    pub sandbox: Sandbox,
    /// A cookie to set in the answer.
    pub cookie: Option<HeaderValue>,
    /// Where a browser goes instead, so that no token stays in its address bar:
    /// path and query as far as the application's.
    pub go_to: Option<String>,
    /// Whether pages of other origins may read the answer.
    pub is_shared: bool,
    /// Whether the URL itself opens the port, and must not be told to others.
    pub is_secret_url: bool,
    /// Whether the `Authorization` header was for the gate.
    pub is_bearer_spent: bool,
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no such sandbox.
    Unknown,
    /// Nothing that opens the port was shown.
    NothingShown,
    /// The signed URL has expired or was revoked.
    Expired,
    /// Only a cookie was shown, by a page of somebody else.
    ForeignPage,
}

impl Gate {
    /// The gate to the sandboxes of the facade.
    #[must_use]
    pub fn new(control: Control, config: &FacadeConfig) -> Self {
        Self {
            control,
            space: config.space.clone(),
            accepts_key: config.accepts_key.clone(),
            has_keys: config.has_keys,
            upstream: config.upstream.clone(),
        }
    }

    /// Whether this server stands in front of another one.
    #[must_use]
    pub fn has_upstream(&self) -> bool {
        self.upstream.is_some()
    }

    /// The upstream, if it has the sandbox that a URL stands for: one that is not
    /// known here.
    #[must_use]
    pub fn upstream_of(&self, key: &str) -> Option<&Upstream> {
        let is_known = split(key).is_some_and(|(id, _)| {
            let found = self.control.find(&self.space, id.as_str());
            found.is_ok_and(|sandbox| sandbox.id == id)
                || self.control.remembers(&self.space, id.as_str())
        });
        self.upstream.as_ref().filter(|_| !is_known)
    }

    /// Removes keys of the server from a request that goes on to the upstream, and
    /// tells whether it has shown one where keys open ports.
    pub fn take_keys(&self, request: &mut Parts) -> bool {
        let is_key = |given: &[u8]| self.has_keys && (self.accepts_key)(given);
        let headers = &mut request.headers;
        let has_key = bearer(headers).is_some_and(is_key);
        match headers.remove(header::AUTHORIZATION) {
            // No second one behind it, which nobody has looked at.
            Some(first) if !has_key => drop(headers.insert(header::AUTHORIZATION, first)),
            _ => {}
        }
        for name in [API_KEY, TOKEN_HEADER] {
            if headers
                .get(&name)
                .is_some_and(|given| is_key(given.as_bytes()))
            {
                headers.remove(name);
            }
        }
        if query_token(&request.uri).is_some_and(|given| is_key(given.as_bytes()))
            && let Ok(uri) = without_token(&request.uri).parse()
        {
            request.uri = uri;
        }
        has_key
    }

    /// Decides about a request.
    ///
    /// # Errors
    /// Why it may not pass.
    pub fn admit(&self, visit: &Visit<'_>) -> Result<Admitted, Denied> {
        let (id, signature) = split(visit.key).ok_or(Denied::Unknown)?;
        let sandbox = self
            .control
            .find(&self.space, id.as_str())
            .ok()
            // It may have been found by a name.
            .filter(|sandbox| sandbox.id == id)
            .ok_or(Denied::Unknown)?;
        match signature {
            Some(signature) => admit_signed(visit, sandbox, signature),
            None => self.admit_plain(visit, sandbox),
        }
    }

    fn admit_plain(&self, visit: &Visit<'_>, sandbox: Sandbox) -> Result<Admitted, Denied> {
        let headers = &visit.request.headers;
        let is_public = sandbox
            .annotations
            .get(PUBLIC)
            .is_some_and(|value| value == "true");
        let mut admitted = Admitted {
            sandbox,
            cookie: None,
            go_to: None,
            is_shared: headers
                .get(DISABLE_CORS)
                .is_none_or(|value| value != "true"),
            is_secret_url: false,
            is_bearer_spent: false,
        };
        if is_public && !PRIVATE_PORTS.contains(&visit.port) {
            return Ok(admitted);
        }
        // A sandbox without a token is opened by keys alone.
        let own = admitted.sandbox.annotations.get(PREVIEW_TOKEN);
        let opens = |given: &[u8]| {
            own.is_some_and(|own| {
                token::is_same(own.as_bytes(), given)
                    | token::is_same(seal::port_token(own, visit.port).as_bytes(), given)
            })
        };
        if headers
            .get(TOKEN_HEADER)
            .is_some_and(|given| opens(given.as_bytes()))
        {
            return Ok(admitted);
        }
        if bearer(headers).is_some_and(|key| (self.accepts_key)(key) | opens(key)) {
            admitted.is_bearer_spent = true;
            return Ok(admitted);
        }
        let Some(own) = own else {
            return Err(Denied::NothingShown);
        };
        if query_token(&visit.request.uri).is_some_and(|given| opens(given.as_bytes())) {
            let until = Timestamp::now().as_second() + TOKEN_PASS_SECONDS;
            let pass = Seal::pass(own, visit.port, until, "");
            admitted.cookie = cookie(visit, &admitted.sandbox.id, &pass);
            if visit.request.method == Method::GET && is_page(headers) {
                admitted.go_to = Some(without_token(&visit.request.uri));
            }
            return Ok(admitted);
        }
        let now = Timestamp::now().as_second();
        if passes(headers, &admitted.sandbox.id)
            .any(|pass| pass.is_pass(own, visit.port, "") && now < pass.expires)
        {
            refuse_foreign_pages(visit)?;
            admitted.is_shared = false;
            return Ok(admitted);
        }
        Err(Denied::NothingShown)
    }

    /// Removes from a request what is for the server and not for the application.
    pub fn strip(&self, admitted: &Admitted, request: &mut Parts) {
        let headers = &mut request.headers;
        for name in &OWN_HEADERS {
            headers.remove(name);
        }
        let is_key = |given: &[u8]| self.has_keys && (self.accepts_key)(given);
        if admitted.is_bearer_spent || bearer(headers).is_some_and(is_key) {
            headers.remove(header::AUTHORIZATION);
        }
        if headers
            .get(API_KEY)
            .is_some_and(|given| is_key(given.as_bytes()))
        {
            headers.remove(API_KEY);
        }
        strip_cookies(headers);
        if query_token(&request.uri).is_some()
            && let Ok(uri) = without_token(&request.uri).parse()
        {
            request.uri = uri;
        }
    }
}

fn admit_signed(visit: &Visit<'_>, sandbox: Sandbox, signature: &str) -> Result<Admitted, Denied> {
    let headers = &visit.request.headers;
    let own = sandbox.annotations.get(PREVIEW_TOKEN);
    let (seal, own) = Seal::parse(signature)
        .zip(own)
        .filter(|(seal, own)| seal.is_signed(own, visit.port))
        .ok_or(Denied::Unknown)?;
    if sandbox.annotations.contains_key(&revoked_name(&seal)) {
        return Err(Denied::Expired);
    }
    let now = Timestamp::now().as_second();
    let is_new = now < seal.expires;
    let has_pass = passes(headers, &sandbox.id)
        .any(|pass| pass.is_pass(own, visit.port, &seal.mac) && now < pass.expires);
    if !is_new {
        if !has_pass {
            return Err(Denied::Expired);
        }
        refuse_foreign_pages(visit)?;
    }
    let until = seal.expires.max(now + SIGNED_PASS_SECONDS);
    let pass = Seal::pass(own, visit.port, until, &seal.mac);
    Ok(Admitted {
        cookie: (is_new && !has_pass)
            .then(|| cookie(visit, &sandbox.id, &pass))
            .flatten(),
        go_to: None,
        is_shared: is_new
            && headers
                .get(DISABLE_CORS)
                .is_none_or(|value| value != "true"),
        is_secret_url: true,
        is_bearer_spent: false,
        sandbox,
    })
}

/// Id and signature, if the text has the form of an id or of a signed token.
fn split(key: &str) -> Option<(Id, Option<&str>)> {
    if let Ok(id) = key.parse() {
        return Some((id, None));
    }
    let (id, signature) = key.split_at_checked(key.len().checked_sub(Seal::CHARS)?)?;
    Some((id.parse().ok()?, Some(signature)))
}

/// The token in the query.
fn query_token(uri: &Uri) -> Option<&str> {
    let pairs = uri.query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(name, value)| (name == TOKEN_PARAMETER).then_some(value))
}

/// Path and query without the token.
fn without_token(uri: &Uri) -> String {
    let kept: Vec<&str> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| pair.split('=').next() != Some(TOKEN_PARAMETER) && !pair.is_empty())
        .collect();
    match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    }
}

/// The passes that a request carries for a sandbox. Others may set cookies of
/// the same name, so one that is not valid says nothing about the next.
fn passes(headers: &HeaderMap, id: &Id) -> impl Iterator<Item = Seal> {
    let wanted = format!("{TOKEN_COOKIE_PREFIX}{id}");
    cookies(headers).filter_map(move |pair| {
        let (name, value) = pair.split_once('=')?;
        if name == wanted {
            Seal::parse(value)
        } else {
            None
        }
    })
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .map(str::trim)
}

fn strip_cookies(headers: &mut HeaderMap) {
    if !cookies(headers).any(|pair| pair.starts_with(TOKEN_COOKIE_PREFIX)) {
        return;
    }
    let kept: Vec<&str> = cookies(headers)
        .filter(|pair| !pair.starts_with(TOKEN_COOKIE_PREFIX))
        .collect();
    let kept = HeaderValue::from_str(&kept.join("; ")).ok();
    headers.remove(header::COOKIE);
    if let Some(kept) = kept.filter(|kept| !kept.is_empty()) {
        headers.insert(header::COOKIE, kept);
    }
}

/// The cookie that carries a pass. Previews are shown in frames of other sites,
/// which browsers allow to secure cookies only; those are kept apart by the
/// site around the frame.
fn cookie(visit: &Visit<'_>, id: &Id, pass: &Seal) -> Option<HeaderValue> {
    let seconds = pass.expires - Timestamp::now().as_second();
    let reach = match visit.is_secure {
        true => "SameSite=None; Secure; Partitioned",
        false => "SameSite=Lax",
    };
    let path = visit.path;
    HeaderValue::from_str(&format!(
        "{TOKEN_COOKIE_PREFIX}{id}={pass}; Path={path}; Max-Age={seconds}; HttpOnly; {reach}"
    ))
    .ok()
}

/// Whether the answer is to be a page. Browsers that came by plain HTTP from
/// another machine say no more than what they accept.
pub fn is_page(headers: &HeaderMap) -> bool {
    let accepts = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    match headers.contains_key(SEC_FETCH_MODE) {
        true => is_navigation(headers),
        false => accepts.is_some_and(|accept| accept.contains("text/html")),
    }
}

/// Whether a browser says that somebody goes there.
pub fn is_navigation(headers: &HeaderMap) -> bool {
    headers
        .get(SEC_FETCH_MODE)
        .is_some_and(|mode| mode == "navigate")
}

/// Whether a page other than the port's own asks, other than by leading there.
fn refuse_foreign_pages(visit: &Visit<'_>) -> Result<(), Denied> {
    let headers = &visit.request.headers;
    let origin = headers.get(header::ORIGIN);
    let is_foreign_origin = origin.is_some_and(|origin| origin != visit.origin);
    let is_foreign_fetch = !is_navigation(headers)
        && headers
            .get(SEC_FETCH_SITE)
            .is_some_and(|site| site != "same-origin" && site != "none");
    match is_foreign_origin || is_foreign_fetch {
        true => Err(Denied::ForeignPage),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
