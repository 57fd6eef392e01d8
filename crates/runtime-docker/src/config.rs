//! How the runtime behaves; validated by `server::config`.

use std::path::PathBuf;

use sandbox::RuntimeClass;

/// Configuration of the runtime.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the engine listens, e.g. `unix:///var/run/docker.sock`.
    pub host: String,
    /// Which containers are ours.
    pub scope: String,
    /// Folder on the engine's machine where the agent's program is put.
    pub run_dir: PathBuf,
    /// The agent, a static program.
    pub agent: &'static [u8],
    /// OCI runtime of the containers, e.g. `runsc` or `kata`; the engine's default when absent.
    pub oci_runtime: Option<RuntimeClass>,
    /// OCI runtimes that a sandbox may have instead, by its runtime class.
    pub runtime_classes: Vec<RuntimeClass>,
    /// A seccomp profile in the engine's JSON format; the engine's own when absent.
    pub seccomp_profile: Option<PathBuf>,
    /// What limits what sandboxes in mode `open` reach.
    pub guard: Guard,
}

/// Rules of the host's firewall for the bridge [`crate::BRIDGE`], made by whoever
/// starts the runtime: it takes rights that the runtime has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// They are there.
    Set,
    /// They could not be made, and why.
    Failed(String),
    /// Nobody wants them: the engine's network decides.
    Off,
}
