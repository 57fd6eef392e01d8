//! Where the toolboxes and the ports of the upstream's sandboxes are.
//!
//! The API tells it: with each sandbox and each URL of a port that passes by
//! here, and for all others in its configuration.
//!
//! **How far its word is trusted.** The key goes along to a toolbox, as the SDKs
//! send it there: to any host by `https`; unencrypted only if the API is so,
//! too, and only to its host and to names below it. Ports get no key at all:
//! whoever has a key of this server gets the port's own token.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use bytes::Bytes;
use reqwest::Url;
use serde::{Deserialize, de::DeserializeOwned};

use super::{Upstream, path};
use crate::error::{ApiError, ApiResult};

/// How long a question of this server may take.
const ASK_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a creation waits to hear whether its name is taken at the upstream.
const NAME_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the upstream's configuration counts.
const CONFIG_TTL: Duration = Duration::from_secs(300);
/// How long it is not asked for again when it could not be had.
const CONFIG_RETRY_AFTER: Duration = Duration::from_secs(2);
/// Addresses of each kind that are remembered.
const LEARNED_MAX: usize = 10_000;
/// How long the token of a port counts: a start of the sandbox makes a new one.
const TOKEN_TTL: Duration = Duration::from_secs(30);

/// What is known of where things are.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// The base URL of the toolbox, by the sandbox's id.
    toolboxes: Learned<String, String>,
    /// The URL, by what it has for a sandbox and the port.
    ports: Learned<(String, u16), String>,
    /// The link, by the sandbox and the port, and since when.
    links: Learned<(String, u16), (PortLink, Instant)>,
    config: tokio::sync::Mutex<Option<(Instant, ApiResult<Config>)>>,
}

/// What matters of the upstream's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    proxy_toolbox_url: Option<String>,
    proxy_template_url: Option<String>,
}

/// The URL of a port and the token that opens it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PortLink {
    pub(super) url: String,
    pub(super) token: String,
}

/// What matters of a sandbox.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sandbox {
    toolbox_proxy_url: Option<String>,
}

/// A table that forgets the oldest entry for a new one.
#[derive(Debug)]
struct Learned<K, V>(Mutex<(HashMap<K, V>, VecDeque<K>)>);

impl<K, V> Default for Learned<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Learned<K, V> {
    fn put(&self, key: K, value: V) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *tables;
        if known.insert(key.clone(), value).is_some() {
            return;
        }
        order.push_back(key);
        if order.len() > LEARNED_MAX
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }

    fn get(&self, key: &K) -> Option<V> {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.0.get(key).cloned()
    }
}

impl Upstream {
    /// Remembers where the toolbox of a sandbox is.
    pub(super) fn learn_toolbox(&self, id: &str, url: &str) {
        let url = url.trim_end_matches('/').to_owned();
        self.0.addresses.toolboxes.put(id.to_owned(), url);
    }

    /// Remembers the URL of a port; `key` is what the URL has for a sandbox.
    pub(super) fn learn_port(&self, key: &str, port: u16, url: &str) {
        let url = url.trim_end_matches('/').to_owned();
        self.0.addresses.ports.put((key.to_owned(), port), url);
    }

    /// Whether the key may go to a URL that the API has named.
    pub(super) fn may_have_key(&self, url: &Url) -> bool {
        let Ok(api) = Url::parse(self.api_url()) else {
            return false;
        };
        let is_near = match (api.host_str(), url.host_str()) {
            (Some(api), Some(host)) => {
                host == api
                    || host
                        .strip_suffix(api)
                        .is_some_and(|above| above.ends_with('.'))
            }
            _ => false,
        };
        let is_plain = url.username().is_empty() && url.password().is_none();
        is_plain
            && match url.scheme() {
                "https" => true,
                "http" => api.scheme() == "http" && is_near,
                _ => false,
            }
    }

