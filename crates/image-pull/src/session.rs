//! Requests to one repository of a registry, with its kind of authentication.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{
    Client, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE},
};
use sandbox::{Error, Result};
use serde::Deserialize;

use crate::{
    Credentials,
    error::{nonsense, refused, unreachable},
    location::Location,
};

/// Largest answer that is kept in memory, bytes: manifests, configurations, tokens.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// How long such an answer may take.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(60);

/// A conversation about one repository.
pub(crate) struct Session<'a> {
    http: &'a Client,
    pub(crate) location: Location,
    credentials: Option<&'a Credentials>,
    /// What requests carry since the registry asked for it.
    authorization: Option<HeaderValue>,
}

/// What a registry wants to know before it answers.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    /// A token from elsewhere, with the parameters by name.
    Bearer(BTreeMap<String, String>),
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        http: &'a Client,
        location: Location,
        credentials: Option<&'a Credentials>,
    ) -> Self {
        Self {
            http,
            location,
            credentials,
            authorization: None,
        }
    }

    /// A document of the repository, whole.
    pub(crate) async fn document(&mut self, rest: &str, accept: &'static str) -> Result<Vec<u8>> {
        let work = async {
            let response = self.get(rest, Some(accept), 0).await?;
            self.body(response).await
        };
        match tokio::time::timeout(DOCUMENT_DEADLINE, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::timeout(format!(
                "a registry did not answer within {DOCUMENT_DEADLINE:?}"
            ))),
        }
    }

    /// Asks for something from byte `offset` on; answers other than success are errors.
    pub(crate) async fn get(
        &mut self,
        rest: &str,
        accept: Option<&'static str>,
        offset: u64,
    ) -> Result<Response> {
        let response = self.send(rest, accept, offset).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.checked(response).await;
        }
        // The first answer, or a token that has grown too old.
        self.authorization = None;
        let challenge = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .find_map(|value| challenge(value.to_str().ok()?));
        let Some(challenge) = challenge else {
            return self.checked(response).await;
        };
        self.authorize(challenge).await?;
        let response = self.send(rest, accept, offset).await?;
        self.checked(response).await
    }

    async fn send(
        &self,
        rest: &str,
        accept: Option<&'static str>,
        offset: u64,
    ) -> Result<Response> {
        let mut request = self.http.get(self.location.url(rest));
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        request
            .send()
            .await
            .map_err(|error| unreachable(&self.location, &error))
    }

    async fn checked(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await.unwrap_or_default();
        Err(refused(&self.location, status, &body))
    }

    /// The whole body, if it is not too long.
    async fn body(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| unreachable(&self.location, &error))?
        {
            if body.len() + piece.len() > DOCUMENT_BYTES_MAX {
                return Err(nonsense(
                    &self.location,
                    format_args!("its answer is longer than {DOCUMENT_BYTES_MAX} bytes"),
                ));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Does what the registry asks for.
    async fn authorize(&mut self, challenge: Challenge) -> Result<()> {
        let value = match challenge {
            Challenge::Basic => {
                let Some(credentials) = self.credentials else {
                    return Err(refused(&self.location, StatusCode::UNAUTHORIZED, b""));
                };
                basic(credentials)
            }
            Challenge::Bearer(parameters) => format!("Bearer {}", self.token(&parameters).await?),
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| nonsense(&self.location, "its token cannot be sent"))?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(())
    }

    /// A token from where the registry says.
    async fn token(&self, parameters: &BTreeMap<String, String>) -> Result<String> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let strange = |what: &str| nonsense(&self.location, what);
        let realm = parameters
            .get("realm")
            .ok_or_else(|| strange("it does not say where tokens come from"))?;
        let mut url = reqwest::Url::parse(realm)
            .map_err(|_| strange("the address of its tokens is not a URL"))?;
        // A password goes over the network encrypted, or not at all.
        let is_safe = url.scheme() == "https" || self.location.plain;
        if !is_safe {
            return Err(strange("its tokens come from an address without TLS"));
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = parameters.get("service") {
                query.append_pair("service", service);
            }
            let scope = format!("repository:{}:pull", self.location.repository);
            query.append_pair("scope", &scope);
        }
        let mut request = self.http.get(url);
        if let Some(credentials) = self.credentials {
            request = request.header(AUTHORIZATION, basic(credentials));
        }
        let response = request
            .send()
            .await
            .map_err(|error| unreachable(&self.location, &error))?;
        let body = {
            let response = self.checked(response).await?;
            self.body(response).await?
        };
        let token: Token =
            serde_json::from_slice(&body).map_err(|_| strange("its token is not as specified"))?;
        Ok(if token.token.is_empty() {
            token.access_token
        } else {
            token.token
        })
    }
}

fn basic(credentials: &Credentials) -> String {
    use base64::Engine as _;
    let Credentials { username, password } = credentials;
    let pair = format!("{username}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    )
}

/// Reads one value of `WWW-Authenticate`.
fn challenge(value: &str) -> Option<Challenge> {
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = BTreeMap::new();
    let mut rest = rest.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (text, after) = match after.strip_prefix('"') {
            // Commas inside quotes belong to the text, as in `pull,push`.
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(name.trim().to_ascii_lowercase(), text.to_owned());
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer(parameters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let Some(Challenge::Bearer(parameters)) = challenge(hub) else {
            panic!("{hub}");
        };
        assert_eq!(parameters["realm"], "https://auth.docker.io/token");
        assert_eq!(parameters["service"], "registry.docker.io");
        assert_eq!(parameters["scope"], "repository:a/b:pull,push");
        let bare = challenge("bearer realm=https://x/t, service=y");
        let Some(Challenge::Bearer(parameters)) = bare else {
            panic!("{bare:?}");
        };
        assert_eq!(parameters["realm"], "https://x/t");
        assert_eq!(challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(challenge("Negotiate"), None);
    }

    proptest! {
        #[test]
        fn no_challenge_makes_the_reader_panic(text in ".{0,200}") {
            let _ = challenge(&text);
            let _ = challenge(&format!("Bearer {text}"));
        }
    }
}
