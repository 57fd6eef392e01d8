//! Configuration: one file, the environment and flags, from weak to strong.
//!
//! [`table`] lists every key. `raw` reads the sources and knows only names,
//! `check` turns texts into typed values, [`explain`] shows the result. No
//! other part of the program reads the environment.

mod check;
mod env;
pub mod explain;
pub mod parse;
mod raw;
mod secret;
pub mod table;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use runtime_embedded::network::NetworkConfig;
use sandbox::{Image, Limits, RuntimeClass};

pub use env::{DEFAULT_FILE, Environment};
pub use raw::{FlagValue, Given, Origin, Raw, Sources, Value};
pub use secret::Secret;

/// As which user the server runs after its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Keep root.
    Root,
    /// This user and group id.
    Id(u32),
}

impl User {
    /// The number.
    #[must_use]
    pub fn id(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Id(id) => id,
        }
    }
}

/// Section `server`.
#[derive(Clone, Debug)]
pub struct Server {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Which sandboxes are this server's.
    pub scope: String,
    /// Whether sandboxes end with the server.
    pub delete_on_shutdown: bool,
    /// Whether the server ends with its client; `None` when nobody said.
    pub exit_with_client: Option<bool>,
    /// User of the server after its start.
    pub user: User,
    /// Images, sandboxes, store.
    pub state_dir: PathBuf,
    /// Sockets and locks.
    pub run_dir: PathBuf,
    /// Keys that requests must carry; none needed when empty.
    pub api_keys: Vec<Secret>,
    /// Host names accepted besides `localhost` and addresses, in lower case.
    pub allowed_hosts: Vec<String>,
    /// Proxies whose word about the caller counts.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections served at once.
    pub connections_max: usize,
    /// Time for the head of a request.
    pub header_timeout: Duration,
    /// Time for running requests at shutdown.
    pub shutdown_grace: Duration,
}

/// Which runtime makes the sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// Namespaces of this machine.
    Embedded,
    /// A Docker-compatible engine.
    Docker,
}

/// Section `docker`.
#[derive(Clone, Debug)]
pub struct DockerEngine {
    /// Where the engine listens.
    pub host: String,
    /// OCI runtime of the containers; the engine's default when absent.
    pub oci_runtime: Option<RuntimeClass>,
    /// OCI runtimes that requests may choose.
    pub runtime_classes: Vec<RuntimeClass>,
    /// Seccomp profile; the engine's own when absent.
    pub seccomp_profile: Option<PathBuf>,
    /// Limit what sandboxes reach by rules of this host's firewall.
    pub network_guard: bool,
}

/// Section `rollout`, where there is an upstream.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// URL of the upstream's API.
    pub upstream_url: String,
    /// Key at the upstream.
    pub upstream_key: Secret,
    /// CA certificates that the upstream may have besides the machine's.
    pub ca_certificates: Option<PathBuf>,
    /// The share of new sandboxes that is made here until it is changed.
    pub share: facade_daytona::rollout::Share,
    /// Label by whose value new sandboxes are divided.
    pub sticky_label: String,
    /// Whether what fails here is made at the upstream.
    pub fallback: bool,
    /// How far back failures and durations count.
    pub window: Duration,
    /// What makes the share 0.
    pub limits: facade_daytona::rollout::Limits,
}

/// Section `log`.
#[derive(Clone, Debug)]
pub struct Log {
    /// One JSON object per line instead of text.
    pub json: bool,
    /// Filter in the syntax of `tracing`.
    pub level: String,
}

/// The whole configuration, valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Section `server`.
    pub server: Server,
    /// What makes the sandboxes.
    pub runtime: RuntimeChoice,
    /// Section `docker`.
    pub docker: DockerEngine,
    /// Section `sandbox`.
    pub defaults: control::Defaults,
    /// CA certificates for sandboxes and image builds.
    pub ca_certificates: Option<PathBuf>,
    /// What a request may ask for at most.
    pub limits_max: Limits,
    /// Sandboxes at once.
    pub sandboxes_max: usize,
    /// Creations at once.
    pub creations_at_once: usize,
    /// Time for a creation.
    pub create_timeout: Duration,
    /// How long tombstones answer.
    pub tombstone_ttl: Duration,
    /// Output of one command in one answer, bytes.
    pub output_bytes_max: usize,
    /// Other names of images.
    pub image_aliases: BTreeMap<String, Image>,
    /// Whether anything is fetched for images.
    pub fetch_images: bool,
    /// Who to be at which registry: user and password.
    pub registry_credentials: BTreeMap<String, (String, Secret)>,
    /// Section `network`.
    pub network: NetworkConfig,
    /// Which URLs ports have.
    pub links: facade_daytona::preview_url::Links,
    /// Section `preview`, the rest.
    pub preview: crate::preview::PreviewConfig,
    /// Section `rollout`; absent without an upstream.
    pub rollout: Option<Rollout>,
    /// Section `log`.
    pub log: Log,
}

/// One thing that is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    ReadFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not valid TOML: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A name that is not in the table.
    #[error("{origin}: unknown configuration key `{name}`{}", did_you_mean(suggestion.as_deref()))]
    Unknown {
        /// The name.
        name: String,
        /// Where it is.
        origin: Origin,
        /// A name that looks like it.
        suggestion: Option<String>,
    },
    /// A value that does not fit its key.
    #[error("{origin}: `{key}`{}: {problem}; expected {form}", shown(value))]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value; empty when it must not be shown.
        value: String,
        /// Where it is.
        origin: Origin,
        /// What is wrong.
        problem: String,
        /// What would be right.
        form: String,
    },
    /// Values that do not fit together.
    #[error("{origin}: `{key}`: {problem}")]
    Conflict {
        /// The key to change.
        key: &'static str,
        /// Where its value is from.
        origin: Origin,
        /// What is wrong and what to do.
        problem: String,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(
        || "; `sandboxai config --explain` lists all keys".to_owned(),
        |name| format!("; did you mean `{name}`?"),
    )
}

fn shown(value: &str) -> String {
    if value.is_empty() {
        String::new()
    } else {
        format!(" = {value:?}")
    }
}

/// Everything that is wrong with the configuration, at least one thing.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\nerror: ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(sources: &Sources) -> Result<(Self, Raw), Problems> {
        let mut problems = Vec::new();
        let raw = Raw::read(sources, &mut problems);
        let environment: Environment = sources.environment.clone().into_iter().collect();
        let config = check::check(&raw, &environment, &mut problems);
        if problems.is_empty() {
            Ok((config, raw))
        } else {
            Err(Problems(problems))
        }
    }

    /// The address to listen on.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.server.host, self.server.port)
    }
}

/// The address of this machine's own server, for its clients.
///
/// Clients may not be allowed to read everything that a server must (its file
/// of keys, say), so nothing but the address is checked here.
///
/// # Errors
/// What is wrong with the address.
pub fn client_url(sources: &Sources) -> Result<String, Problems> {
    let raw = Raw::read(sources, &mut Vec::new());
    let mut problems = Vec::new();
    let (host, port) = check::address_of(&raw, &mut problems);
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let host = match host {
        // A server that listens everywhere is here, too.
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        host => host,
    };
    Ok(format!("http://{}", SocketAddr::new(host, port)))
}
