//! Paths: checked as text once, then handed to the kernel.

use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use agent_protocol::{Failure, FailureKind};
use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};

use crate::{
    context::Context,
    failure::{failure, from_os, invalid},
};

/// Longest path the kernel takes.
const PATH_BYTES_MAX: usize = 4095;

/// How much of a path is told in messages.
const SHOWN_CHARS_MAX: usize = 200;

/// How many links at the end of a path are followed, as in the kernel.
const LINKS_MAX: u32 = 40;

/// Permission bits of directories made on the way.
pub(super) const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// What `fstatfs` says of `/proc`.
const PROC_MAGIC: u64 = 0x9fa0;

/// A path as asked for and as the kernel gets it.
#[derive(Debug)]
pub(super) struct Named {
    /// As asked for.
    pub(super) asked: String,
    /// Absolute.
    pub(super) path: CString,
}

/// A name in an open directory.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: OwnedFd,
    pub(super) name: CString,
}

impl Named {
    /// Checks a path.
    pub(super) fn new(context: &Context, asked: &str) -> Result<Self, Failure> {
        if asked.is_empty() {
            return Err(invalid("the path is empty"));
        }
        let absolute = context.absolute(asked);
        let bytes = absolute.as_os_str().as_bytes();
        if bytes.len() > PATH_BYTES_MAX {
            return Err(invalid(format!(
                "the path of {} bytes is longer than the {PATH_BYTES_MAX} the kernel takes",
                bytes.len()
            )));
        }
        let path = CString::new(bytes).map_err(|_| invalid("the path contains a NUL byte"))?;
        let asked = asked.to_owned();
        Ok(Self { asked, path })
    }

    /// The path as messages show it.
    pub(super) fn shown(&self) -> String {
        let mut shown: String = self.asked.chars().take(SHOWN_CHARS_MAX).collect();
        if shown.len() < self.asked.len() {
            shown.push('…');
        }
        shown
    }

    /// What an OS error means for this path.
    pub(super) fn failure(&self, error: &io::Error) -> Failure {
        from_os(self.shown(), error)
    }

    /// For `map_err`.
    pub(super) fn fails<E: Into<io::Error>>(&self) -> impl Fn(E) -> Failure {
        |error| self.failure(&error.into())
    }

    /// Opens it.
    pub(super) fn open(&self, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        sys::file::open(CWD, &self.path, flags, mode)
    }

    /// Its last name in its parent, which is made with all above it if need be.
    pub(super) fn place(&self, parents: Parents) -> Result<Place, Failure> {
        let (parent, name) = split(&self.path)
            .ok_or_else(|| invalid(format!("{}: ends in no name of its own", self.shown())))?;
        let parent = open_parent(CWD, &parent, parents).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                let message = format!("{}: its directory does not exist", self.shown());
                return failure(FailureKind::NotFound, message);
            }
            self.failure(&error)
        })?;
        Ok(Place { parent, name })
    }
}

/// What to do about parents that do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parents {
    Required,
    Made,
}

fn open_parent(base: BorrowedFd<'_>, parent: &CStr, parents: Parents) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match sys::file::open(base, parent, flags, Mode::empty()) {
        Err(error) if parents == Parents::Made && error.kind() == io::ErrorKind::NotFound => {
            make_directories(base, parent)
        }
        result => result,
    }
}

/// Splits the last name off; `None` when there is none (`/`, `a/..`).
fn split(path: &CStr) -> Option<(CString, CString)> {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/')? + 1;
    let start = bytes[..end]
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    let name = &bytes[start..end];
    if matches!(name, b"." | b"..") {
        return None;
    }
    let parent = match &bytes[..start] {
        b"" => b".",
        parent => parent,
    };
    // Parts of a text without NUL bytes have none either.
    Some((CString::new(parent).ok()?, CString::new(name).ok()?))
}

