//! Unpacks what [`mod@super::pack`] has packed.
//!
//! The archive is ours, the names in it are not: every name is used with the
//! descriptor of its folder, which is opened without following any link.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::fd::OwnedFd,
};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod,
    fchown, futimens, linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use tar::{EntryType, Header};

use super::{
    attribute,
    owner::Ids,
    pack::BLOCK,
    walk::{PATH_BYTES_MAX, open_below, shown},
};
use crate::error::{At as _, Error, Step};

/// Records of one entry, bytes: its attributes have 64 KiB each.
const RECORDS_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the list of pieces of a sparse file.
const MAP_BYTES_MAX: usize = 64 << 20;
/// Bytes copied at once.
const COPY_BYTES: usize = 128 << 10;

/// Unpacks `source` below `upper`, a fresh folder; owners become `ids`.
///
/// # Errors
/// What could not be written, or that the archive is damaged.
pub(crate) fn unpack(source: File, upper: &OwnedFd, ids: Ids) -> Result<(), Error> {
    let at = Step::UnpackFiles;
    let decoder = zstd::Decoder::new(source).at(at, "its files")?;
    let mut unpacker = Unpacker {
        source: BufReader::new(decoder),
        root: upper,
        ids,
        folders: Vec::new(),
        buffer: vec![0; COPY_BYTES],
    };
    while let Some(entry) = unpacker.next().at(at, "its files")? {
        unpacker.write(&entry).at(at, shown(&entry.path))?;
    }
    unpacker.set_times().at(at, "its files")
}

/// One entry of the archive.
#[derive(Debug)]
struct Entry {
    header: Header,
    path: Vec<u8>,
    link: Vec<u8>,
    mtime: Timespec,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The size of a sparse file.
    realsize: Option<u64>,
}

struct Unpacker<'a, R> {
    source: R,
    root: &'a OwnedFd,
    ids: Ids,
    /// Folders whose time is set when all is in them.
    folders: Vec<(Vec<u8>, Timespec)>,
    buffer: Vec<u8>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the archive is damaged: {what}"),
    )
}

