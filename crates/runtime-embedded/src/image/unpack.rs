//! Writes the entries of a layer below one folder, and nowhere else.
//!
//! Archives may be hostile. Three rules keep every write inside:
//! 1. A parent is opened from the root's descriptor by `openat2` with
//!    `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS |
//!    RESOLVE_NO_XDEV`; the last component is only ever used with that
//!    descriptor, by calls that do not follow a link in it.
//! 2. What stands in the way of a new entry is unlinked, never opened, so a
//!    write cannot go through an earlier symbolic or hard link.
//! 3. Devices are not made; the one exception is the whiteout, which is no device.
//!
//! Whiteouts (`.wh.NAME`, `.wh..wh..opq`) become what overlayfs understands:
//! a character device 0:0, and `trusted.overlay.opaque=y` on the folder.

use std::{
    io::{Seek, SeekFrom, Write},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    ImageError,
    entry_path::{EntryPath, PATH_BYTES_MAX, refused},
    place::{
        Existing, errno_of, existing, failed, make_room, open_beneath, parent_error, resolve,
        set_opaque,
    },
    source::read_error,
    tar_stream::{Entries, Entry, EntryKind},
    upper::OVERLAY_WORDS,
};

/// Bounds of one import.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Uncompressed bytes of one archive or layer.
    pub(super) bytes: u64,
    /// Entries of one layer.
    pub(super) entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 2_000_000,
        }
    }
}

/// What became of the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) entries: u64,
    /// Sum of the sizes of files.
    pub(super) bytes: u64,
    pub(super) devices_skipped: u64,
    /// Owners above [`OWNER_MAX`], given to [`NOBODY`].
    pub(super) owners_replaced: u64,
    /// Extended attributes outside `user.`: they have no effect in a sandbox.
    pub(super) attributes_dropped: u64,
}

/// Sandboxes have this many users: ids 0 to 65535.
const OWNER_MAX: u64 = 65_535;
const NOBODY: u32 = 65_534;
const COPY_BYTES: usize = 128 << 10;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that AUFS keeps for itself.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Writes one layer.
#[derive(Debug)]
pub(super) struct Unpacker {
    root: OwnedFd,
    limits: Limits,
    totals: Totals,
    buffer: Vec<u8>,
    /// See [`Entries::IS_ARCHIVE`].
    from_archive: bool,
}

impl Unpacker {
    /// Unpacks below `root`, a fresh folder that nobody else can write to.
    pub(super) fn new(root: OwnedFd, limits: Limits) -> Self {
        Self {
            root,
            limits,
            totals: Totals::default(),
            buffer: vec![0; COPY_BYTES],
            from_archive: true,
        }
    }

    /// Writes `first`, if any, and all entries that follow it in the stream.
    pub(super) fn unpack<S: Entries>(
        mut self,
        stream: &mut S,
        first: Option<Entry>,
    ) -> Result<Totals, ImageError> {
        self.from_archive = S::IS_ARCHIVE;
        let mut next = first;
        loop {
            let entry = match next.take() {
                Some(entry) => entry,
                None => match stream.next()? {
                    Some(entry) => entry,
                    None => return Ok(self.totals),
                },
            };
            self.totals.entries += 1;
            if self.totals.entries > self.limits.entries {
                return Err(ImageError::TooLarge {
                    what: "entries",
                    limit: self.limits.entries,
                });
            }
            self.write(&entry, stream)?;
        }
    }

