//! The only place that reads the environment.

use std::{collections::BTreeMap, path::PathBuf};

/// The configuration file when nothing else is said.
pub const DEFAULT_FILE: &str = "/etc/sandboxai/config.toml";

/// The environment of this process, read once.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The environment of this process; variables that are not UTF-8 do not count.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// All variables.
    #[must_use]
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// `SANDBOXAI_CONFIG`: the configuration file.
    #[must_use]
    pub fn config_file(&self) -> Option<PathBuf> {
        self.get("SANDBOXAI_CONFIG").map(PathBuf::from)
    }

    /// Whether colour is unwanted (<https://no-color.org>).
    #[must_use]
    pub fn no_color(&self) -> bool {
        self.get("NO_COLOR").is_some() || self.get("TERM") == Some("dumb")
    }

    /// What an image build may know of it: proxies, and where packages come from.
    #[must_use]
    pub fn for_builds(&self) -> BTreeMap<String, String> {
        let wanted = |name: &str| {
            let lower = name.to_ascii_lowercase();
            lower.ends_with("_proxy")
                || lower.starts_with("pip_")
                || lower.starts_with("npm_config_")
        };
        self.variables
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// The host's own bundle of CA certificates: `SSL_CERT_FILE`, or where
    /// distributions keep it.
    #[must_use]
    pub fn host_ca_certificates(&self) -> Option<PathBuf> {
        /// Debian and its kin, Fedora and its kin, SUSE, Alpine.
        const USUAL: [&str; 4] = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        self.get("SSL_CERT_FILE")
            .map(PathBuf::from)
            .into_iter()
            .chain(USUAL.iter().map(PathBuf::from))
            .find(|path| path.is_file())
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        Self {
            variables: variables.into_iter().collect(),
        }
    }
}
