//! Which runtime makes the sandboxes: chosen while the process is root and has
//! one thread, started when it is neither.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc};

use runtime_docker::{Docker, Guard};
use runtime_embedded::{Embedded, Spawner, SpawnerProgram};
use rustix::process::Gid;
use sandbox::Runtime;

use super::SPAWNER_COMMAND;
use crate::{
    agent::AGENT,
    config::{Config, RuntimeChoice},
    failure::Failure,
};

/// A runtime that is ready to be started.
pub(super) enum Prepared {
    /// Namespaces; the spawner is there.
    Embedded(Box<runtime_embedded::Config>, Spawner),
    /// A Docker-compatible engine; the agent's program is where it can be mounted from.
    Docker(Box<runtime_docker::Config>),
}

impl Prepared {
    /// Does what needs root.
    ///
    /// # Errors
    /// What this machine lacks.
    pub(super) fn new(config: &Config) -> Result<Self, Failure> {
        match config.runtime {
            RuntimeChoice::Embedded => {
                let embedded = embedded_config(config);
                let spawner = Spawner::launch(&embedded).map_err(|error| {
                    Failure::from(sandbox::Error::from(error))
                        .hint("`sandboxai doctor` tells what this machine lacks")
                })?;
                Ok(Self::Embedded(Box::new(embedded), spawner))
            }
            RuntimeChoice::Docker => {
                let docker = runtime_docker::Config {
                    guard: guard(config),
                    ..docker_config(config)
                };
                runtime_docker::put_agent(&docker)?;
                Ok(Self::Docker(Box::new(docker)))
            }
        }
    }

    /// Groups that the server keeps when it gives up root: that of the engine's socket.
    pub(super) fn groups(&self) -> Result<Vec<Gid>, Failure> {
        let Self::Docker(config) = self else {
            return Ok(Vec::new());
        };
        let Some(path) = config.host.strip_prefix("unix://") else {
            return Ok(Vec::new());
        };
        let metadata = std::fs::metadata(path).map_err(|error| {
            Failure::general(format!("docker.host: {path}: {error}"))
                .hint("is the engine running? `systemctl status docker` tells")
        })?;
        Ok(vec![Gid::from_raw(metadata.gid())])
    }

    /// Takes over what the runtime has and gets ready to make more.
    pub(super) async fn start(self) -> Result<Arc<dyn Runtime>, Failure> {
        Ok(match self {
            Self::Embedded(config, spawner) => Arc::new(Embedded::start(*config, spawner).await?),
            Self::Docker(config) => Arc::new(Docker::start(*config).await?),
        })
    }
}

/// The embedded runtime's configuration, also for commands that look at its
/// state without a server.
#[must_use]
pub fn embedded_config(config: &Config) -> runtime_embedded::Config {
    let mut network = config.network.clone();
    network.lock_dir.clone_from(&config.server.run_dir);
    runtime_embedded::Config {
        state_dir: config.server.state_dir.clone(),
        run_dir: config.server.run_dir.clone(),
        scope: config.server.scope.clone(),
        ephemeral: config.server.delete_on_shutdown,
        json_log: config.log.json,
        server_uid: config.server.user.id(),
        server_gid: config.server.user.id(),
        network,
        ca_certificates: config.ca_certificates.clone(),
        agent: AGENT,
        spawner: SpawnerProgram {
            // Not the path: the file may be replaced by an update meanwhile.
            program: PathBuf::from("/proc/self/exe"),
            args: vec![SPAWNER_COMMAND.to_owned()],
        },
    }
}

/// Limits what is reached from the engine's network, as for sandboxes of namespaces.
fn guard(config: &Config) -> Guard {
    if !config.docker.network_guard {
        return Guard::Off;
    }
    let network = embedded_config(config).network;
    match runtime_embedded::network::guard_bridge(&network, runtime_docker::BRIDGE) {
        Ok(()) => Guard::Set,
        Err(error) => Guard::Failed(error.to_string()),
    }
}

/// The Docker runtime's configuration, also for commands that look at its engine
/// without a server; without a guard, which only a server sets.
#[must_use]
pub fn docker_config(config: &Config) -> runtime_docker::Config {
    runtime_docker::Config {
        guard: Guard::Off,
        host: config.docker.host.clone(),
        scope: config.server.scope.clone(),
        run_dir: config.server.run_dir.clone(),
        agent: AGENT,
        oci_runtime: config.docker.oci_runtime.clone(),
        runtime_classes: config.docker.runtime_classes.clone(),
        seccomp_profile: config.docker.seccomp_profile.clone(),
    }
}
