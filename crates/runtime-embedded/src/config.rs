//! What the runtime needs to know from its operator.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::network::NetworkConfig;

/// How sandboxes are made on this host.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where images and the files of sandboxes are kept; owned by root.
    pub state_dir: PathBuf,
    /// What does not outlive a restart of the host: the sockets of agents. What
    /// servers on one host must share lies in [`NetworkConfig::lock_dir`].
    pub run_dir: PathBuf,
    /// Whose sandboxes these are; servers with other scopes neither see nor touch them.
    pub scope: String,
    /// Whether the sandboxes of the scope end with the server, however it ends.
    pub ephemeral: bool,
    /// Whether the spawner writes its complaints as JSON.
    pub json_log: bool,
    /// The user that the server runs as, who may connect to agents.
    pub server_uid: u32,
    /// The group that the server runs as.
    pub server_gid: u32,
    /// How sandboxes are connected.
    pub network: NetworkConfig,
    /// Certificates (PEM) that take the place of every image's own bundle, for
    /// hosts behind a proxy that opens TLS.
    pub ca_certificates: Option<PathBuf>,
    /// The static program that is the first process of each sandbox; see [`crate::init_contract`].
    pub agent: &'static [u8],
    /// How to start the spawner.
    pub spawner: SpawnerProgram,
}

/// The command whose body is [`crate::spawner_main`].
#[derive(Clone, Debug)]
pub struct SpawnerProgram {
    /// The program, usually `/proc/self/exe`.
    pub program: PathBuf,
    /// Its arguments, usually the name of a hidden subcommand.
    pub args: Vec<String>,
}

/// The part of [`Config`] that the spawner gets as its first message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SpawnerConfig {
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) scope: String,
    pub(crate) ephemeral: bool,
    pub(crate) json_log: bool,
    pub(crate) server_uid: u32,
    pub(crate) server_gid: u32,
    pub(crate) network: NetworkConfig,
    pub(crate) ca_certificates: Option<PathBuf>,
}

impl From<&Config> for SpawnerConfig {
    fn from(config: &Config) -> Self {
        Self {
            state_dir: config.state_dir.clone(),
            run_dir: config.run_dir.clone(),
            scope: config.scope.clone(),
            ephemeral: config.ephemeral,
            json_log: config.json_log,
            server_uid: config.server_uid,
            server_gid: config.server_gid,
            network: config.network.clone(),
            ca_certificates: config.ca_certificates.clone(),
        }
    }
}
