//! One place below the root of a layer: looked at, cleared, opened, by
//! descriptors and without following any link.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags},
    io::Errno,
};

use super::{
    ImageError,
    entry_path::{refused, shown},
    tar_stream::Entry,
};

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// What already has the name of a new entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Nothing,
    Folder,
    Whiteout,
    Other,
}

/// Opens the folder `path` below `from`; an empty path is `from` itself.
pub(super) fn resolve(from: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    rustix::fs::openat2(
        from,
        path,
        FOLDER,
        Mode::empty(),
        ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV,
    )
}

/// [`resolve`] with an error that names the entry.
pub(super) fn open_beneath(
    from: &OwnedFd,
    path: &[u8],
    entry: &Entry,
) -> Result<OwnedFd, ImageError> {
    resolve(from, path).map_err(|errno| parent_error(errno, entry))
}

/// What is wrong with a folder on the entry's way.
pub(super) fn parent_error(errno: Errno, entry: &Entry) -> ImageError {
    match errno {
        Errno::LOOP => refused(&entry.path, "it goes through a symbolic link"),
        Errno::NOTDIR => refused(
            &entry.path,
            "it goes through something that is not a folder",
        ),
        errno => failed("open the folder", entry)(errno),
    }
}

/// What has the name now; a link is a link, wherever it leads.
pub(super) fn existing(
    parent: &OwnedFd,
    name: &[u8],
    entry: &Entry,
) -> Result<Existing, ImageError> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => Existing::Folder,
            FileType::CharacterDevice if found.st_rdev == 0 => Existing::Whiteout,
            _ => Existing::Other,
        }),
        Err(Errno::NOENT) => Ok(Existing::Nothing),
        Err(errno) => Err(failed("look at the place", entry)(errno)),
    }
}

/// Removes what has the name; a folder only when it is empty.
pub(super) fn make_room(
    parent: &OwnedFd,
    name: &[u8],
    existing: Existing,
    entry: &Entry,
) -> Result<(), ImageError> {
    let flags = match existing {
        Existing::Nothing => return Ok(()),
        Existing::Folder => AtFlags::REMOVEDIR,
        Existing::Whiteout | Existing::Other => AtFlags::empty(),
    };
    rustix::fs::unlinkat(parent, name, flags).map_err(|errno| match errno {
        Errno::NOTEMPTY => refused(
            &entry.path,
            "it replaces a folder of the same archive that is not empty",
        ),
        errno => failed("replace the earlier entry", entry)(errno),
    })
}

/// Hides what lower layers have in the folder.
pub(super) fn set_opaque(folder: &OwnedFd, entry: &Entry) -> Result<(), ImageError> {
    rustix::fs::fsetxattr(
        folder.as_fd(),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .map_err(failed("mark the folder as opaque", entry))
}

/// The kernel's answer inside an error of the standard library.
pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// [`ImageError::Unpack`] for the step on the entry, to be used with `map_err`.
pub(super) fn failed(step: &'static str, entry: &Entry) -> impl FnOnce(Errno) -> ImageError {
    let entry = shown(&entry.path);
    move |source| ImageError::Unpack {
        step,
        entry,
        source,
    }
}

/// [`ImageError::Walk`] for the step on a path of a sandbox, to be used with `map_err`.
pub(super) fn failed_at(step: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> ImageError {
    let path = shown(path);
    move |source| ImageError::Walk { step, path, source }
}