    fn write<S: Entries>(&mut self, entry: &Entry, stream: &mut S) -> Result<(), ImageError> {
        let Some(path) = EntryPath::parse(&entry.path)? else {
            return self.write_root(entry);
        };
        if self.from_archive
            && let Some(hidden) = path.name.strip_prefix(WHITEOUT)
        {
            if path.name == OPAQUE {
                let parent = self.parent(&path, entry)?;
                return set_opaque(&parent, entry);
            }
            if path.name.starts_with(WHITEOUT_META) {
                return Ok(());
            }
            return self.hide(&path, hidden, entry);
        }
        let name = path.name.as_slice();
        match entry.kind {
            EntryKind::Directory => self.write_folder(&path, entry),
            EntryKind::File => {
                let parent = self.vacant(&path, entry)?;
                self.write_file(&parent, name, entry, stream)
            }
            EntryKind::Symlink => {
                if entry.link.is_empty()
                    || entry.link.len() > PATH_BYTES_MAX
                    || entry.link.contains(&0)
                {
                    return Err(refused(&entry.path, "the target of its link is no path"));
                }
                let parent = self.vacant(&path, entry)?;
                rustix::fs::symlinkat(entry.link.as_slice(), &parent, name)
                    .map_err(failed("create the symbolic link", entry))?;
                self.own_without_following(&parent, name, entry)
            }
            EntryKind::HardLink => self.write_hard_link(&path, entry),
            EntryKind::Fifo => {
                let parent = self.vacant(&path, entry)?;
                rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::RUSR, 0)
                    .map_err(failed("create the fifo", entry))?;
                self.own_without_following(&parent, name, entry)?;
                // Follows links, but this is the fifo made above: nobody else writes here.
                rustix::fs::chmodat(&parent, name, mode(entry), AtFlags::empty())
                    .map_err(failed("set the mode", entry))
            }
            EntryKind::Device {
                character: true,
                major: 0,
                minor: 0,
            } => self.hide(&path, name, entry),
            EntryKind::Device { .. } => {
                self.totals.devices_skipped += 1;
                Ok(())
            }
        }
    }

    /// `./` of the archive: only its owner and mode count.
    fn write_root(&mut self, entry: &Entry) -> Result<(), ImageError> {
        if entry.kind != EntryKind::Directory {
            return Err(refused(&entry.path, "the root can only be a folder"));
        }
        let root = self
            .root
            .try_clone()
            .map_err(|error| failed("open the root", entry)(errno_of(&error)))?;
        self.own(&root, entry)
    }

    fn write_folder(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), ImageError> {
        let parent = self.parent(path, entry)?;
        let name = path.name.as_slice();
        let existing = existing(&parent, name, entry)?;
        if existing != Existing::Folder {
            make_room(&parent, name, existing, entry)?;
            rustix::fs::mkdirat(&parent, name, Mode::RWXU)
                .map_err(failed("create the folder", entry))?;
        }
        let folder = open_beneath(&parent, name, entry)?;
        if existing == Existing::Whiteout {
            // Hidden below and made anew: nothing of the lower folder shines through.
            set_opaque(&folder, entry)?;
        }
        self.own(&folder, entry)
    }

    fn write_file<S: Entries>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        stream: &mut S,
    ) -> Result<(), ImageError> {
        let file = rustix::fs::openat(
            parent,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(failed("create the file", entry))?;
        let mut file = std::fs::File::from(file);
        let mut left = entry.size;
        let written = |error| failed("write the file", entry)(errno_of(&error));
        while left > 0 {
            let count = stream.read_content(&mut self.buffer).map_err(read_error)?;
            if count == 0 {
                return Err(ImageError::Truncated("inside a file"));
            }
            let piece = &self.buffer[..count];
            // A hole takes no room: a sandbox may have files of nothing but zeros.
            if piece.iter().all(|byte| *byte == 0) {
                let skipped = i64::try_from(count).unwrap_or(i64::MAX);
                file.seek(SeekFrom::Current(skipped)).map_err(written)?;
            } else {
                file.write_all(piece).map_err(written)?;
            }
            left = left.saturating_sub(count as u64);
        }
        file.set_len(entry.size).map_err(written)?;
        self.totals.bytes += entry.size;
        let file = OwnedFd::from(file);
        self.own(&file, entry)?;
        rustix::fs::futimens(&file, &times(entry)).map_err(failed("set the time", entry))
    }

    fn write_hard_link(&mut self, path: &EntryPath, entry: &Entry) -> Result<(), ImageError> {
        let target = EntryPath::parse(&entry.link)?
            .ok_or_else(|| refused(&entry.path, "it is a hard link to the root"))?;
        if target == *path {
            return Ok(());
        }
        let target_parent = open_beneath(&self.root, &target.parent, entry)?;
        let found = rustix::fs::statat(
            &target_parent,
            target.name.as_slice(),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed("find the target of the hard link", entry))?;
        if !matches!(
            FileType::from_raw_mode(found.st_mode),
            FileType::RegularFile | FileType::Symlink
        ) {
            return Err(refused(
                &entry.path,
                "it is a hard link to something that is neither a file nor a symbolic link",
            ));
        }
        let parent = self.vacant(path, entry)?;
        // Without AT_SYMLINK_FOLLOW the link itself is linked, not where it leads.
        rustix::fs::linkat(
            &target_parent,
            target.name.as_slice(),
            &parent,
            path.name.as_slice(),
            AtFlags::empty(),
        )
        .map_err(failed("create the hard link", entry))
    }

    /// Hides `name` of lower layers. What this layer itself has under that name stays.
    fn hide(&mut self, path: &EntryPath, name: &[u8], entry: &Entry) -> Result<(), ImageError> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(refused(&entry.path, "it hides nothing that can exist"));
        }
        let parent = self.parent(path, entry)?;
        match existing(&parent, name, entry)? {
            Existing::Nothing => {
                rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(failed("create the whiteout", entry))
            }
            Existing::Folder => set_opaque(&open_beneath(&parent, name, entry)?, entry),
            Existing::Whiteout | Existing::Other => Ok(()),
        }
    }

    /// The folder of the entry, with nothing in it under the entry's name.
    fn vacant(&mut self, path: &EntryPath, entry: &Entry) -> Result<OwnedFd, ImageError> {
        let parent = self.parent(path, entry)?;
        let existing = existing(&parent, &path.name, entry)?;
        make_room(&parent, &path.name, existing, entry)?;
        Ok(parent)
    }

    /// The folder of the entry; made, with all above it, when the archive has not named it.
    fn parent(&mut self, path: &EntryPath, entry: &Entry) -> Result<OwnedFd, ImageError> {
        match resolve(&self.root, &path.parent) {
            Ok(parent) => return Ok(parent),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(parent_error(errno, entry)),
        }
        let mut folder = self
            .root
            .try_clone()
            .map_err(|error| failed("open the root", entry)(errno_of(&error)))?;
        for component in path.parent.split(|byte| *byte == b'/') {
            if existing(&folder, component, entry)? == Existing::Nothing {
                let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
                rustix::fs::mkdirat(&folder, component, mode)
                    .map_err(failed("create the folder above", entry))?;
            }
            folder = open_beneath(&folder, component, entry)?;
        }
        Ok(folder)
    }

    /// Sets owner, mode and attributes of an open file or folder.
    fn own(&mut self, file: &OwnedFd, entry: &Entry) -> Result<(), ImageError> {
        let (uid, gid) = self.owner(entry);
        rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(failed("set the owner", entry))?;
        // After the owner: changing that clears the set-user-ID bit.
        rustix::fs::fchmod(file, mode(entry)).map_err(failed("set the mode", entry))?;
        for (name, value) in &entry.attributes {
            let believed = !self.from_archive && OVERLAY_WORDS.contains(&name.as_slice());
            // `user.overlay.` steers overlayfs mounts of unprivileged users.
            let is_users = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            if !believed && !is_users {
                self.totals.attributes_dropped += 1;
                continue;
            }
            rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())
                .map_err(failed("set an extended attribute", entry))?;
        }
        Ok(())
    }

    fn own_without_following(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), ImageError> {
        let (uid, gid) = self.owner(entry);
        rustix::fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed("set the owner", entry))?;
        rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the time", entry))
    }

    fn owner(&mut self, entry: &Entry) -> (Uid, Gid) {
        if entry.uid > OWNER_MAX || entry.gid > OWNER_MAX {
            self.totals.owners_replaced += 1;
        }
        let within = |id: u64| match u32::try_from(id) {
            Ok(id) if u64::from(id) <= OWNER_MAX => id,
            _ => NOBODY,
        };
        (
            Uid::from_raw(within(entry.uid)),
            Gid::from_raw(within(entry.gid)),
        )
    }
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o7777)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.mtime_s,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
