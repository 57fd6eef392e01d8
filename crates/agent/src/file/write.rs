//! Receiving a file's content.
//!
//! A file is replaced at once when all of it is there: the content goes to a
//! new file beside it, which then takes its name. Not synced to the disk: a
//! sandbox does not outlive its host's crash.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
};

use agent_protocol::{FailureKind, Reply};
use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
};

use super::{
    copy, entry,
    path::{Named, Parents, Place, file_type, is_proc, refuse_process_files, require_regular},
};
use crate::{
    connection::{Connection, Input, Wait},
    exec::PIECE_BYTES,
    failure::{Stop, failure},
};

/// Permission bits of a new file.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);

/// Replaces, creates or extends a file with the input frames that follow.
pub(super) fn write(
    named: &Named,
    mode: Option<Mode>,
    append: bool,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    if append {
        extend(named, mode, connection)
    } else {
        replace(named, mode, connection)
    }
}

fn extend(named: &Named, mode: Option<Mode>, connection: &mut Connection) -> Result<Reply, Stop> {
    named.place(Parents::Made)?;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let file = named
        .open(flags, mode.unwrap_or(FILE_MODE))
        .map_err(named.fails())?;
    require_regular(named, &fs::fstat(&file).map_err(named.fails())?)?;
    refuse_process_files(named, &file)?;
    if let Some(mode) = mode {
        fs::fchmod(&file, mode).map_err(named.fails())?;
    }
    receive(named, &file, connection)?;
    Ok(entry::final_entry(named, &file)?)
}

fn replace(named: &Named, mode: Option<Mode>, connection: &mut Connection) -> Result<Reply, Stop> {
    let place = named
        .place(Parents::Made)?
        .follow()
        .map_err(named.fails())?;
    let replaced = match place.stat() {
        Ok(stat) => Some(stat),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(named.failure(&error).into()),
    };
    if let Some(stat) = &replaced {
        require_regular(named, stat)?;
    }
    if is_proc(place.parent.as_fd()).map_err(named.fails())? {
        let message = format!("{}: files of /proc cannot be replaced", named.shown());
        return Err(failure(FailureKind::PermissionDenied, message).into());
    }
    let new = NewFile::create(&place).map_err(named.fails())?;
    receive(named, &new.file, connection)?;
    let kept = replaced
        .as_ref()
        .map(|stat| Mode::from_raw_mode(stat.st_mode));
    let mode = mode.or(kept).unwrap_or(FILE_MODE);
    new.finish(mode, replaced.as_ref()).map_err(named.fails())?;
    Ok(entry::stat_followed(named)?)
}

/// Writes the input frames to a file.
fn receive(named: &Named, file: &OwnedFd, connection: &mut Connection) -> Result<(), Stop> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = match connection.next_input(&mut buffer, Wait::No)? {
            Input::Bytes(count) => count,
            Input::End => return Ok(()),
            Input::Later => {
                connection.wait_for_input()?;
                continue;
            }
        };
        write_all(file, &buffer[..count]).map_err(named.fails())?;
    }
}

/// Writes all of it.
pub(crate) fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A name that nobody else uses, for what is complete only later.
pub(super) fn temporary_name() -> io::Result<CString> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!(".sandboxai-{:016x}", u64::from_ne_bytes(random));
    Ok(CString::new(name)?)
}

/// A file that is to take a name; removed if it never does.
pub(super) struct NewFile<'a> {
    place: &'a Place,
    temporary: CString,
    file: OwnedFd,
    is_in_place: bool,
}

impl<'a> NewFile<'a> {
    pub(super) fn create(place: &'a Place) -> io::Result<Self> {
        let temporary = temporary_name()?;
        // Readable too, for the case that it has to be copied.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = sys::file::open(&place.parent, &temporary, flags, mode)?;
        Ok(Self {
            place,
            temporary,
            file,
            is_in_place: false,
        })
    }

    /// To be written to.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Takes the name, with the owner of what it replaces.
    pub(super) fn finish(mut self, mode: Mode, replaced: Option<&Stat>) -> io::Result<()> {
        if let Some(stat) = replaced {
            // Where the owner cannot be kept, the file is ours as if newly made.
            let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            let _ = fs::fchown(&self.file, Some(owner.0), Some(owner.1));
        }
        // After the owner, whose change clears some bits.
        fs::fchmod(&self.file, mode)?;
        let Place { parent, name } = self.place;
        match fs::renameat(parent, &self.temporary, parent, name) {
            Ok(()) => {
                self.is_in_place = true;
                Ok(())
            }
            // A file that is a mount point keeps its place: overwritten instead.
            Err(Errno::BUSY) => self.overwrite(),
            Err(error) => Err(error.into()),
        }
    }

    fn overwrite(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW;
        let Place { parent, name } = self.place;
        let target = sys::file::open(parent, name, flags, Mode::empty())?;
        if file_type(&fs::fstat(&target)?) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        fs::ftruncate(&target, 0)?;
        fs::seek(&self.file, fs::SeekFrom::Start(0))?;
        copy::content(&self.file, &target)
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if !self.is_in_place {
            let _ = fs::unlinkat(&self.place.parent, &self.temporary, AtFlags::empty());
        }
    }
}
