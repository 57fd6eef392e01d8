//! The folder of one server: its lock and its store.
//!
//! `STATE/server/SCOPE/{lock,store.sqlite…}`. The folder belongs to the user
//! that the server becomes. Who holds the lock is the scope's server; the
//! kernel releases it however that process ends.
//!
//! The state folder may lie where that user cannot go (a home directory, say).
//! So the server sees its own folder through a mount at `RUN/store`, in a mount
//! namespace of its own; nothing of that is seen outside, and it goes with the
//! process.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{
            DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
            lchown,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat},
    mount::{MountPropagationFlags, mount_bind, mount_change},
};

use crate::{config::Server, failure::Failure};

/// The store's file.
const STORE: &str = "store.sqlite";
/// The lock's file.
const LOCK: &str = "lock";
/// Marks folders whose store has no worth after its server.
const EPHEMERAL: &str = "ephemeral";
/// How often to look for the lock's file again when it is removed underneath us.
const LOCK_TRIES_MAX: u32 = 16;

/// A scope that this process owns.
#[derive(Debug)]
pub(super) struct Scope {
    name: String,
    /// The folder of all scopes; a descriptor, since its path may be closed to us later.
    all: OwnedFd,
    /// The scope's own folder.
    folder: PathBuf,
    /// Held as long as the process lives.
    lock: File,
}

impl Scope {
    /// Makes the folders and takes the lock.
    pub(super) fn prepare(server: &Server) -> Result<Self, Failure> {
        let id = server.user.id();
        folder(&server.state_dir, 0o711, 0)?;
        folder(&server.run_dir, 0o711, 0)?;
        let all = server.state_dir.join("server");
        // Group-writable and sticky: a server may remove its own folder at its
        // end, after it gave up root, and nobody else's.
        folder(&all, 0o1771, id)?;
        sweep(&all);
        let own = all.join(&server.scope);
        let lock = take(&own, id, &server.scope)?;
        hand_over(&own, id, server.delete_on_shutdown)?;
        Ok(Self {
            name: server.scope.clone(),
            all: open_folder(CWD, &all).map_err(Failure::to(all.display()))?,
            folder: own,
            lock,
        })
    }

    /// Shows the scope's folder at `RUN/store`, to this process and its later
    /// children only, and returns the path of the store there.
    pub(super) fn show(&self, run_dir: &Path) -> Result<PathBuf, Failure> {
        let place = run_dir.join("store");
        folder(&place, 0o711, 0)?;
        let failed = |step: &str| {
            Failure::to::<io::Error>(format!(
                "cannot show {} at {}: {step}",
                self.folder.display(),
                place.display()
            ))
        };
        sys::namespace::unshare_mount().map_err(failed("a mount namespace"))?;
        // Mounts made on the host later are still seen here, never the other way round.
        mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .map_err(|error| failed("making mounts private")(error.into()))?;
        mount_bind(&self.folder, &place).map_err(|error| failed("mounting")(error.into()))?;
        Ok(place.join(STORE))
    }

    /// Removes the folder of a server whose sandboxes ended with it.
    pub(super) fn remove(self) {
        if let Err(error) = remove_scope(&self.all, &self.name) {
            tracing::info!(%error, scope = self.name, "its folder is left for the next server to remove");
        }
        drop(self.lock);
    }
}

/// Everything in the folder belongs to the server's user, also after that was changed.
fn hand_over(own: &Path, id: u32, ephemeral: bool) -> Result<(), Failure> {
    let failed = || Failure::to::<io::Error>(format!("cannot prepare {}", own.display()));
    let mark = own.join(EPHEMERAL);
    if ephemeral {
        File::create(&mark).map_err(failed())?;
    } else if let Err(error) = fs::remove_file(&mark)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed()(error));
    }
    for entry in fs::read_dir(own).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        lchown(&path, Some(id), Some(id)).map_err(failed())?;
    }
    lchown(own, Some(id), Some(id)).map_err(failed())
}

/// Makes a folder or checks that the one that is there is ours.
fn folder(path: &Path, mode: u32, gid: u32) -> Result<(), Failure> {
    let failed =
        || Failure::to::<io::Error>(format!("cannot prepare the folder {}", path.display()));
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(failed())?;
    let found = fs::symlink_metadata(path).map_err(failed())?;
    if !found.is_dir() || found.uid() != 0 {
        return Err(Failure::general(format!(
            "{} must be a folder that belongs to root",
            path.display()
        ))
        .hint("choose another folder with `server.state_dir` or `server.run_dir`"));
    }
    chown(path, Some(0), Some(gid)).map_err(failed())?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed())
}

/// Takes the lock of the scope, making its folder if need be.
fn take(own: &Path, id: u32, scope: &str) -> Result<File, Failure> {
    let failed = || Failure::to::<io::Error>(format!("cannot lock {}", own.display()));
    for _ in 0..LOCK_TRIES_MAX {
        match DirBuilder::new().mode(0o700).create(own) {
            Ok(()) => chown(own, Some(id), Some(id)).map_err(failed())?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed()(error)),
        }
        let path = own.join(LOCK);
        let file = match open_lock(&path) {
            Ok(file) => file,
            // The last owner has just removed the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed()(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::general(format!(
                    "another server has the scope {scope:?} of {}",
                    own.parent().unwrap_or(own).display()
                ))
                .hint("stop it, or give this one a scope of its own with --scope"));
            }
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
        }
        if is_same_file(&file, &path) {
            return Ok(file);
        }
    }
    Err(Failure::general(format!(
        "cannot lock {}: it is removed again and again",
        own.display()
    )))
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(nofollow())
        .open(path)
}

fn nofollow() -> i32 {
    i32::try_from(OFlags::NOFOLLOW.bits()).expect("open flags fit an int")
}

/// Whether the file that we locked is still the one with this name.
fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Removes what ephemeral servers left that were killed.
fn sweep(all: &Path) {
    let Ok(entries) = fs::read_dir(all) else {
        return;
    };
    for entry in entries.flatten() {
        let own = entry.path();
        if !own.join(EPHEMERAL).exists() {
            continue;
        }
        // Without `create`: a folder that is being removed must stay empty.
        let Ok(lock) = OpenOptions::new()
            .write(true)
            .custom_flags(nofollow())
            .open(own.join(LOCK))
        else {
            continue;
        };
        if lock.try_lock().is_err() || !is_same_file(&lock, &own.join(LOCK)) {
            continue;
        }
        let removed = open_folder(CWD, all)
            .and_then(|all| remove_scope(&all, &entry.file_name().to_string_lossy()));
        if let Err(error) = removed {
            tracing::info!(%error, folder = %own.display(), "cannot remove the folder of a server that is gone");
        }
    }
}

fn open_folder(
    parent: impl std::os::fd::AsFd,
    path: impl rustix::path::Arg,
) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, path, flags, Mode::empty())?)
}

/// Removes a scope's folder, which holds files only; the lock goes last.
fn remove_scope(all: &OwnedFd, scope: &str) -> io::Result<()> {
    let own = open_folder(all, scope)?;
    for entry in Dir::read_from(&own)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") && name.to_bytes() != LOCK.as_bytes() {
            sys::tree::remove(&own, name)?;
        }
    }
    unlinkat(&own, LOCK, AtFlags::empty())?;
    Ok(unlinkat(all, scope, AtFlags::REMOVEDIR)?)
}
