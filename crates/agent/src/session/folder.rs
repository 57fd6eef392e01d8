//! The files of a session: text and named pipes of its commands.
//!
//! They lie in a folder that only root can enter. The workload may be root and
//! do there what it likes, to its own loss: what the agent opens is checked.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RawDir},
    rand::{GetRandomFlags, getrandom},
};

use crate::{file, process::Held, program::Pipes};

/// Where the folder may be. The first is memory, which a full disk does not touch.
const BASES: [&str; 4] = ["/dev/shm", "/tmp", "/var/tmp", "/run"];

/// Ends of the names of a command's pipes.
const PIPES: [&str; 3] = [".in", ".out", ".err"];

/// Programs of other users may open their streams again by `/dev/stdout`.
const PIPE_MODE: Mode = Mode::from_raw_mode(0o666);

/// See the module. Removed when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    base: OwnedFd,
    name: CString,
    folder: OwnedFd,
    path: String,
}

impl Folder {
    /// A new folder.
    pub(super) fn create() -> io::Result<Self> {
        let mut result = Err(io::ErrorKind::NotFound.into());
        for base in BASES {
            result = Self::create_in(base);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn create_in(base: &str) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let name = format!(".session-{:016x}", u64::from_ne_bytes(random));
        let path = format!("{base}/{name}");
        let (base, name) = (CString::new(base)?, CString::new(name)?);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let base = sys::file::open(CWD, &base, flags, Mode::empty())?;
        fs::mkdirat(&base, &name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let folder = sys::file::open(&base, &name, flags, Mode::empty())?;
        Ok(Self {
            base,
            name,
            folder,
            path,
        })
    }

    /// Makes the files of a command; our ends of its pipes.
    pub(super) fn make_command(&self, id: u64, text: &str) -> io::Result<(Pipes, Held)> {
        let made = self.try_make_command(id, text);
        if made.is_err() {
            self.remove_command(id);
        }
        made
    }

    fn try_make_command(&self, id: u64, text: &str) -> io::Result<(Pipes, Held)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let name = CString::new(id.to_string())?;
        let file = sys::file::open(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        file::write_all(&file, text.as_bytes())?;
        let [input, output, error] = PIPES.map(|end| CString::new(format!("{id}{end}")));
        let (input, output, error) = (input?, output?, error?);
        let mut held = Held::default();
        // In this order no opening waits: the reading end first.
        let input = self.make_pipe(&input)?;
        held.until_begun.push(input.open(OFlags::RDONLY)?);
        let stdin = input.open(OFlags::WRONLY)?;
        // Closed early, it must not leave the shell waiting for a writer.
        held.until_begun.push(stdin.try_clone()?);
        let mut read = |name: &CString| -> io::Result<OwnedFd> {
            let pipe = self.make_pipe(name)?;
            let reader = pipe.open(OFlags::RDONLY)?;
            // Without a writer it would be at its end before the shell opens it.
            held.until_ended.push(pipe.open(OFlags::WRONLY)?);
            Ok(reader)
        };
        let pipes = Pipes {
            stdin: Some(stdin),
            stdout: Some(read(&output)?),
            stderr: Some(read(&error)?),
            is_terminal: false,
        };
        Ok((pipes, held))
    }

    fn make_pipe<'a>(&'a self, name: &'a CString) -> io::Result<NamedPipe<'a>> {
        fs::mknodat(&self.folder, name, FileType::Fifo, PIPE_MODE, 0)?;
        // Whatever the umask is.
        fs::chmodat(&self.folder, name, PIPE_MODE, AtFlags::empty())?;
        Ok(NamedPipe { folder: self, name })
    }

    /// The lines by which the shell runs a command; see [`super::shell`].
    pub(super) fn order(&self, id: u64, token: &str) -> String {
        let file = format!("{}/{id}", self.path);
        format!(
            "{{ \\command printf '%s begun\\n' {token}; \\command . {file} 1>|{file}.out 2>|{file}.err; }} 0<{file}.in\n\
             \\command printf '%s %s\\n' {token} \"$?\"\n"
        )
    }

    /// Removes the files of a command; its pipes work on.
    pub(super) fn remove_command(&self, id: u64) {
        for end in PIPES.into_iter().chain([""]) {
            if let Ok(name) = CString::new(format!("{id}{end}")) {
                let _ = fs::unlinkat(&self.folder, &name, AtFlags::empty());
            }
        }
    }

    fn clear(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut names = Vec::new();
        let mut entries = RawDir::new(self.folder.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            names.push(entry?.file_name().to_owned());
        }
        for name in names {
            let _ = fs::unlinkat(&self.folder, &name, AtFlags::empty());
        }
        Ok(fs::unlinkat(&self.base, &self.name, AtFlags::REMOVEDIR)?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What the workload put there keeps the folder.
        let _ = self.clear();
    }
}

struct NamedPipe<'a> {
    folder: &'a Folder,
    name: &'a CString,
}

impl NamedPipe<'_> {
    /// An end that does not block.
    fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW;
        let pipe = sys::file::open(&self.folder.folder, self.name, flags, Mode::empty())?;
        match FileType::from_raw_mode(fs::fstat(&pipe)?.st_mode) {
            FileType::Fifo => Ok(pipe),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