    /// The base URL of the toolbox of a sandbox; `segment` is its id as it came.
    /// The API is asked about that sandbox only for who has shown a key.
    ///
    /// # Errors
    /// What the API says about the sandbox, or that it says nothing.
    pub(super) async fn toolbox_of(&self, segment: &str, has_key: bool) -> ApiResult<String> {
        let id = path::name(segment)
            .ok_or_else(|| ApiError::bad_request(format!("{segment:?} is no id of a sandbox")))?;
        if let Some(url) = self.0.addresses.toolboxes.get(&id.to_string()) {
            return Ok(url);
        }
        if has_key {
            let sandbox: Sandbox = self.ask(&format!("/sandbox/{segment}")).await?;
            if let Some(url) = sandbox.toolbox_proxy_url {
                self.learn_toolbox(&id, &url);
                return Ok(url.trim_end_matches('/').to_owned());
            }
        }
        let config = self.config().await?;
        let url = config.proxy_toolbox_url.filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| self.failed("does not say where its toolboxes are"))?;
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// The URL of a port, without a trailing slash.
    ///
    /// # Errors
    /// That the upstream does not tell.
    pub(super) async fn port_of(&self, key: &str, port: u16) -> ApiResult<String> {
        if let Some(url) = self.0.addresses.ports.get(&(key.to_owned(), port)) {
            return Ok(url);
        }
        let config = self.config().await?;
        let template = config
            .proxy_template_url
            .filter(|url| url.contains("{{PORT}}") && url.contains("{{sandboxId}}"));
        let template = template.ok_or_else(|| self.failed("does not say where ports are"))?;
        let url = template
            .replace("{{PORT}}", &port.to_string())
            .replace("{{sandboxId}}", key);
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// The link of a port, for who has shown a key of this server.
    ///
    /// # Errors
    /// What the API says about the sandbox, or that it says nothing.
    pub(super) async fn link_of(&self, key: &str, port: u16) -> ApiResult<PortLink> {
        let place = (key.to_owned(), port);
        if let Some((link, at)) = self.0.addresses.links.get(&place)
            && at.elapsed() < TOKEN_TTL
        {
            return Ok(link);
        }
        let target = format!("/sandbox/{key}/ports/{port}/preview-url");
        let link: PortLink = self.ask(&target).await?;
        self.learn_port(key, port, &link.url);
        self.0
            .addresses
            .links
            .put(place, (link.clone(), Instant::now()));
        Ok(link)
    }

    /// Whether the upstream has a sandbox of this name. One that cannot be asked
    /// has no say in it: a name is worth no more than that.
    pub(crate) async fn has(&self, name: &str) -> bool {
        #[derive(Deserialize)]
        struct Found {
            state: Option<String>,
        }
        let target = format!("/sandbox/{name}");
        let asking = self.ask::<Found>(&target);
        match tokio::time::timeout(NAME_TIME_MAX, asking).await {
            Ok(Ok(found)) => found.state.as_deref() != Some("destroyed"),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn config(&self) -> ApiResult<Config> {
        let mut known = self.0.addresses.config.lock().await;
        if let Some((at, config)) = &*known {
            let ttl = match config {
                Ok(_) => CONFIG_TTL,
                Err(_) => CONFIG_RETRY_AFTER,
            };
            if at.elapsed() < ttl {
                return config.clone();
            }
        }
        let config: ApiResult<Config> = self.ask("/config").await;
        *known = Some((Instant::now(), config.clone()));
        config
    }

    /// Asks the API something on behalf of this server.
    ///
    /// # Errors
    /// What the API says, or that it says nothing.
    pub(super) async fn ask<T: DeserializeOwned>(&self, target: &str) -> ApiResult<T> {
        let (status, body) = self.ask_raw(target).await?;
        if !status.is_success() {
            return Err(self.refused(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| {
            self.failed(&format!(
                "answered {} with what is not understood: {error}",
                path::path_of(target)
            ))
        })
    }

    /// The status and the body of an answer to this server.
    ///
    /// # Errors
    /// 502 when there is none in time.
    pub(super) async fn ask_raw(&self, target: &str) -> ApiResult<(StatusCode, Bytes)> {
        let url = self.api(target)?;
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, self.0.key.0.clone()),
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            (header::USER_AGENT, HeaderValue::from_static("sandboxai")),
        ]);
        let asking = async {
            let answer = self.send(Method::GET, url, headers, Body::empty()).await?;
            Ok((answer.status(), self.whole(answer).await?))
        };
        tokio::time::timeout(ASK_TIME_MAX, asking)
            .await
            .map_err(|_| self.failed(&format!("gave no answer within {ASK_TIME_MAX:?}")))?
    }

    /// What the API says instead of what was asked for.
    pub(super) fn refused(&self, status: StatusCode, body: &[u8]) -> ApiError {
        #[derive(Deserialize)]
        struct Said {
            message: String,
        }
        let message = match serde_json::from_slice::<Said>(body) {
            Ok(said) => said.message,
            Err(_) => status.canonical_reason().unwrap_or("it failed").to_owned(),
        };
        match status {
            // Who asked is not to blame when the key of this server's owner is not taken.
            StatusCode::UNAUTHORIZED => {
                tracing::warn!(
                    upstream = self.api_url(),
                    "the upstream does not take the key that is configured for it"
                );
                self.failed(&format!("does not take the configured key: {message}"))
            }
            status if status.is_client_error() => ApiError::new(status, message).of_upstream(),
            status => self.failed(&format!("answered {status}: {message}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{UpstreamConfig, UpstreamKey};

    fn upstream(api_url: &str) -> Upstream {
        Upstream::new(UpstreamConfig {
            api_url: api_url.to_owned(),
            key: UpstreamKey::new("k").unwrap(),
            ca_certificates: Vec::new(),
        })
        .unwrap()
    }

    #[test]
    fn the_key_goes_by_tls_or_to_the_host_of_an_api_without() {
        for (api, url, may) in [
            (
                "https://app.daytona.io/api",
                "https://proxy.app.daytona.io/toolbox",
                true,
            ),
            (
                "https://app.daytona.io/api",
                "https://proxy.eu.test/toolbox",
                true,
            ),
            (
                "https://app.daytona.io/api",
                "http://proxy.app.daytona.io/toolbox",
                false,
            ),
            (
                "https://app.daytona.io/api",
                "http://app.daytona.io/toolbox",
                false,
            ),
            (
                "http://localhost:3000/api",
                "http://proxy.localhost:4000/toolbox",
                true,
            ),
            (
                "http://localhost:3000/api",
                "http://localhost:4000/toolbox",
                true,
            ),
            (
                "http://localhost:3000/api",
                "http://evillocalhost/toolbox",
                false,
            ),
            (
                "http://localhost:3000/api",
                "http://evil.test/toolbox",
                false,
            ),
            (
                "http://localhost:3000/api",
                "http://localhost@evil.test/toolbox",
                false,
            ),
            (
                "http://localhost:3000/api",
                "https://u:p@proxy.test/toolbox",
                false,
            ),
            (
                "http://localhost:3000/api",
                "ftp://localhost/toolbox",
                false,
            ),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(upstream(api).may_have_key(&url), may, "{api} {url}");
        }
    }

    #[test]
    fn what_was_learned_first_is_forgotten_first() {
        let learned = Learned::default();
        for number in 0..=LEARNED_MAX {
            learned.put(number, number);
            learned.put(number, number);
        }
        assert_eq!(learned.get(&0), None);
        assert_eq!(learned.get(&1), Some(1));
        assert_eq!(learned.get(&LEARNED_MAX), Some(LEARNED_MAX));
    }
}
