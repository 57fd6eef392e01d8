//! Removing trees that were made to be hard to remove.
//!
//! Depth costs neither stack nor descriptors: at any time at most a handful of
//! descriptors is open. Going down opens a name without following links or
//! entering other mounts; going up opens `..` and checks that it is the folder
//! we came from, so that somebody who renames folders meanwhile cannot lead
//! the removal out of the tree.

use std::{
    collections::VecDeque,
    ffi::{CStr, CString},
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags},
    io::Errno,
};

use crate::file;

/// How many levels are remembered. In deeper trees the upper ones are
/// forgotten, and found again from the top once the lower ones are gone.
const LEVELS_MAX: usize = 16 << 10;

/// How many of the lowest levels also remember what is left to do in them.
const LEVELS_WITH_PENDING: usize = 8;

/// Bytes of directory entries read at once.
const ENTRIES_BYTES: usize = 16 << 10;

/// How often the removal begins again at the top: after depth, or after others
/// renamed or added something underneath us.
const ROUNDS_MAX: u32 = 1000;

/// A folder on the way from the top to the current one.
struct Level {
    name: CString,
    identity: Identity,
    /// Subfolders already seen in it and not yet removed.
    pending: Vec<CString>,
}

/// Device and inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

/// How one round ended.
enum Round {
    Removed,
    /// Begin again at the top.
    Again,
}

/// Removes `name`, a single name, in `parent` with all below it. Links are removed, never
/// followed; a mount point inside fails with `EXDEV` or `EBUSY`. Folders of the
/// caller's without permissions are given them. What does not exist is a success.
///
/// # Errors
/// The first thing that cannot be removed; `EAGAIN` when others keep adding to
/// the tree; `EINVAL` when `name` is not a single name.
pub fn remove<Fd: AsFd>(parent: Fd, name: &CStr) -> io::Result<()> {
    let parent = parent.as_fd();
    if name.to_bytes().contains(&b'/') || matches!(name.to_bytes(), b"" | b"." | b"..") {
        return Err(Errno::INVAL.into());
    }
    for _ in 0..ROUNDS_MAX {
        match unlink(parent, name)? {
            Unlinked::Gone => return Ok(()),
            Unlinked::Folder => {}
        }
        match remove_below(parent, name)? {
            Round::Removed => return Ok(()),
            Round::Again => {}
        }
    }
    Err(Errno::AGAIN.into())
}

/// What [`unlink`] found.
enum Unlinked {
    Gone,
    /// A folder that is not empty.
    Folder,
}

/// Removes a file or an empty folder.
fn unlink(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<Unlinked> {
    let mut result = fs::unlinkat(folder, name, AtFlags::empty());
    // Linux says EISDIR for a folder; POSIX allows EPERM.
    if matches!(result, Err(Errno::ISDIR | Errno::PERM)) {
        result = fs::unlinkat(folder, name, AtFlags::REMOVEDIR);
    }
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(Unlinked::Gone),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Unlinked::Folder),
        Err(error) => Err(error.into()),
    }
}

/// The same in a folder of the tree, whose permissions may be changed for it.
fn unlink_inside(folder: &OwnedFd, name: &CStr) -> io::Result<Unlinked> {
    match unlink(folder.as_fd(), name) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            file::change_mode(folder, Mode::RWXU)?;
            unlink(folder.as_fd(), name)
        }
        result => result,
    }
}

/// Opens a subfolder for reading; `None` when it is not there or no folder any more.
fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let open = |flags| file::open_with(parent, name, flags, Mode::empty(), resolve);
    let mut result = open(flags | OFlags::RDONLY);
    if matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EACCES)) {
        file::change_mode(open(flags | OFlags::PATH)?, Mode::RWXU)?;
        result = open(flags | OFlags::RDONLY);
    }
    match result {
        Ok(folder) => Ok(Some(folder)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

fn identity(folder: &OwnedFd) -> io::Result<Identity> {
    let stat = fs::fstat(folder)?;
    Ok(Identity(stat.st_dev, stat.st_ino))
}

/// One walk from the top: depth first, until the top is empty and removed, or
/// until the way back up is not known any more.
fn remove_below(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Round> {
    let Some(mut current) = open_folder(parent, name)? else {
        return Ok(Round::Again);
    };
    let mut levels = VecDeque::new();
    levels.push_back(Level {
        name: name.to_owned(),
        identity: identity(&current)?,
        pending: Vec::new(),
    });
    let mut is_complete = true;
    loop {
        let level = levels.back_mut().expect("the current level is there");
        if level.pending.is_empty() {
            level.pending = empty_folder(&current)?;
        }
        if let Some(below) = level.pending.pop() {
            let Some(folder) = open_folder(current.as_fd(), &below)? else {
                continue;
            };
            levels.push_back(Level {
                name: below,
                identity: identity(&folder)?,
                pending: Vec::new(),
            });
            current = folder;
            is_complete &= forget_above(&mut levels);
            continue;
        }
        let done = levels.pop_back().expect("the current level is there");
        let Some(above) = levels.back() else {
            if !is_complete {
                return Ok(Round::Again);
            }
            return Ok(match unlink(parent, &done.name)? {
                Unlinked::Gone => Round::Removed,
                Unlinked::Folder => Round::Again,
            });
        };
        let Some(folder) = go_up(&current, above.identity)? else {
            return Ok(Round::Again);
        };
        current = folder;
        // If something was added meanwhile, the folder is found again.
        unlink_inside(&current, &done.name)?;
    }
}

/// Keeps what is remembered within its bounds; `false` when a level was forgotten.
fn forget_above(levels: &mut VecDeque<Level>) -> bool {
    if let Some(index) = levels.len().checked_sub(LEVELS_WITH_PENDING + 1) {
        levels[index].pending = Vec::new();
    }
    if levels.len() > LEVELS_MAX {
        levels.pop_front();
        return false;
    }
    true
}

/// The parent of a folder, if it is still the one it was entered from.
fn go_up(folder: &OwnedFd, expected: Identity) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let parent = file::open_with(folder, c"..", flags, Mode::empty(), resolve)?;
    Ok((identity(&parent)? == expected).then_some(parent))
}

/// Removes all files and empty folders in a folder; returns some of the
/// folders that are not empty, none only if the folder is empty now.
fn empty_folder(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut buffer = [MaybeUninit::uninit(); ENTRIES_BYTES];
    let mut pending = Vec::new();
    fs::seek(folder, fs::SeekFrom::Start(0))?;
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        let is_empty_folder_or_file = match name.to_bytes() {
            b"." | b".." => continue,
            _ if entry.file_type() == FileType::Directory => remove_folder(folder, name)?,
            _ => matches!(unlink_inside(folder, name)?, Unlinked::Gone),
        };
        if !is_empty_folder_or_file {
            pending.push(name.to_owned());
        }
        // One buffer of subfolders at a time bounds what is remembered.
        if entries.is_buffer_empty() && !pending.is_empty() {
            break;
        }
    }
    Ok(pending)
}

/// Removes a folder if it is empty; saves the try to remove it as a file.
fn remove_folder(parent: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(_) => Ok(matches!(unlink_inside(parent, name)?, Unlinked::Gone)),
    }
}

#[cfg(test)]
mod tests;
