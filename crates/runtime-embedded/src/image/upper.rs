//! Reads the writable layer of a sandbox as the entries of a new layer.
//!
//! Everything in there was made by code that may be hostile. It is looked at by
//! descriptors below the layer's own folder and without following any link; how
//! many names and bytes are taken is bounded; what is neither a file, a folder,
//! a link, a fifo nor a whiteout is left out.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    ImageError,
    entry_path::{PATH_BYTES_MAX, refused},
    manifest::hexadecimal,
    place::{failed_at, resolve},
    tar_stream::{Entries, Entry, EntryKind},
    unpack::Limits,
};

/// Names of folders that are being walked and of files with several names, bytes.
/// A folder is read whole, so that the order of its entries does not depend on
/// the file system.
const NAMES_BYTES_MAX: usize = 256 << 20;
/// What the kernel itself allows for the names, and for a value, of attributes.
const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;
/// The two words of overlayfs that belong to what a layer holds. Only root on
/// the host can have set them: a sandbox may not write `trusted.` attributes.
pub(super) const OVERLAY_WORDS: [&[u8]; 2] =
    [b"trusted.overlay.opaque", b"trusted.overlay.redirect"];

/// The writable layer of one sandbox, walked once.
pub(super) struct Upper {
    root: OwnedFd,
    /// Host id of the sandbox's user 0.
    uid_base: u32,
    limits: Limits,
    begun: bool,
    /// The folder that is being walked, below those that it lies in.
    folders: Vec<Folder>,
    /// Bytes of all names in `folders` and `links`.
    names_bytes: usize,
    /// Where the first name of a file with several was.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Content of the last entry, and how much of it is still to come.
    content: Option<(File, u64)>,
    bytes: u64,
    digest: Sha256,
    skipped: u64,
}

/// One folder on the way.
struct Folder {
    path: Vec<u8>,
    /// Open while it is the last of its stack: a hostile tree may be deeper than
    /// a process may have descriptors.
    descriptor: Option<OwnedFd>,
    /// What is still to come, the next one last.
    names: Vec<Vec<u8>>,
}

