//! Where things lie on the host: the only place that knows the names.
//!
//! ```text
//! <state>/sandboxes/<id>/        0700 root; its lock is the sandbox's lock
//!             record.json        what was made
//!             upper/  work/      the writable layer
//!             pack.tar.zst       what was in it, of an archived sandbox
//! <state>/trash/<id>/            files of removed sandboxes on their way out
//! <state>/certificates/<digest>/ layers with the operator's certificates
//! <run>/agents/<id>.sock         the agent's socket, for the server only
//! <host>/slots/<number>          which sandbox has the slot
//! ```

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Config,
    error::{At as _, Error, Step},
};

/// What servers share unless they are told otherwise.
const DEFAULT_HOST_FOLDER: &str = "/run/sandboxai";
/// Name of the record in a sandbox's folder.
pub(crate) const RECORD: &str = "record.json";
/// The writable layer in a sandbox's folder.
pub(crate) const UPPER: &str = "upper";
/// The packed writable layer in the folder of an archived sandbox.
pub(crate) const PACK: &str = "pack.tar.zst";
/// Overlayfs's own folder beside it.
pub(crate) const WORK: &str = "work";

/// The folders of one server.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    state: PathBuf,
    run: PathBuf,
    host: PathBuf,
}

impl Layout {
    /// `host` is the one folder that all servers of the host share.
    pub(crate) fn new(state: &Path, run: &Path, host: &Path) -> Self {
        Self {
            state: state.to_owned(),
            run: run.to_owned(),
            host: host.to_owned(),
        }
    }

    pub(crate) fn of(config: &Config) -> Self {
        Self::new(&config.state_dir, &config.run_dir, &config.network.lock_dir)
    }

    /// The control group of all sandboxes that share the host's folder. Servers
    /// with another such folder, as in tests, do not see each other's groups.
    pub(crate) fn cgroup_root(&self) -> String {
        const NAME: &str = "sandboxai";
        if self.host == Path::new(DEFAULT_HOST_FOLDER) {
            return NAME.to_owned();
        }
        let digest = Sha256::digest(self.host.as_os_str().as_bytes());
        let [a, b, c, d, ..] = <[u8; 32]>::from(digest);
        format!("{NAME}-{a:02x}{b:02x}{c:02x}{d:02x}")
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.state.join("trash")
    }

    pub(crate) fn certificates(&self) -> PathBuf {
        self.state.join("certificates")
    }

    pub(crate) fn slots(&self) -> PathBuf {
        self.host.join("slots")
    }

    pub(crate) fn agents(&self) -> PathBuf {
        self.run.join("agents")
    }

    pub(crate) fn socket(&self, id: &str) -> PathBuf {
        self.agents().join(format!("{id}.sock"))
    }

    /// Makes all folders, with the permissions that keep other users out.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        // Others may pass through to what is theirs: the server to the sockets.
        for (folder, mode) in [
            (self.state.clone(), 0o755),
            (self.sandboxes(), 0o700),
            (self.trash(), 0o700),
            (self.certificates(), 0o755),
            (self.run.clone(), 0o755),
            (self.host.clone(), 0o755),
            (self.slots(), 0o700),
            (self.agents(), 0o711),
        ] {
            make_folder(&folder, mode).at(Step::MakeFolder, folder.display())?;
        }
        Ok(())
    }
}

/// Makes the folder and its parents. The mode of one that exists is only
/// changed where nobody else may enter.
fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)?;
    if mode != 0o755 {
        fs::set_permissions(folder, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Opens a folder, not through a symbolic link.
pub(crate) fn open_folder(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_that_share_a_folder_share_control_groups() {
        let root = |host: &str| {
            Layout::new(Path::new("/s"), Path::new("/r"), Path::new(host)).cgroup_root()
        };
        assert_eq!(root(DEFAULT_HOST_FOLDER), "sandboxai");
        assert_ne!(root("/tmp/one"), root("/tmp/two"));
        assert!(root("/tmp/one").starts_with("sandboxai-"));
    }
}
