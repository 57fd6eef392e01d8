//! Makes the files of a plan in a folder that nobody else can reach yet.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, chownat, fsetxattr, makedev, mkdirat,
    mknodat, openat, symlinkat,
};

use crate::plan::{Node, NodeKind};

/// Tells overlayfs that nothing below the directory comes from the image.
const OPAQUE: &str = "trusted.overlay.opaque";

/// Makes `nodes` below `folder`, all owned by host id `owner`. The file mode
/// mask of the process must be zero.
///
/// # Errors
/// The kernel's, with the node at which it failed.
pub(super) fn make(
    folder: BorrowedFd<'_>,
    nodes: &[Node],
    owner: u32,
) -> Result<(), (String, io::Error)> {
    nodes.iter().try_for_each(|node| {
        make_one(folder, node)
            .and_then(|()| own(folder, &node.path, owner))
            .map_err(|error| (node.path.clone(), error))
    })
}

fn make_one(folder: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
    let path = node.path.as_str();
    match &node.kind {
        NodeKind::Directory { mode } => mkdirat(folder, path, Mode::from_raw_mode(*mode))?,
        NodeKind::EmptyDirectory { mode } => {
            mkdirat(folder, path, Mode::from_raw_mode(*mode))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(folder, path, flags, Mode::empty())?;
            fsetxattr(&made, OPAQUE, b"y", XattrFlags::CREATE)?;
        }
        NodeKind::File { mode, content } => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(folder, path, flags, Mode::from_raw_mode(*mode))?;
            File::from(made).write_all(content)?;
        }
        NodeKind::Link { target } => symlinkat(*target, folder, path)?,
        NodeKind::Device { major, minor } => mknodat(
            folder,
            path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(*major, *minor),
        )?,
    }
    Ok(())
}

fn own(folder: impl AsFd, path: &str, owner: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
    chownat(
        folder,
        path,
        Some(user),
        Some(group),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}
