//! Every file and folder of a tree, each folder before what is in it.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2,
};

use crate::error::{At as _, Error, Step};

/// Longest path below the root, bytes: one that can still be looked up in one
/// call, so that no number of descriptors depends on the tree.
pub(super) const PATH_BYTES_MAX: usize = 4095;
/// Names in one tree.
const NAMES_MAX: u64 = 4_000_000;
/// Paths of folders that are still to be walked, bytes in all.
const PENDING_BYTES_MAX: usize = 256 << 20;
/// How long a walk with all that is done on the way may take.
const TIME_MAX: Duration = Duration::from_secs(25 * 60);

/// One name in the tree.
pub(super) struct Node<'a> {
    /// Its folder.
    pub(super) parent: &'a OwnedFd,
    pub(super) name: &'a [u8],
    /// Relative to the root; empty for the root itself.
    pub(super) path: &'a [u8],
    pub(super) stat: Stat,
}

impl Node<'_> {
    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens it for reading, if it is still the file or folder that was seen.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        // Should it be something else by now, opening it neither waits nor acts.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = openat(self.parent, self.name, flags, Mode::empty())?;
        let now = fstat(&open)?;
        if (now.st_dev, now.st_ino) == (self.stat.st_dev, self.stat.st_ino) {
            Ok(open)
        } else {
            Err(io::Error::other("it changed while it was looked at"))
        }
    }

    /// The path for people.
    pub(super) fn shown(&self) -> String {
        shown(self.path)
    }
}

/// A path for people.
pub(super) fn shown(path: &[u8]) -> String {
    /// Characters of a path in a message.
    const CHARS_MAX: usize = 200;
    let text = String::from_utf8_lossy(path);
    format!("/{:?}", text.chars().take(CHARS_MAX).collect::<String>())
}

/// Opens a folder below `root`; an empty path is the root itself.
pub(super) fn open_below(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// Visits the root and everything below it. `step` is what it is done for.
///
/// # Errors
/// The first error of the visitor or of looking, or that the tree is too large.
pub(super) fn walk(
    root: &OwnedFd,
    step: Step,
    mut visit: impl FnMut(&Node<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let end = Instant::now() + TIME_MAX;
    visit(&Node {
        parent: root,
        name: b".",
        path: b"",
        stat: fstat(root).at(step, "its files")?,
    })?;
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    let mut pending_bytes = 0;
    let mut names = 0;
    while let Some(path) = pending.pop() {
        pending_bytes -= path.len();
        let folder = open_below(root, &path).at(step, shown(&path))?;
        for item in Dir::read_from(&folder).at(step, shown(&path))? {
            let item = item.at(step, shown(&path))?;
            let name = item.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = joined(&path, name);
            names += 1;
            if names > NAMES_MAX || path.len() > PATH_BYTES_MAX {
                return Err(too_large()).at(step, shown(&path));
            }
            if Instant::now() > end {
                return Err(io::Error::from(io::ErrorKind::TimedOut)).at(step, shown(&path));
            }
            let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .at(step, shown(&path))?;
            let node = Node {
                parent: &folder,
                name,
                path: &path,
                stat,
            };
            visit(&node)?;
            if node.file_type() == FileType::Directory {
                pending_bytes += path.len();
                if pending_bytes > PENDING_BYTES_MAX {
                    return Err(too_large()).at(step, shown(&path));
                }
                pending.push(path);
            }
        }
    }
    Ok(())
}

fn too_large() -> io::Error {
    io::Error::other(format!(
        "the sandbox has more than {NAMES_MAX} files, or paths longer than {PATH_BYTES_MAX} bytes"
    ))
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
