//! Telling about a file.

use std::{
    ffi::OsStr,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
};

use agent_protocol::{Entry, EntryKind, Failure, Reply};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::fs::{self, FileType, Mode, OFlags, Stat};

use super::path::{Named, file_type};
use crate::account::Accounts;

/// One entry, a final link not followed.
pub(super) fn stat(named: &Named) -> Result<Reply, Failure> {
    let file = named
        .open(OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
        .map_err(named.fails())?;
    final_entry(named, &file)
}

/// One entry, with links followed.
pub(super) fn stat_followed(named: &Named) -> Result<Reply, Failure> {
    let file = named
        .open(OFlags::PATH, Mode::empty())
        .map_err(named.fails())?;
    final_entry(named, &file)
}

/// The reply that ends a request with the entry of what it changed.
pub(super) fn final_entry(named: &Named, file: impl std::os::fd::AsFd) -> Result<Reply, Failure> {
    let entry = of_open(named, file.as_fd())?;
    Ok(Reply::Entry { entry, more: false })
}

/// The entry of an open file.
pub(super) fn of_open(named: &Named, file: BorrowedFd<'_>) -> Result<Entry, Failure> {
    let stat = fs::fstat(file).map_err(named.fails())?;
    let target = (file_type(&stat) == FileType::Symlink)
        .then(|| fs::readlinkat(file, c"", Vec::new()))
        .transpose()
        .map_err(named.fails())?;
    let target = target.as_ref().map(|target| target.as_bytes());
    Ok(describe(
        named.asked.as_bytes(),
        &stat,
        target,
        &Accounts::load(),
    ))
}

/// An entry from its parts.
pub(super) fn describe(
    path: &[u8],
    stat: &Stat,
    target: Option<&[u8]>,
    accounts: &Accounts,
) -> Entry {
    let kind = match file_type(stat) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let exact = std::str::from_utf8(path);
    let milliseconds = i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or(0);
    Entry {
        path: OsStr::from_bytes(path).to_string_lossy().into_owned(),
        path_base64: exact.is_err().then(|| STANDARD.encode(path)),
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: Mode::from_raw_mode(stat.st_mode).as_raw_mode() & 0o7777,
        modified_ms: stat
            .st_mtime
            .saturating_mul(1000)
            .saturating_add(milliseconds),
        uid: stat.st_uid,
        gid: stat.st_gid,
        owner: accounts.user_name(stat.st_uid),
        group: accounts.group_name(stat.st_gid),
        target: target.map(|target| OsStr::from_bytes(target).to_string_lossy().into_owned()),
    }
}
