//! Gives the files of a sandbox to the ids of another slot.

use std::{io, os::fd::OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, fchmod, fchown};

use super::{
    attribute,
    owner::Ids,
    walk::{Node, walk},
};
use crate::error::{At as _, Error, Step};

/// Gives everything below `root` that belongs to ids of `old` to the same ids of
/// `new`. Interrupted, it may be begun again.
///
/// # Errors
/// The first thing that could not be given.
pub(crate) fn shift(root: &OwnedFd, old: Ids, new: Ids) -> Result<(), Error> {
    walk(root, Step::ShiftOwners, |node| {
        give(node, old, new).at(Step::ShiftOwners, node.shown())
    })
}

fn give(node: &Node<'_>, old: Ids, new: Ids) -> io::Result<()> {
    let moved = |id: u32| old.moved(new, id);
    let (uid, gid) = (moved(node.stat.st_uid), moved(node.stat.st_gid));
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let is_given = (uid, gid) == (node.stat.st_uid, node.stat.st_gid);
    if !matches!(
        node.file_type(),
        FileType::RegularFile | FileType::Directory
    ) {
        if !is_given {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chownat(node.parent, node.name, owner.0, owner.1, flags)?;
        }
        return Ok(());
    }
    let file = node.open()?;
    // First, so that a file whose owner is new has everything new.
    for (name, value) in attribute::read(&file, moved)? {
        if name.starts_with(b"system.") {
            attribute::write(&file, &name, &value, |id| id)?;
        }
    }
    if !is_given {
        fchown(&file, owner.0, owner.1)?;
        // Another owner clears the bits that set the user.
        fchmod(&file, Mode::from_raw_mode(node.stat.st_mode & 0o7777))?;
    }
    Ok(())
}
