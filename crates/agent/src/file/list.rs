//! Listing directories, in bounded memory whatever is in them.
//!
//! Order: by name in each directory, bytes compared, a directory's own entries
//! right after it. Links to directories are told, not entered.

use std::{collections::BinaryHeap, ffi::CString, io, mem::MaybeUninit, os::fd::OwnedFd};

use agent_protocol::{Entry, Reply};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};

use super::{
    entry::describe,
    path::{Named, file_type},
};
use crate::{account::Accounts, connection::Connection, failure::Stop};

/// Entries in one message.
const BATCH_ENTRIES: usize = 200;

/// Most entries of one listing, whatever is asked for.
const ENTRIES_MAX: u64 = 200_000;

/// Memory for names that are found and not yet sent, estimated.
const PENDING_BYTES_MAX: usize = 8 << 20;

/// What an entry costs beside its name.
const ENTRY_BYTES: usize = 200;

/// Longest path below the listed directory that is entered: the kernel's limit.
const PATH_BYTES_MAX: usize = 4095;

/// Bytes of directory entries read at once.
const READ_BYTES: usize = 8 << 10;

/// An entry found and not yet sent.
struct Found {
    name: CString,
    stat: Stat,
}

/// A directory that is being listed.
struct Level {
    /// Length of its path below the listed directory.
    path_bytes: usize,
    /// What is left, the next one last.
    left: Vec<Found>,
}

struct Listing<'a> {
    named: &'a Named,
    base: OwnedFd,
    accounts: Accounts,
    /// How many more entries may be sent.
    left: u64,
    pending_bytes: usize,
    truncated: bool,
    batch: Vec<Entry>,
}

/// Sends the entries of a directory.
pub(super) fn list(
    named: &Named,
    depth: u32,
    limit: u64,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let base = named.open(flags, Mode::empty()).map_err(named.fails())?;
    let mut listing = Listing {
        named,
        base,
        accounts: Accounts::load(),
        left: limit.min(ENTRIES_MAX),
        pending_bytes: 0,
        truncated: false,
        batch: Vec::new(),
    };
    if depth > 0 {
        listing.walk(depth as usize, connection)?;
    }
    listing.flush(connection)?;
    let truncated = listing.truncated;
    Ok(Reply::Done { truncated })
}

impl Listing<'_> {
    fn walk(&mut self, depth: usize, connection: &mut Connection) -> Result<(), Stop> {
        let mut path: Vec<u8> = Vec::new();
        let mut levels = vec![self.enter(&path).map_err(self.named.fails())?];
        while let Some(level) = levels.last_mut() {
            let Some(found) = level.left.pop() else {
                levels.pop();
                continue;
            };
            self.pending_bytes -= cost(&found);
            if self.left == 0 {
                self.truncated = true;
                return Ok(());
            }
            path.truncate(level.path_bytes);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(found.name.to_bytes());
            self.send(&path, &found, connection)?;
            let is_entered = file_type(&found.stat) == FileType::Directory && levels.len() < depth;
            if is_entered {
                // What cannot be opened (any more) is told, but has no entries.
                match self.enter(&path) {
                    Ok(level) => levels.push(level),
                    Err(_) => self.truncated = true,
                }
            }
        }
        Ok(())
    }

    /// Reads a directory: the first entries by name that may still be sent.
    fn enter(&mut self, path: &[u8]) -> io::Result<Level> {
        let directory = self.open(path)?;
        let mut names = BinaryHeap::new();
        let mut names_bytes = 0;
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let mut entries = RawDir::new(&directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            names_bytes += name.count_bytes() + ENTRY_BYTES;
            names.push(name.to_owned());
            // The greatest name goes: it would come last.
            while names.len() as u64 > self.left
                || self.pending_bytes + names_bytes > PENDING_BYTES_MAX
            {
                let Some(dropped) = names.pop() else { break };
                names_bytes -= dropped.count_bytes() + ENTRY_BYTES;
                self.truncated = true;
            }
        }
        let mut left: Vec<Found> = names
            .into_sorted_vec()
            .into_iter()
            .rev()
            // One that vanished meanwhile was never there.
            .filter_map(|name| look(&directory, name))
            .collect();
        left.shrink_to_fit();
        self.pending_bytes += left.iter().map(cost).sum::<usize>();
        Ok(Level {
            path_bytes: path.len(),
            left,
        })
    }

    /// Opens a directory by its path below the listed one. By path, because a
    /// descriptor for each level could be too many; without following links,
    /// because it may have been replaced by one.
    fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = match path {
            b"" => c".".to_owned(),
            path if path.len() > PATH_BYTES_MAX => return Err(io::ErrorKind::InvalidInput.into()),
            path => CString::new(path)?,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        sys::file::open_with(&self.base, &path, flags, Mode::empty(), resolve)
    }

    /// Where the link at a path below the listed directory points.
    fn target(&self, path: &[u8]) -> io::Result<CString> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let path = CString::new(path)?;
        let link = sys::file::open_with(&self.base, &path, flags, Mode::empty(), resolve)?;
        Ok(fs::readlinkat(&link, c"", Vec::new())?)
    }

    fn send(&mut self, path: &[u8], found: &Found, connection: &mut Connection) -> io::Result<()> {
        // Read only now, because targets can be as long as paths.
        let target = (file_type(&found.stat) == FileType::Symlink)
            .then(|| self.target(path).ok())
            .flatten();
        let target = target.as_ref().map(|target| target.to_bytes());
        let mut shown = self.named.asked.clone().into_bytes();
        if !shown.ends_with(b"/") {
            shown.push(b'/');
        }
        shown.extend(path);
        self.batch
            .push(describe(&shown, &found.stat, target, &self.accounts));
        self.left -= 1;
        if self.batch.len() >= BATCH_ENTRIES {
            self.flush(connection)?;
        }
        Ok(())
    }

    fn flush(&mut self, connection: &mut Connection) -> io::Result<()> {
        let entries = std::mem::take(&mut self.batch);
        if entries.is_empty() {
            return Ok(());
        }
        connection.send_message(&Reply::Entries { entries })
    }
}

fn cost(found: &Found) -> usize {
    found.name.count_bytes() + ENTRY_BYTES
}

fn look(directory: &OwnedFd, name: CString) -> Option<Found> {
    let stat = fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(Found { name, stat })
}
