//! The kernel's files about this host; those of a folder in tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where `/proc` and `/sys` are looked for.
#[derive(Clone, Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    /// This host.
    pub(super) fn this() -> Self {
        Self::at(Path::new("/"))
    }

    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The place of a file, given without a slash in front.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// The text of a file; none when it cannot be read.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path(file)).ok()
    }

    /// The number that a file holds.
    pub(super) fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    /// A setting of the kernel by its name, e.g. `kernel.pid_max`.
    pub(super) fn setting(&self, name: &str) -> Option<u64> {
        self.number(&format!("proc/sys/{}", name.replace('.', "/")))
    }
}

/// How a setting is changed, now and for the next start of the host.
pub(super) fn set(name: &str, value: u64) -> String {
    format!(
        "`sysctl -w {name}={value}`, and for the next boot `echo {name}={value} >> /etc/sysctl.d/60-sandboxai.conf`"
    )
}

/// A host that is a folder.
#[cfg(test)]
pub(super) mod mock {
    use super::*;

    /// A folder with these files in it.
    pub(in crate::doctor) fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::at(folder.path());
        (folder, host)
    }
}