impl<R: Read> Unpacker<'_, R> {
    /// The next entry, its records applied; none at the end.
    fn next(&mut self) -> io::Result<Option<Entry>> {
        let Some(extended) = self.header()? else {
            return Ok(None);
        };
        let length = extended.entry_size()?;
        if extended.entry_type() != EntryType::XHeader || length > RECORDS_BYTES_MAX {
            return Err(damaged("an entry without records"));
        }
        let mut records = Vec::new();
        self.source
            .by_ref()
            .take(length)
            .read_to_end(&mut records)?;
        self.skip_padding(length)?;
        let header = self.header()?.ok_or_else(|| damaged("it ends too early"))?;
        let mut entry = Entry {
            header,
            path: Vec::new(),
            link: Vec::new(),
            mtime: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            attributes: Vec::new(),
            realsize: None,
        };
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (key, value, after) = record(rest).ok_or_else(|| damaged("a bad record"))?;
            rest = after;
            match key {
                b"path" => entry.path = value.to_vec(),
                b"linkpath" => entry.link = value.to_vec(),
                b"mtime" => entry.mtime = time(value).ok_or_else(|| damaged("a bad time"))?,
                b"GNU.sparse.realsize" => entry.realsize = Some(number(value)?),
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        entry.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(Some(entry))
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = [0; BLOCK];
        self.source.read_exact(&mut block)?;
        if block == [0; BLOCK] {
            // To the very end: only there is the checksum compared.
            io::copy(&mut self.source, &mut io::sink())?;
            return Ok(None);
        }
        Ok(Some(Header::from_byte_slice(&block).clone()))
    }

    fn skip_padding(&mut self, size: u64) -> io::Result<()> {
        let filling = size.next_multiple_of(BLOCK as u64) - size;
        let filling = usize::try_from(filling).unwrap_or(0);
        self.source.read_exact(&mut [0; BLOCK][..filling])
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        if entry.path == b"." {
            let root = self.root.try_clone()?;
            self.folders.push((Vec::new(), entry.mtime));
            return self.own(&root, entry);
        }
        let (parent, name) = self.place(&entry.path)?;
        match entry.header.entry_type() {
            EntryType::Directory => {
                mkdirat(&parent, name, Mode::RWXU)?;
                self.folders.push((entry.path.clone(), entry.mtime));
                let folder = open_below(&parent, name)?;
                self.own(&folder, entry)
            }
            EntryType::Regular => self.write_file(&parent, name, entry),
            EntryType::Symlink => {
                symlinkat(entry.link.as_slice(), &parent, name)?;
                self.own_place(&parent, name, entry)
            }
            EntryType::Link => {
                let (first_parent, first) = self.place(&entry.link)?;
                Ok(linkat(
                    &first_parent,
                    first,
                    &parent,
                    name,
                    AtFlags::empty(),
                )?)
            }
            EntryType::Fifo => {
                let mode = Mode::from_raw_mode(entry.header.mode()? & 0o7777);
                mknodat(&parent, name, FileType::Fifo, mode, 0)?;
                self.own_place(&parent, name, entry)
            }
            // Hides what the layers below have.
            EntryType::Char => Ok(mknodat(
                &parent,
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )?),
            _ => Err(damaged("an entry of an unknown kind")),
        }
    }

    /// The folder of a path, and the name in it.
    fn place<'p>(&self, path: &'p [u8]) -> io::Result<(OwnedFd, &'p [u8])> {
        let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
        if path.len() > PATH_BYTES_MAX || path.split(|byte| *byte == b'/').any(bad) {
            return Err(damaged("a name that is none"));
        }
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        Ok((open_below(self.root, parent)?, name))
    }

    fn write_file(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        let packed = entry.header.entry_size()?;
        match entry.realsize {
            None => self.copy(&mut file, packed)?,
            Some(realsize) => {
                for (offset, length) in self.pieces()? {
                    file.seek(SeekFrom::Start(offset))?;
                    self.copy(&mut file, length)?;
                }
                file.set_len(realsize)?;
            }
        }
        self.skip_padding(packed)?;
        let file = OwnedFd::from(file);
        self.own(&file, entry)?;
        Ok(futimens(&file, &times(entry.mtime))?)
    }

    fn copy(&mut self, file: &mut File, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(COPY_BYTES);
            self.source.read_exact(&mut self.buffer[..most])?;
            file.write_all(&self.buffer[..most])?;
            left -= most as u64;
        }
        Ok(())
    }

    /// The list of pieces before the data of a sparse file.
    fn pieces(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut text = Vec::new();
        let mut lines_wanted = None;
        loop {
            let mut block = [0; BLOCK];
            self.source.read_exact(&mut block)?;
            text.extend_from_slice(&block);
            let lines = text.iter().filter(|byte| **byte == b'\n').count();
            if lines_wanted.is_none() && lines > 0 {
                let first = text.split(|byte| *byte == b'\n').next();
                lines_wanted = Some(1 + 2 * number(first.unwrap_or_default())?);
            }
            if lines_wanted.is_some_and(|wanted| lines as u64 >= wanted) {
                break;
            }
            if text.len() > MAP_BYTES_MAX {
                return Err(damaged("an endless list of pieces"));
            }
        }
        let mut numbers = text.split(|byte| *byte == b'\n').map(number);
        let mut next = || {
            numbers
                .next()
                .unwrap_or_else(|| Err(damaged("a short list")))
        };
        let count = next()?;
        (0..count).map(|_| Ok((next()?, next()?))).collect()
    }

    /// Gives an open file or folder its attributes, owner and mode.
    fn own(&self, file: &OwnedFd, entry: &Entry) -> io::Result<()> {
        for (name, value) in &entry.attributes {
            if attribute::belongs(name) {
                attribute::write(file, name, value, |id| self.ids.outside(id))?;
            }
        }
        let (uid, gid) = self.owner(entry)?;
        fchown(file, Some(uid), Some(gid))?;
        // After the owner: changing that clears the bits that set the user.
        Ok(fchmod(
            file,
            Mode::from_raw_mode(entry.header.mode()? & 0o7777),
        )?)
    }

    fn own_place(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner(entry)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(parent, name, Some(uid), Some(gid), flags)?;
        Ok(utimensat(parent, name, &times(entry.mtime), flags)?)
    }

    fn owner(&self, entry: &Entry) -> io::Result<(Uid, Gid)> {
        let outside = |id: u64| self.ids.outside(u32::try_from(id).unwrap_or(u32::MAX));
        Ok((
            Uid::from_raw(outside(entry.header.uid()?)),
            Gid::from_raw(outside(entry.header.gid()?)),
        ))
    }

    fn set_times(&self) -> io::Result<()> {
        for (path, mtime) in &self.folders {
            futimens(open_below(self.root, path)?, &times(*mtime))?;
        }
        Ok(())
    }
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: mtime,
    }
}

fn number(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| damaged("a bad number"))
}

/// A time like `1700000000.000000001`.
fn time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
    Some(Timespec {
        tv_sec: seconds.parse().ok()?,
        tv_nsec: nanos.parse().ok()?,
    })
}

/// Splits `LENGTH KEY=VALUE\n` off: key, value, rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    if length > bytes.len() || length <= space + 1 {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    let (last, body) = record[space + 1..].split_last()?;
    if *last != b'\n' {
        return None;
    }
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}
