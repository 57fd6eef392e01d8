//! Where the name of an image leads.

use std::net::IpAddr;

use sandbox::{Error, Image, Result};

/// The registry of names that begin with none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that registry really answers.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// What that registry puts before names of one part.
const DEFAULT_FOLDER: &str = "library";

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// The registry for people, e.g. `docker.io`; also where its credentials are looked up.
    pub(crate) registry: String,
    /// Host and port that answer.
    pub(crate) host: String,
    /// E.g. `library/debian`.
    pub(crate) repository: String,
    /// Tag or digest.
    pub(crate) reference: String,
    /// Whether it is spoken to without TLS: only on this machine.
    pub(crate) plain: bool,
}

impl Location {
    /// Where `image` is. A first part with a dot or a port, or `localhost`, names
    /// a registry; other names belong to Docker Hub.
    ///
    /// # Errors
    /// `InvalidRequest` when no registry could have the name.
    pub(crate) fn of(image: &Image) -> Result<Self> {
        let (name, digest) = match image.as_str().split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (image.as_str(), None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (name, "latest"),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest.to_owned())
            }
            Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
            None => (DEFAULT_REGISTRY, format!("{DEFAULT_FOLDER}/{name}")),
        };
        let is_hub = matches!(registry, "docker.io" | "index.docker.io" | DEFAULT_HOST);
        let repository = if is_hub && !repository.contains('/') {
            format!("{DEFAULT_FOLDER}/{repository}")
        } else {
            repository
        };
        check(image, &repository, digest.unwrap_or(tag))?;
        let (registry, host) = if is_hub {
            (DEFAULT_REGISTRY, DEFAULT_HOST)
        } else {
            (registry, registry)
        };
        Ok(Self {
            registry: registry.to_owned(),
            host: host.to_owned(),
            plain: is_loopback(host),
            repository,
            reference: digest.unwrap_or(tag).to_owned(),
        })
    }

    /// The same image by another tag or digest.
    pub(crate) fn at(&self, reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            ..self.clone()
        }
    }

    /// A URL below the repository.
    pub(crate) fn url(&self, rest: &str) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}/{rest}", self.host, self.repository)
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.reference.contains(':') {
            '@'
        } else {
            ':'
        };
        write!(
            f,
            "{}/{}{mark}{}",
            self.registry, self.repository, self.reference
        )
    }
}

/// The rules of the distribution specification, so that no name can become
/// another place of a URL.
fn check(image: &Image, repository: &str, reference: &str) -> Result<()> {
    let component = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase()
                    || byte.is_ascii_digit()
                    || matches!(byte, b'-' | b'_' | b'.')
            })
    };
    let is_digest = reference.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let is_tag = reference.len() <= 128
        && reference
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let wants_digest = image.as_str().contains('@');
    let fits = if wants_digest { is_digest } else { is_tag };
    if fits && repository.split('/').all(component) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "no registry can have an image named {image}; use the form [registry/]repository[:tag], in lower case"
    )))
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str) -> String {
        let image: Image = name.parse().unwrap();
        match Location::of(&image) {
            Ok(location) => format!("{location} by {}", location.url("x")),
            Err(error) => error.message,
        }
    }

    #[test]
    fn names_lead_where_docker_leads_them() {
        for (name, wanted) in [
            (
                "debian",
                "docker.io/library/debian:latest by https://registry-1.docker.io/v2/library/debian/x",
            ),
            (
                "kortix/suna:0.1.3.24",
                "docker.io/kortix/suna:0.1.3.24 by https://registry-1.docker.io/v2/kortix/suna/x",
            ),
            (
                "docker.io/debian:12",
                "docker.io/library/debian:12 by https://registry-1.docker.io/v2/library/debian/x",
            ),
            (
                "ghcr.io/a/b/c:1",
                "ghcr.io/a/b/c:1 by https://ghcr.io/v2/a/b/c/x",
            ),
            (
                "localhost:5000/a",
                "localhost:5000/a:latest by http://localhost:5000/v2/a/x",
            ),
            (
                "127.0.0.1:5000/a:b",
                "127.0.0.1:5000/a:b by http://127.0.0.1:5000/v2/a/x",
            ),
            (
                "10.0.0.1:5000/a",
                "10.0.0.1:5000/a:latest by https://10.0.0.1:5000/v2/a/x",
            ),
        ] {
            assert_eq!(shown(name), wanted);
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        assert!(shown(&format!("a/b:1@{digest}")).starts_with(&format!("docker.io/a/b@{digest}")));
    }

    #[test]
    fn names_that_no_registry_has_are_told() {
        for name in ["Debian", "a/B", "localhost:5000/A", "a@sha256:1", "a@b"] {
            let message = shown(name);
            assert!(
                message.starts_with("no registry can have"),
                "{name}: {message}"
            );
        }
    }
}