impl Upper {
    pub(super) fn new(root: OwnedFd, uid_base: u32, limits: Limits) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"layer of a sandbox, version 1\0");
        Self {
            root,
            uid_base,
            limits,
            begun: false,
            folders: Vec::new(),
            names_bytes: 0,
            links: HashMap::new(),
            content: None,
            bytes: 0,
            digest,
            skipped: 0,
        }
    }

    /// Digest of all that was read, and how many sockets and devices were not.
    pub(super) fn finish(self) -> (String, u64) {
        (hexadecimal(&self.digest.finalize()), self.skipped)
    }

    /// The next entry below the root.
    fn advance(&mut self) -> Result<Option<Entry>, ImageError> {
        loop {
            let Some(folder) = self.folders.last_mut() else {
                return Ok(None);
            };
            let Some(name) = folder.names.pop() else {
                self.folders.pop();
                continue;
            };
            self.names_bytes -= name.len();
            let path = joined(&folder.path, &name);
            if path.len() > PATH_BYTES_MAX {
                return Err(refused(&path, "its path is longer than 4096 bytes"));
            }
            let parent = match folder.descriptor.take() {
                Some(open) => open,
                None => resolve(&self.root, &folder.path).map_err(failed_at("open", &path))?,
            };
            let depth = self.folders.len();
            let entry = self.read(&parent, &name, path)?;
            if self.folders.len() == depth
                && let Some(folder) = self.folders.last_mut()
            {
                folder.descriptor = Some(parent);
            }
            if entry.is_some() {
                return Ok(entry);
            }
        }
    }

    /// One name of a folder; `None` when it is left out.
    fn read(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<Option<Entry>, ImageError> {
        let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed_at("look at", &path))?;
        let file_type = FileType::from_raw_mode(found.st_mode);
        if found.st_nlink > 1 && matches!(file_type, FileType::RegularFile | FileType::Symlink) {
            let key = (found.st_dev, found.st_ino);
            if let Some(first) = self.links.get(&key) {
                let mut entry = self.entry(EntryKind::HardLink, path, &found);
                entry.link.clone_from(first);
                return Ok(Some(entry));
            }
            self.take_names(path.len())?;
            self.links.insert(key, path.clone());
        }
        match file_type {
            FileType::RegularFile => self.file(parent, name, path).map(Some),
            FileType::Directory => {
                let open = resolve(parent, name).map_err(failed_at("open", &path))?;
                self.folder(open, path).map(Some)
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(parent, name, Vec::new())
                    .map_err(failed_at("read the link", &path))?;
                let mut entry = self.entry(EntryKind::Symlink, path, &found);
                entry.link = link.into_bytes();
                Ok(Some(entry))
            }
            FileType::Fifo => Ok(Some(self.entry(EntryKind::Fifo, path, &found))),
            FileType::CharacterDevice if found.st_rdev == 0 => {
                let whiteout = EntryKind::Device {
                    character: true,
                    major: 0,
                    minor: 0,
                };
                Ok(Some(self.entry(whiteout, path, &found)))
            }
            _ => {
                self.skipped += 1;
                Ok(None)
            }
        }
    }

    fn file(&mut self, parent: &OwnedFd, name: &[u8], path: Vec<u8>) -> Result<Entry, ImageError> {
        // Should it be something else by now, opening it neither waits nor acts.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(failed_at("open", &path))?;
        let found = rustix::fs::fstat(&open).map_err(failed_at("look at", &path))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(refused(&path, "it changed while it was read"));
        }
        let mut entry = self.entry(EntryKind::File, path, &found);
        entry.size = u64::try_from(found.st_size).unwrap_or(0);
        entry.attributes = attributes(open.as_fd(), &entry.path)?;
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            return Err(ImageError::SandboxTooLarge {
                what: "bytes",
                limit: self.limits.bytes,
            });
        }
        self.content = Some((open.into(), entry.size));
        Ok(entry)
    }

    /// The folder itself; what is in it comes next.
    fn folder(&mut self, open: OwnedFd, path: Vec<u8>) -> Result<Entry, ImageError> {
        let found = rustix::fs::fstat(&open).map_err(failed_at("look at", &path))?;
        let mut entry = self.entry(EntryKind::Directory, path, &found);
        entry.attributes = attributes(open.as_fd(), &entry.path)?;
        let mut names = Vec::new();
        let listing = Dir::read_from(&open).map_err(failed_at("list", &entry.path))?;
        for item in listing {
            let item = item.map_err(failed_at("list", &entry.path))?;
            let name = item.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            self.take_names(name.len())?;
            names.push(name.to_vec());
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.folders.push(Folder {
            path: entry.path.clone(),
            descriptor: Some(open),
            names,
        });
        Ok(entry)
    }

    fn take_names(&mut self, bytes: usize) -> Result<(), ImageError> {
        self.names_bytes += bytes;
        if self.names_bytes > NAMES_BYTES_MAX {
            return Err(ImageError::SandboxTooLarge {
                what: "bytes of file names",
                limit: NAMES_BYTES_MAX as u64,
            });
        }
        Ok(())
    }

    /// An entry with what every kind has.
    fn entry(&self, kind: EntryKind, path: Vec<u8>, found: &Stat) -> Entry {
        // Ids outside of the sandbox's own become ones that the layer gives to nobody.
        let inside = |id: u32| u64::from(id.wrapping_sub(self.uid_base));
        Entry {
            kind,
            path,
            link: Vec::new(),
            size: 0,
            mode: found.st_mode & 0o7777,
            uid: inside(found.st_uid),
            gid: inside(found.st_gid),
            mtime_s: found.st_mtime,
            attributes: Vec::new(),
        }
    }

    /// Each field with its length before it, so that no two layers look alike.
    fn note(&mut self, entry: &Entry) {
        let kind: u8 = match entry.kind {
            EntryKind::File => 0,
            EntryKind::Directory => 1,
            EntryKind::Symlink => 2,
            EntryKind::HardLink => 3,
            EntryKind::Fifo => 4,
            EntryKind::Device { .. } => 5,
        };
        let digest = &mut self.digest;
        let mut text = |text: &[u8]| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        text(&[kind]);
        text(&entry.path);
        text(&entry.link);
        for number in [entry.size, u64::from(entry.mode), entry.uid, entry.gid] {
            text(&number.to_le_bytes());
        }
        text(&entry.mtime_s.to_le_bytes());
        text(&(entry.attributes.len() as u64).to_le_bytes());
        for (name, value) in &entry.attributes {
            text(name);
            text(value);
        }
    }
}

impl Entries for Upper {
    const IS_ARCHIVE: bool = false;

    fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        self.content = None;
        let entry = if self.begun {
            self.advance()?
        } else {
            self.begun = true;
            let root = resolve(&self.root, b"").map_err(failed_at("open", b"."))?;
            let mut root = self.folder(root, Vec::new())?;
            // The folder itself says nothing about what is hidden below it.
            root.attributes.clear();
            Some(root)
        };
        if let Some(entry) = &entry {
            self.note(entry);
        }
        Ok(entry)
    }

    fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((file, left)) = &mut self.content else {
            return Ok(0);
        };
        let most = usize::try_from(*left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = file.read(&mut buffer[..most])?;
        *left -= count as u64;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

/// Names and values.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes that belong to a layer.
fn attributes(open: BorrowedFd<'_>, path: &[u8]) -> Result<Attributes, ImageError> {
    let mut buffer = vec![0; ATTRIBUTES_BYTES_MAX];
    let length = match flistxattr(open, &mut buffer[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length.map_err(failed_at("list the attributes of", path))?,
    };
    let mut names: Vec<Vec<u8>> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user.") || OVERLAY_WORDS.contains(name))
        .map(<[u8]>::to_vec)
        .collect();
    names.sort_unstable();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let length = fgetxattr(open, name.as_slice(), &mut buffer[..])
            .map_err(failed_at("read an attribute of", path))?;
        found.push((name, buffer[..length].to_vec()));
    }
    Ok(found)
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
#[path = "upper_tests.rs"]
mod tests;