/// Makes a directory and those above it; returns the last one.
pub(super) fn make_directories(base: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let bytes = path.to_bytes();
    let start: &CStr = if bytes.starts_with(b"/") { c"/" } else { c"." };
    let mut current = sys::file::open(base, start, flags, Mode::empty())?;
    for name in bytes
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
    {
        let name = CString::new(name)?;
        let open = || sys::file::open(&current, &name, flags, Mode::empty());
        current = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match fs::mkdirat(&current, &name, DIRECTORY_MODE) {
                    // Somebody else may have been faster.
                    Ok(()) | Err(Errno::EXIST) => open()?,
                    Err(error) => return Err(error.into()),
                }
            }
            result => result?,
        };
    }
    Ok(current)
}

impl Place {
    /// What the name is, links not followed.
    pub(super) fn stat(&self) -> io::Result<fs::Stat> {
        Ok(fs::statat(
            &self.parent,
            &self.name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Where the name leads in the end, when it is a link; links to what does
    /// not exist included, as for a shell's redirection.
    pub(super) fn follow(mut self) -> io::Result<Self> {
        for _ in 0..LINKS_MAX {
            match self.stat() {
                Ok(stat) if file_type(&stat) == FileType::Symlink => {}
                Ok(_) => return Ok(self),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self),
                Err(error) => return Err(error),
            }
            if is_proc(self.parent.as_fd())? {
                // It may be a link of the kernel's making.
                return Err(Errno::LOOP.into());
            }
            let target = fs::readlinkat(&self.parent, &self.name, Vec::new())?;
            let (parent, name) = split(&target).ok_or(Errno::ISDIR)?;
            let parent = open_parent(self.parent.as_fd(), &parent, Parents::Required)?;
            self = Self { parent, name };
        }
        Err(Errno::LOOP.into())
    }
}

/// What a file is.
pub(super) fn file_type(stat: &fs::Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Fails unless it is a regular file, saying what it is instead.
pub(super) fn require_regular(named: &Named, stat: &fs::Stat) -> Result<(), Failure> {
    let what = match file_type(stat) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    };
    Err(invalid(format!(
        "{}: is {what}, not a regular file",
        named.shown()
    )))
}

/// Whether it is on a proc file system.
pub(super) fn is_proc(file: BorrowedFd<'_>) -> io::Result<bool> {
    let kind = fs::fstatfs(file)?.f_type;
    Ok(u64::try_from(kind).is_ok_and(|kind| kind == PROC_MAGIC))
}

/// Fails for files that show or change a process: `/proc/self` would mean the agent.
pub(super) fn refuse_process_files(named: &Named, file: &OwnedFd) -> Result<(), Failure> {
    if !is_proc(file.as_fd()).map_err(named.fails())? {
        return Ok(());
    }
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = fs::readlink(link, Vec::new()).map_err(named.fails::<Errno>())?;
    let is_of_process = path
        .as_bytes()
        .split(|byte| *byte == b'/')
        .any(|name| !name.is_empty() && name.iter().all(u8::is_ascii_digit));
    if !is_of_process {
        return Ok(());
    }
    Err(failure(
        FailureKind::PermissionDenied,
        format!(
            "{}: files of processes are not read here; use a command instead",
            named.shown()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split_text(path: &str) -> Option<(String, String)> {
        let path = CString::new(path).unwrap();
        let (parent, name) = split(&path)?;
        Some((parent.into_string().unwrap(), name.into_string().unwrap()))
    }

    #[test]
    fn paths_split_at_their_last_name() {
        let parts = |parent: &str, name: &str| Some((parent.to_owned(), name.to_owned()));
        assert_eq!(split_text("/a"), parts("/", "a"));
        assert_eq!(split_text("/a/b//"), parts("/a/", "b"));
        assert_eq!(split_text("a"), parts(".", "a"));
        for none in ["", "/", "//", "/a/..", "/a/../", "."] {
            assert_eq!(split_text(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn a_last_name_is_one_plain_component(path in "[a./]{0,12}") {
            if let Some((parent, name)) = split_text(&path) {
                prop_assert!(!name.contains('/') && !name.is_empty() && name != "." && name != "..");
                prop_assert!(parent == "." || path.starts_with(&parent));
            }
        }
    }
}
