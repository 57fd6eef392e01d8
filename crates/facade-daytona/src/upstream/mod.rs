//! The real Daytona that this server stands in front of.
//!
//! A sandbox that is not known here is the upstream's: what is asked about it
//! is passed on, and the answer comes back with URLs that lead through this
//! server again. There is no table of who is where, so none can be lost.
//!
//! ```text
//! request ─► access ─► known here? ─ yes ─► control_plane, toolbox
//!                           └─ no ─► key exchanged ─► the upstream ─► URLs rewritten
//! ```
//!
//! The upstream's key goes to the configured API, and to toolboxes where the
//! API says that they are ([`address`] has the rule); nowhere else. It takes
//! the place of a key of this server, so a request that shows none goes on with
//! what it has. Keys of this server never leave it.

mod address;
mod control_plane;
mod event;
mod header;
mod link;
mod list;
mod path;
mod preview;
mod rewrite;
mod send;
#[cfg(test)]
mod tests;
mod toolbox;

use std::{fmt, sync::Arc, time::Duration};

use axum::http::HeaderValue;
use reqwest::{Certificate, Client, Url, redirect::Policy};
use sandbox::{Error, Result};

use self::address::Addresses;
pub use self::preview::{NotVisited, PortVisit, Visited};
pub(crate) use self::{
    control_plane::pass_unknown,
    event::Relayed,
    list::{Items, Listing},
    toolbox::pass_toolbox,
};

/// How long a connection to the upstream may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the upstream may say nothing while a request is open: the longest
/// time that a quiet command may run. Peers that vanished are noticed by TCP.
const SILENCE_MAX: Duration = Duration::from_secs(6 * 3600);
/// How often TCP asks whether the upstream's machine is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long what was sent may be without a sign that it has arrived.
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(120);
/// How long a connection is kept for the next request: shorter than any usual
/// server waits for one (5 s), so that none is sent into a connection that ends.
const POOL_IDLE_TIME_MAX: Duration = Duration::from_secs(4);
/// Connections kept for next requests.
const POOL_IDLE_MAX: usize = 64;

/// The upstream's key. It cannot be printed.
#[derive(Clone)]
pub struct UpstreamKey(HeaderValue);

impl UpstreamKey {
    /// A key.
    ///
    /// # Errors
    /// `InvalidRequest` when it has characters that no header can carry.
    pub fn new(key: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(
                "the key of the upstream is empty or has a character that HTTP headers cannot carry",
            )
        };
        if key.is_empty() {
            return Err(wrong());
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| wrong())?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The key itself, for the one place that does not send it in a header.
    fn token(&self) -> &str {
        let value = self.0.to_str().unwrap_or_default();
        value.strip_prefix("Bearer ").unwrap_or_default()
    }
}

impl fmt::Debug for UpstreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpstreamKey(hidden)")
    }
}

/// Where the upstream is and who we are there.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// The URL of its API, e.g. `https://app.daytona.io/api`.
    pub api_url: String,
    /// A key of it.
    pub key: UpstreamKey,
    /// CA certificates (PEM) that are trusted besides those of the machine.
    pub ca_certificates: Vec<u8>,
}

/// The upstream. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    http: Client,
    /// Without a trailing slash.
    api_url: String,
    key: UpstreamKey,
    addresses: Addresses,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.0.api_url).finish()
    }
}

impl Upstream {
    /// Gets ready; the upstream is not asked yet.
    ///
    /// # Errors
    /// `InvalidRequest` that names what is wrong with the URL or the certificates.
    pub fn new(config: UpstreamConfig) -> Result<Self> {
        let certificates = Certificate::from_pem_bundle(&config.ca_certificates)
            .map_err(|error| unusable(&error))?;
        let http = Client::builder()
            .http1_only()
            .redirect(Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIME_MAX)
            .read_timeout(SILENCE_MAX)
            .tcp_keepalive(KEEPALIVE_INTERVAL)
            .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
            .tcp_user_timeout(UNACKNOWLEDGED_TIME_MAX)
            .pool_idle_timeout(POOL_IDLE_TIME_MAX)
            .pool_max_idle_per_host(POOL_IDLE_MAX)
            .tls_certs_merge(certificates)
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(Self(Arc::new(Inner {
            http,
            api_url: api_url(&config.api_url)?,
            key: config.key,
            addresses: Addresses::default(),
        })))
    }

    /// The URL of its API, without a trailing slash. Tells no secrets.
    #[must_use]
    pub fn api_url(&self) -> &str {
        &self.0.api_url
    }
}

fn unusable(error: &reqwest::Error) -> Error {
    Error::invalid(format!(
        "the CA certificates for the upstream cannot be used: {}",
        send::chain(error)
    ))
}

/// The URL in the one form that paths are appended to.
fn api_url(text: &str) -> Result<String> {
    let wrong = |what: &str| {
        Error::invalid(format!(
            "the URL of the upstream {what}; it is one like https://app.daytona.io/api"
        ))
    };
    let url = Url::parse(text).map_err(|error| wrong(&format!("is none: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("is not one of http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "has a user name or a password, which belong in no URL",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or a fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn the_url_is_one_that_paths_can_be_appended_to() {
        for url in ["https://app.daytona.io/api", "https://app.daytona.io/api/"] {
            assert_eq!(api_url(url).unwrap(), "https://app.daytona.io/api");
        }
        for wrong in [
            "",
            "app.daytona.io/api",
            "ftp://app.daytona.io/api",
            "https://user:pass@app.daytona.io/api",
            "https://app.daytona.io/api?key=x",
            "https://app.daytona.io/api#x",
        ] {
            let message = api_url(wrong).unwrap_err().message;
            assert!(message.contains("https://app.daytona.io/api"), "{message}");
        }
    }

    #[test]
    fn a_key_fits_a_header_and_is_not_printed() {
        let key = UpstreamKey::new("dtn_secret").unwrap();
        assert_eq!(key.token(), "dtn_secret");
        assert!(!format!("{key:?} {:?}", key.0).contains("secret"));
        for wrong in ["", "a\nb"] {
            assert!(UpstreamKey::new(wrong).is_err());
        }
    }
}
