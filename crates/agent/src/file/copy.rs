//! Copying trees, for moves between file systems.
//!
//! Content, permissions, owners and times are kept; hard links become files of
//! their own, sockets are left out.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};

use super::{
    path::{Place, file_type},
    write::write_all,
};
use crate::exec::PIECE_BYTES;

/// Deepest tree that is copied: two descriptors are open for each level.
const DEPTH_MAX: usize = 100;

/// How much the kernel is asked to copy at once.
const RANGE_BYTES: usize = 16 << 20;

/// A directory that is being copied.
struct Level {
    source: Dir,
    target: OwnedFd,
    stat: Stat,
}

/// Copies a file or a tree to a name that does not exist.
pub(super) fn tree(from: &Place, to: &Place) -> io::Result<()> {
    let mut levels = Vec::new();
    levels.extend(one(
        from.parent.as_fd(),
        &from.name,
        to.parent.as_fd(),
        &to.name,
    )?);
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.source.read() else {
            keep_attributes(level.target.as_fd(), &level.stat)?;
            levels.pop();
            continue;
        };
        let name: CString = entry?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let below = one(level.source.fd()?, &name, level.target.as_fd(), &name)?;
        levels.extend(below);
        if levels.len() > DEPTH_MAX {
            return Err(io::Error::other(format!(
                "the tree is deeper than {DEPTH_MAX} directories; use a command instead"
            )));
        }
    }
    Ok(())
}

/// Copies one thing; a directory is made and returned, for its entries to follow.
fn one(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new_name: &CStr,
) -> io::Result<Option<Level>> {
    let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match file_type(&stat) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let source = sys::file::open(from, name, flags, Mode::empty())?;
            fs::mkdirat(to, new_name, Mode::RWXU)?;
            return Ok(Some(Level {
                source: Dir::new(source)?,
                target: sys::file::open(to, new_name, flags, Mode::empty())?,
                stat,
            }));
        }
        FileType::RegularFile => {
            let source = sys::file::open(from, name, OFlags::NOFOLLOW, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let target = sys::file::open(to, new_name, flags, Mode::RUSR | Mode::WUSR)?;
            content(&source, &target)?;
            keep_attributes(target.as_fd(), &stat)?;
        }
        FileType::Symlink => {
            let target = fs::readlinkat(from, name, Vec::new())?;
            fs::symlinkat(&target, to, new_name)?;
            let (owner, group) = owner(&stat);
            let _ = fs::chownat(to, new_name, owner, group, AtFlags::SYMLINK_NOFOLLOW);
        }
        FileType::Fifo => fs::mkfifoat(to, new_name, Mode::from_raw_mode(stat.st_mode))?,
        FileType::Socket => {}
        _ => return Err(io::Error::other("devices cannot be copied")),
    }
    Ok(None)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
}

fn keep_attributes(file: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let (owner, group) = owner(stat);
    // Where the owner cannot be kept, the copy is ours.
    let _ = fs::fchown(file, owner, group);
    fs::fchmod(file, Mode::from_raw_mode(stat.st_mode))?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(fs::futimens(file, &times)?)
}

/// Copies what is in `source` from its position on.
pub(super) fn content(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    loop {
        match fs::copy_file_range(source, None, target, None, RANGE_BYTES) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match rustix::io::read(source, &mut *buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => write_all(target, &buffer[..count])?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
