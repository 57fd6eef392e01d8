//! Making, moving and removing, and permissions.

use std::{ffi::CStr, io};

use agent_protocol::{Failure, FailureKind, Reply};
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
};

use super::{
    copy, entry,
    path::{DIRECTORY_MODE, Named, Parents, Place, file_type},
    write::temporary_name,
};
use crate::{
    account::Accounts,
    failure::{failure, invalid},
};

/// Makes a directory and those above it; one that exists is as good.
pub(super) fn make_directory(named: &Named, mode: Option<Mode>) -> Result<Reply, Failure> {
    match named.open(OFlags::PATH, Mode::empty()) {
        Ok(found) => {
            let stat = fs::fstat(&found).map_err(named.fails())?;
            if file_type(&stat) == FileType::Directory {
                return entry::final_entry(named, found);
            }
            let message = format!("{}: exists and is not a directory", named.shown());
            return Err(failure(FailureKind::AlreadyExists, message));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(named.failure(&error)),
    }
    let Place { parent, name } = named.place(Parents::Made)?;
    fs::mkdirat(&parent, &name, mode.unwrap_or(DIRECTORY_MODE)).map_err(named.fails())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let made = sys::file::open(&parent, &name, flags, Mode::empty()).map_err(named.fails())?;
    if let Some(mode) = mode {
        // Exactly as asked for, whatever the umask says.
        sys::file::change_mode(&made, mode).map_err(named.fails())?;
    }
    entry::final_entry(named, made)
}

/// Renames, or copies and removes where renaming is not possible.
pub(super) fn rename(
    source: &Named,
    destination: &Named,
    overwrite: bool,
) -> Result<Reply, Failure> {
    let from = source.place(Parents::Required)?;
    from.stat().map_err(source.fails())?;
    let to = destination.place(Parents::Required)?;
    let fails = |error: io::Error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            let message = format!(
                "{}: exists already; set `overwrite` to replace it",
                destination.shown()
            );
            return failure(FailureKind::AlreadyExists, message);
        }
        let what = format!("moving {} to {}", source.shown(), destination.shown());
        crate::failure::from_os(what, &error)
    };
    match put(&from, &from.name, &to, overwrite) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy_over(&from, &to, overwrite).map_err(fails)?;
        }
        result => result.map_err(fails)?,
    }
    entry::stat(destination)
}

/// Renames `name` in `from` to the place `to`; what was there is removed afterwards.
fn put(from: &Place, name: &CStr, to: &Place, overwrite: bool) -> io::Result<()> {
    let rename = |flags| fs::renameat_with(&from.parent, name, &to.parent, &to.name, flags);
    if !overwrite {
        return match rename(RenameFlags::NOREPLACE) {
            // Not every file system can do that at once.
            Err(Errno::INVAL) if matches!(to.stat(), Err(e) if e.kind() == io::ErrorKind::NotFound) => {
                Ok(rename(RenameFlags::empty())?)
            }
            result => Ok(result?),
        };
    }
    match rename(RenameFlags::empty()) {
        // One of them is a directory, which is not replaced at once: they
        // change places, and the old one is removed where the new one was.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR | Errno::NOTDIR) => {
            rename(RenameFlags::EXCHANGE)?;
            sys::tree::remove(&from.parent, name)
        }
        result => Ok(result?),
    }
}

/// Moves by copying, so that the destination appears at once and complete.
fn copy_over(from: &Place, to: &Place, overwrite: bool) -> io::Result<()> {
    if !overwrite && to.stat().is_ok() {
        return Err(Errno::EXIST.into());
    }
    let beside = Place {
        parent: to.parent.try_clone()?,
        name: temporary_name()?,
    };
    let copied = copy::tree(from, &beside).and_then(|()| put(&beside, &beside.name, to, overwrite));
    if let Err(error) = copied {
        let _ = sys::tree::remove(&beside.parent, &beside.name);
        return Err(error);
    }
    sys::tree::remove(&from.parent, &from.name)
}

/// Removes a file, an empty directory, or with `recursive` a whole tree.
pub(super) fn remove(named: &Named, recursive: bool) -> Result<Reply, Failure> {
    let place = named.place(Parents::Required)?;
    let stat = place.stat().map_err(named.fails())?;
    let Place { parent, name } = &place;
    let is_directory = file_type(&stat) == FileType::Directory;
    let removed = match (is_directory, recursive) {
        (true, true) => sys::tree::remove(parent, name),
        (true, false) => fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(Into::into),
        (false, _) => fs::unlinkat(parent, name, AtFlags::empty()).map_err(Into::into),
    };
    removed.map_err(named.fails())?;
    Ok(Reply::Done { truncated: false })
}

/// Changes permissions and owner of what a path leads to.
pub(super) fn set_permissions(
    named: &Named,
    mode: Option<Mode>,
    owner: Option<&str>,
    group: Option<&str>,
) -> Result<Reply, Failure> {
    let accounts = Accounts::load();
    let find = |kind: &str, text: Option<&str>, number: &dyn Fn(&str) -> Option<u32>| match text {
        None => Ok(None),
        Some(text) => number(text).map(Some).ok_or_else(|| {
            let message =
                format!("there is no {kind} {text:?} in the sandbox; make it, or give a number");
            invalid(message)
        }),
    };
    let owner = find("user", owner, &|text| accounts.user(text))?;
    let group = find("group", group, &|text| accounts.group(text))?;
    if mode.is_none() && owner.is_none() && group.is_none() {
        return Err(invalid("give `mode`, `owner` or `group`"));
    }
    let file = named
        .open(OFlags::PATH, Mode::empty())
        .map_err(named.fails())?;
    if owner.is_some() || group.is_some() {
        let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        sys::file::change_owner(&file, owner, group).map_err(named.fails())?;
    }
    // After the owner, whose change clears some bits.
    if let Some(mode) = mode {
        sys::file::change_mode(&file, mode).map_err(named.fails())?;
    }
    entry::final_entry(named, file)
}
