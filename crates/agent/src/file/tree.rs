//! Walking through a tree of files, in bounded memory whatever is in it.
//!
//! Order: by name in each directory, bytes compared, a directory's own entries
//! right after it. Links are told, not followed.

use std::{
    collections::BinaryHeap,
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};

use super::path::{file_type, is_proc};

/// Memory for names that are found and not yet told, estimated.
const PENDING_BYTES_MAX: usize = 8 << 20;

/// What an entry costs beside its name.
const ENTRY_BYTES: usize = 200;

/// Longest path below the tree's root that is entered: the kernel's limit.
const PATH_BYTES_MAX: usize = 4095;

/// Bytes of directory entries read at once.
const READ_BYTES: usize = 8 << 10;

/// An entry of a tree.
pub(super) struct Found {
    pub(super) name: CString,
    pub(super) stat: Stat,
}

/// A directory in the middle of the walk.
struct Level {
    /// Length of its path below the root.
    path_bytes: usize,
    /// What is left, the next one last.
    left: Vec<Found>,
}

/// A walk; see the module.
pub(super) struct Tree {
    root: OwnedFd,
    /// How many levels below the root are walked.
    depth: usize,
    levels: Vec<Level>,
    /// Of the entry told last, below the root.
    path: Vec<u8>,
    /// The entry told last is a directory to be entered.
    enters: bool,
    pending_bytes: usize,
    /// Something was left out.
    pub(super) is_truncated: bool,
}

impl Tree {
    /// A walk through an open directory, of which at most `names_max` entries
    /// will be asked for.
    pub(super) fn new(root: OwnedFd, depth: usize, names_max: u64) -> io::Result<Self> {
        let mut tree = Self {
            root,
            depth,
            levels: Vec::new(),
            path: Vec::new(),
            enters: false,
            pending_bytes: 0,
            is_truncated: false,
        };
        if depth > 0 {
            tree.enter(names_max)?;
        }
        Ok(tree)
    }

    /// The path below the root of the entry told last.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The next entry, of which at most `names_max` more will be asked for.
    pub(super) fn next(&mut self, names_max: u64) -> Option<Found> {
        // What cannot be opened (any more) was told, but has no entries.
        if std::mem::take(&mut self.enters) && self.enter(names_max).is_err() {
            self.is_truncated = true;
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(found) = level.left.pop() else {
                self.levels.pop();
                continue;
            };
            self.pending_bytes -= cost(&found);
            self.path.truncate(level.path_bytes);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend(found.name.to_bytes());
            let is_directory = file_type(&found.stat) == FileType::Directory;
            self.enters = is_directory && self.levels.len() < self.depth;
            return Some(found);
        }
    }

    /// Leaves out what is in the directory told last.
    pub(super) fn skip(&mut self) {
        self.enters = false;
    }

    /// Reads the directory at the current path: the first entries by name.
    fn enter(&mut self, names_max: u64) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = self.open(flags)?;
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
            while names.len() as u64 > names_max
                || self.pending_bytes + names_bytes > PENDING_BYTES_MAX
            {
                let Some(dropped) = names.pop() else { break };
                names_bytes -= dropped.count_bytes() + ENTRY_BYTES;
                self.is_truncated = true;
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
        self.levels.push(Level {
            path_bytes: self.path.len(),
            left,
        });
        Ok(())
    }

    /// Opens what was told last. By path, because a descriptor for each level
    /// could be too many; without following links, because it may have been
    /// replaced by one.
    pub(super) fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let path = match self.path.as_slice() {
            b"" => c".".to_owned(),
            path if path.len() > PATH_BYTES_MAX => return Err(io::ErrorKind::InvalidInput.into()),
            path => CString::new(path)?,
        };
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        sys::file::open_with(&self.root, &path, flags, Mode::empty(), resolve)
    }

    /// Where the link told last points.
    pub(super) fn target(&self) -> io::Result<CString> {
        let link = self.open(OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(fs::readlinkat(&link, c"", Vec::new())?)
    }

    /// Whether what was told last is a file system of the kernel's making.
    pub(super) fn is_of_kernel(&self) -> bool {
        let directory = self.open(OFlags::PATH | OFlags::NOFOLLOW);
        directory.is_ok_and(|directory| is_proc(directory.as_fd()).unwrap_or(true))
    }
}

fn cost(found: &Found) -> usize {
    found.name.count_bytes() + ENTRY_BYTES
}

fn look(directory: &OwnedFd, name: CString) -> Option<Found> {
    let stat = fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(Found { name, stat })
}
