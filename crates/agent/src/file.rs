//! Files of the sandbox, from inside the sandbox.
//!
//! Paths are the kernel's business: nothing here joins or cleans them up as
//! text. Links are followed as everywhere, except those of the kernel's making
//! (`/proc/1/root` and the like); what is opened is checked after opening.

use std::{io, path::Path};

use agent_protocol::{Failure, FileRequest, Reply};
use rustix::fs::{CWD, Mode};

use crate::{
    connection::Connection,
    context::Context,
    failure::{Stop, from_os},
};

mod change;
mod copy;
mod entry;
mod grep;
mod list;
mod path;
mod read;
mod replace;
mod tree;
mod write;

pub(crate) use write::write_all;

/// Carries out a request about files.
pub(crate) fn serve(
    context: &Context,
    request: &FileRequest,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    let named = |path: &str| path::Named::new(context, path);
    match request {
        FileRequest::Read {
            path,
            offset,
            length,
        } => read::read(&named(path)?, *offset, *length, connection),
        FileRequest::Write {
            path,
            mode: bits,
            append,
        } => write::write(&named(path)?, mode(*bits)?, *append, connection),
        FileRequest::List { path, depth, limit } => {
            list::list(&named(path)?, *depth, *limit, connection)
        }
        FileRequest::Grep {
            path,
            pattern,
            limit,
        } => grep::grep(&named(path)?, pattern, *limit, connection),
        FileRequest::Glob {
            path,
            pattern,
            limit,
        } => list::glob(&named(path)?, pattern, *limit, connection),
        FileRequest::Replace {
            paths,
            pattern,
            replacement,
        } => replace::replace(context, paths, pattern, replacement, connection),
        FileRequest::Stat { path } => Ok(entry::stat(&named(path)?)?),
        FileRequest::MakeDirectory { path, mode: bits } => {
            Ok(change::make_directory(&named(path)?, mode(*bits)?)?)
        }
        FileRequest::Move {
            source,
            destination,
            overwrite,
        } => Ok(change::rename(
            &named(source)?,
            &named(destination)?,
            *overwrite,
        )?),
        FileRequest::Remove { path, recursive } => Ok(change::remove(&named(path)?, *recursive)?),
        FileRequest::SetPermissions {
            path,
            mode: bits,
            owner,
            group,
        } => Ok(change::set_permissions(
            &named(path)?,
            mode(*bits)?,
            owner.as_deref(),
            group.as_deref(),
        )?),
    }
}

/// Size and use of the sandbox's file system.
pub(crate) fn disk() -> Result<Reply, Failure> {
    let stat = rustix::fs::statvfs("/").map_err(|error| from_os("/", &error.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Reply::Disk {
        total_bytes: bytes(stat.f_blocks),
        used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
    })
}

/// Permission bits as asked for.
fn mode(bits: Option<u32>) -> Result<Option<Mode>, Stop> {
    match bits {
        Some(bits) if bits > 0o7777 => Err(crate::failure::invalid(format!(
            "{bits:#o} are not permission bits; use 0 to 0o7777"
        ))
        .into()),
        bits => Ok(bits.map(Mode::from_raw_mode)),
    }
}

/// Makes a directory with its parents, if they are not there.
pub(crate) fn make_directories(path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    path::make_directories(CWD, &path)?;
    Ok(())
}
