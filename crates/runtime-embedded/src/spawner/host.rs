//! What every worker needs to know, found out once.

use std::{fs, io::Read as _, os::fd::OwnedFd};

use crate::{
    cgroup::{self, Cgroups},
    config::SpawnerConfig,
    error::{At as _, Error, Step},
    layout::Layout,
    network,
    process::{Identity, boot_id},
    seccomp::Filter,
    slot::Slots,
};

/// Largest certificate bundle, bytes; the usual ones have 200 KiB.
const CERTIFICATES_BYTES_MAX: u64 = 8 << 20;

/// The host, as the spawner of one server sees it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) config: SpawnerConfig,
    pub(super) layout: Layout,
    pub(super) cgroups: Box<dyn Cgroups>,
    pub(super) filter: Filter,
    pub(super) slots: Slots,
    /// The agent, sealed.
    pub(super) agent: OwnedFd,
    pub(super) boot_id: String,
    pub(super) spawner: Identity,
    pub(super) server: Identity,
}

impl Host {
    /// Prepares folders, control groups and the firewall.
    pub(super) fn new(config: SpawnerConfig, agent: OwnedFd) -> Result<Self, Error> {
        let layout = Layout::new(&config.state_dir, &config.run_dir, &config.network.lock_dir);
        layout.prepare()?;
        let cgroups = cgroup::discover(&layout.cgroup_root())?;
        cgroups.prepare()?;
        // A host without a firewall has sandboxes without a network; the creation of
        // any other says what is missing.
        if network::capability().is_ok()
            && let Err(error) = network::prepare(&config.network)
        {
            super::complain(&error);
        }
        Ok(Self {
            slots: Slots::new(&layout),
            cgroups,
            filter: Filter::compile()?,
            agent,
            boot_id: boot_id().at(Step::LaunchSpawner, "the boot id")?,
            spawner: Identity::own().at(Step::LaunchSpawner, "its own identity")?,
            server: super::server_identity().at(Step::LaunchSpawner, "the server's identity")?,
            layout,
            config,
        })
    }

    /// The operator's certificates, as they are now.
    pub(super) fn ca_certificates(&self) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = &self.config.ca_certificates else {
            return Ok(None);
        };
        let mut bundle = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(CERTIFICATES_BYTES_MAX).read_to_end(&mut bundle))
            .at(Step::ReadCertificates, path.display())?;
        Ok(Some(bundle))
    }
}
