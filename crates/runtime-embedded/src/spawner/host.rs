//! What every worker needs to know, found out once.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, Permissions},
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{
    cgroup::{self, Cgroups},
    config::SpawnerConfig,
    error::{At as _, Error, Step},
    layout::{Layout, open_folder},
    network,
    plan::CA_BUNDLE,
    process::{Identity, boot_id},
    seccomp::Filter,
    slot::{Holder, Slots},
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
    /// A layer with the operator's certificates in it.
    pub(super) ca_layer: Option<PathBuf>,
}

impl Host {
    /// Who has the slot of sandbox `id`.
    pub(super) fn holder(&self, id: &str) -> Holder {
        Holder {
            id: id.to_owned(),
            state_dir: self.layout.state().to_owned(),
            spawner: self.spawner,
        }
    }

    /// Prepares folders, control groups and the firewall.
    pub(super) fn new(mut config: SpawnerConfig, agent: OwnedFd) -> Result<Self, Error> {
        let layout = Layout::new(&config.state_dir, &config.run_dir, &config.network.lock_dir);
        layout.prepare()?;
        // Layers are opened without following links, so the way to them must have none.
        config.state_dir =
            fs::canonicalize(&config.state_dir).at(Step::MakeFolder, config.state_dir.display())?;
        let layout = Layout::new(&config.state_dir, &config.run_dir, &config.network.lock_dir);
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
            ca_layer: config
                .ca_certificates
                .as_deref()
                .map(|bundle| ca_layer(&layout, bundle))
                .transpose()?,
            layout,
            config,
        })
    }
}

/// Puts the operator's certificates, as they are now, into a layer of their own, which
/// all sandboxes share. Its name is that of its content, so it never changes.
fn ca_layer(layout: &Layout, bundle: &Path) -> Result<PathBuf, Error> {
    let mut content = Vec::new();
    fs::File::open(bundle)
        .and_then(|file| file.take(CERTIFICATES_BYTES_MAX).read_to_end(&mut content))
        .at(Step::ReadCertificates, bundle.display())?;
    let digest: String = Sha256::digest(&content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let layer = layout.certificates().join(digest);
    if layer.exists() {
        return Ok(layer);
    }
    // Another server may make the same one: whoever renames first has made it.
    let draft_name = format!("new-{}", std::process::id());
    let draft = layout.certificates().join(&draft_name);
    let make = || -> io::Result<()> {
        let file = draft.join(CA_BUNDLE.trim_start_matches('/'));
        let folder = file.parent().unwrap_or(&draft);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
        fs::write(&file, &content)?;
        fs::set_permissions(&file, Permissions::from_mode(0o644))?;
        match fs::rename(&draft, &layer) {
            Err(_) if layer.exists() => {
                let certificates = open_folder(&layout.certificates())?;
                sys::tree::remove(certificates, &CString::new(draft_name.as_str())?)
            }
            result => result,
        }
    };
    make().at(Step::ReadCertificates, layer.display())?;
    Ok(layer)
}
