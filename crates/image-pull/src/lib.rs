//! Fetches container images from registries, and files by URL.
//!
//! An image becomes an OCI image layout in a tar archive, written while it is
//! downloaded: `location` finds out where a name leads, `session` speaks to the
//! registry, `blob` downloads with resumption and digest check, `layout` writes
//! the archive. What a registry says is never believed beyond a bound. The
//! archive goes to whoever unpacks it, who trusts it no more than any other.

mod blob;
mod error;
mod file;
mod layout;
mod location;
mod manifest;
mod pull;
mod session;

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use reqwest::{Certificate, redirect::Policy};
use sandbox::{Error, Fetch, Image, Result, Sink};

/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long the other side may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Redirections followed: registries send blobs from elsewhere.
const REDIRECTS_MAX: usize = 5;
/// As whom we introduce ourselves.
const USER_AGENT: &str = concat!("sandboxai/", env!("CARGO_PKG_VERSION"));

/// Who to be at a registry.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &"(hidden)")
            .finish()
    }
}

/// How to fetch.
#[derive(Clone, Debug, Default)]
pub struct FetchConfig {
    /// Who to be at which registry; the key is the host, with its port if it has one.
    pub credentials: BTreeMap<String, Credentials>,
    /// CA certificates (PEM) that are trusted besides those of the machine.
    pub ca_certificates: Vec<u8>,
    /// Whether files may come from loopback and private addresses: for tests.
    pub private_addresses: bool,
}

/// Fetches images and files over HTTP.
#[derive(Debug)]
pub struct HttpFetch {
    credentials: BTreeMap<String, Credentials>,
    /// For registries.
    http: reqwest::Client,
    /// For files, whose addresses are checked.
    files: reqwest::Client,
    private_addresses: bool,
}

impl HttpFetch {
    /// Gets ready.
    ///
    /// # Errors
    /// `InvalidRequest` when the CA certificates cannot be used.
    pub fn new(config: FetchConfig) -> Result<Self> {
        let certificates = Certificate::from_pem_bundle(&config.ca_certificates)
            .map_err(|error| unusable(&error))?;
        let builder = || {
            reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(CONNECT_DEADLINE)
                .read_timeout(SILENCE_MAX)
        };
        let for_files = || {
            let files = builder().redirect(file::redirects(config.private_addresses));
            match config.private_addresses {
                true => files,
                false => files.dns_resolver(file::PublicAddresses),
            }
        };
        let for_images = || builder().redirect(Policy::limited(REDIRECTS_MAX));
        Ok(Self {
            http: build(for_images, &certificates)?,
            files: build(for_files, &certificates)?,
            credentials: config.credentials,
            private_addresses: config.private_addresses,
        })
    }
}

/// A client that trusts the certificates besides those of the machine. Where the
/// machine has none, as a small Debian has, it trusts them alone: then what is
/// fetched over TLS fails, and nothing else.
fn build(
    builder: impl Fn() -> reqwest::ClientBuilder,
    certificates: &[Certificate],
) -> Result<reqwest::Client> {
    let certificates = || certificates.iter().cloned();
    builder()
        .tls_certs_merge(certificates())
        .build()
        .or_else(|_| builder().tls_certs_only(certificates()).build())
        .map_err(|error| unusable(&error))
}

fn unusable(error: &reqwest::Error) -> Error {
    Error::invalid(format!(
        "the CA certificates cannot be used: {}",
        error::chain(error)
    ))
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn image(
        &self,
        image: &Image,
        archive: Sink<'_>,
        say: &(dyn Fn(String) + Send + Sync),
    ) -> Result<()> {
        pull::pull(self, image, archive, say).await
    }

    async fn file(&self, url: &str, bytes_max: u64, content: Sink<'_>) -> Result<()> {
        file::get(&self.files, url, bytes_max, self.private_addresses, content).await
    }
}
