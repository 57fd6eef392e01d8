//! Folders for work in progress, owned by a lock so that leftovers are known.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};

use super::ImageError;

/// A fresh private folder that disappears with this value, or, when the process
/// is killed first, at the next [`sweep`].
#[derive(Debug)]
pub(super) struct Workspace {
    tmp: PathBuf,
    name: String,
    lock: File,
}

const LOCK_FILE: &str = "lock";

impl Workspace {
    /// A new folder below `tmp`. The caller holds the store's lock, so that no
    /// [`sweep`] sees the folder before its lock is taken.
    pub(super) fn create(tmp: &Path) -> Result<Self, ImageError> {
        let name = sandbox::Id::random()?.to_string();
        let path = tmp.join(&name);
        rustix::fs::mkdirat(CWD, &path, Mode::RWXU)
            .map_err(|errno| ImageError::store("create the folder", &path)(errno.into()))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(ImageError::store("create the lock", &lock_path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| ImageError::store("take the lock", &lock_path)(errno.into()))?;
        Ok(Self {
            tmp: tmp.to_owned(),
            name,
            lock,
        })
    }

    /// Where a file of this name is to be.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.tmp.join(&self.name).join(name)
    }

    /// The lock as the standard input of a child: the folder then counts as in
    /// use until the child has ended too, also when we are killed.
    pub(super) fn lock(&self) -> Result<File, ImageError> {
        self.lock
            .try_clone()
            .map_err(ImageError::store("pass on the lock", self.path(LOCK_FILE)))
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next sweep.
        if let Err(error) = remove(&self.tmp, &self.name) {
            tracing::warn!(folder = %self.tmp.join(&self.name).display(), %error, "leave a folder to the next sweep");
        }
    }
}

/// Removes the folders of processes that are gone. The caller holds the store's lock.
pub(super) fn sweep(tmp: &Path) -> Result<(), ImageError> {
    let entries = std::fs::read_dir(tmp).map_err(ImageError::store("list the folder", tmp))?;
    for entry in entries {
        let entry = entry.map_err(ImageError::store("list the folder", tmp))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let lock = File::open(entry.path().join(LOCK_FILE));
        let in_use = lock.is_ok_and(|lock| {
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
        });
        if !in_use && let Err(error) = remove(tmp, &name) {
            tracing::warn!(folder = %entry.path().display(), %error, "cannot remove a leftover");
        }
    }
    Ok(())
}

/// Removes the tree `name` below the folder, however deep it is.
fn remove(folder: &Path, name: &str) -> Result<(), ImageError> {
    let directory = rustix::fs::openat(
        CWD,
        folder,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| ImageError::store("open the folder", folder)(errno.into()))?;
    let component = std::ffi::CString::new(name)
        .map_err(|error| ImageError::store("remove the folder", folder.join(name))(error.into()))?;
    sys::tree::remove(&directory, &component)
        .map_err(ImageError::store("remove the folder", folder.join(name)))
}
