//! Packs a writable layer: a tar archive, compressed by zstd.
//!
//! The form is POSIX's extended one, with GNU's words for sparse files, so that an
//! operator can unpack it with the usual tools: owners are the sandbox's own, hidden
//! names are overlayfs's whiteouts. Sockets and devices are left out: without their
//! processes they are nothing.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Read as _, Write},
    os::fd::OwnedFd,
};

use rustix::fs::{FileType, SeekFrom, readlinkat, seek};
use tar::{EntryType, Header};

use super::{
    attribute,
    owner::Ids,
    walk::{Node, walk},
};
use crate::error::{At as _, Error, Step};

/// Everything in a tar archive comes in blocks of so many bytes.
pub(super) const BLOCK: usize = 512;
/// How hard zstd tries; its own default.
const LEVEL: i32 = 3;
/// Bytes copied at once.
const COPY_BYTES: usize = 128 << 10;
/// Paths of files with several names, bytes in all.
const LINKS_BYTES_MAX: usize = 256 << 20;
/// Pieces of data of one sparse file; what lies behind counts as one more.
const PIECES_MAX: usize = 1 << 20;

/// Packs everything below `upper`, whose owners are `ids`, into `target`, and waits
/// until it would survive the host.
///
/// # Errors
/// What could not be read, or that the space does not suffice.
pub(crate) fn pack(upper: &OwnedFd, ids: Ids, target: File) -> Result<(), Error> {
    let at = Step::PackFiles;
    let mut encoder = zstd::Encoder::new(BufWriter::new(target), LEVEL).at(at, "its files")?;
    encoder.include_checksum(true).at(at, "its files")?;
    let mut packer = Packer {
        out: encoder,
        ids,
        links: HashMap::new(),
        links_bytes: 0,
        buffer: vec![0; COPY_BYTES],
    };
    walk(upper, at, |node| packer.add(node).at(at, node.shown()))?;
    let finish = |packer: Packer<BufWriter<File>>| -> io::Result<()> {
        let mut out = packer.out;
        // Two empty blocks end an archive.
        out.write_all(&[0; 2 * BLOCK])?;
        let file = out.finish()?.into_inner()?;
        file.sync_all()
    };
    finish(packer).at(at, "its files")
}

struct Packer<W: Write> {
    out: zstd::Encoder<'static, W>,
    ids: Ids,
    /// Where the first name of a file with several was.
    links: HashMap<(u64, u64), Vec<u8>>,
    links_bytes: usize,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, node: &Node<'_>) -> io::Result<()> {
        let file_type = node.file_type();
        if file_type != FileType::Directory
            && node.stat.st_nlink > 1
            && let Some(first) = self.linked(node)?
        {
            let mut records = self.records(node);
            push(&mut records, b"linkpath", &first);
            return self.head(node, EntryType::Link, 0, &records);
        }
        match file_type {
            FileType::RegularFile => self.file(node),
            FileType::Directory => {
                let mut records = self.records(node);
                self.attributes(&node.open()?, &mut records)?;
                self.head(node, EntryType::Directory, 0, &records)
            }
            FileType::Symlink => {
                let mut records = self.records(node);
                let target = readlinkat(node.parent, node.name, Vec::new())?;
                push(&mut records, b"linkpath", target.as_bytes());
                self.head(node, EntryType::Symlink, 0, &records)
            }
            FileType::Fifo => self.head(node, EntryType::Fifo, 0, &self.records(node)),
            FileType::CharacterDevice if node.stat.st_rdev == 0 => {
                self.head(node, EntryType::Char, 0, &self.records(node))
            }
            _ => Ok(()),
        }
    }

    /// The first name of a file that was packed already under another one.
    fn linked(&mut self, node: &Node<'_>) -> io::Result<Option<Vec<u8>>> {
        let key = (node.stat.st_dev, node.stat.st_ino);
        if let Some(first) = self.links.get(&key) {
            return Ok(Some(first.clone()));
        }
        self.links_bytes += node.path.len();
        if self.links_bytes > LINKS_BYTES_MAX {
            return Err(io::Error::other(
                "too many files of the sandbox have several names",
            ));
        }
        self.links.insert(key, node.path.to_vec());
        Ok(None)
    }

    fn file(&mut self, node: &Node<'_>) -> io::Result<()> {
        let open = node.open()?;
        let mut records = self.records(node);
        self.attributes(&open, &mut records)?;
        let size = u64::try_from(node.stat.st_size).unwrap_or(0);
        let pieces = pieces(&open, size)?;
        let data: u64 = pieces.iter().map(|(_, length)| length).sum();
        let mut file = File::from(open);
        if data == size {
            self.head(node, EntryType::Regular, size, &records)?;
            self.copy(&mut file, 0, size)?;
            return self.pad(size);
        }
        push(&mut records, b"GNU.sparse.major", b"1");
        push(&mut records, b"GNU.sparse.minor", b"0");
        push(&mut records, b"GNU.sparse.name", node.path);
        let realsize = size.to_string();
        push(&mut records, b"GNU.sparse.realsize", realsize.as_bytes());
        let mut map = format!("{}\n", pieces.len());
        for (offset, length) in &pieces {
            map.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let packed = map.len() as u64 + data;
        self.head(node, EntryType::Regular, packed, &records)?;
        self.out.write_all(&map)?;
        for (offset, length) in pieces {
            self.copy(&mut file, offset, length)?;
        }
        self.pad(packed)
    }

    fn copy(&mut self, file: &mut File, offset: u64, length: u64) -> io::Result<()> {
        io::Seek::seek(file, io::SeekFrom::Start(offset))?;
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(COPY_BYTES);
            let count = file.read(&mut self.buffer[..most])?;
            if count == 0 {
                return Err(io::Error::other("it became shorter while it was read"));
            }
            self.out.write_all(&self.buffer[..count])?;
            left -= count as u64;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let filling = size.next_multiple_of(BLOCK as u64) - size;
        let filling = usize::try_from(filling).unwrap_or(0);
        self.out.write_all(&[0; BLOCK][..filling])
    }

    /// The records of every entry.
    fn records(&self, node: &Node<'_>) -> Vec<u8> {
        let mut records = Vec::new();
        let path = if node.path.is_empty() {
            b"."
        } else {
            node.path
        };
        push(&mut records, b"path", path);
        let (seconds, nanos) = (node.stat.st_mtime, node.stat.st_mtime_nsec);
        // Before 1970 a fraction would count the other way.
        let mtime = match seconds {
            ..0 => seconds.to_string(),
            _ => format!("{seconds}.{nanos:09}"),
        };
        push(&mut records, b"mtime", mtime.as_bytes());
        records
    }

    fn attributes(&self, file: &OwnedFd, records: &mut Vec<u8>) -> io::Result<()> {
        for (name, value) in attribute::read(file, |id| self.ids.inside(id))? {
            let mut key = b"SCHILY.xattr.".to_vec();
            key.extend_from_slice(&name);
            push(records, &key, &value);
        }
        Ok(())
    }

    /// Writes the headers of an entry.
    fn head(
        &mut self,
        node: &Node<'_>,
        kind: EntryType,
        size: u64,
        records: &[u8],
    ) -> io::Result<()> {
        let length = records.len() as u64;
        let extended = self.header(node, EntryType::XHeader, length);
        self.out.write_all(extended.as_bytes())?;
        self.out.write_all(records)?;
        self.pad(length)?;
        let header = self.header(node, kind, size);
        self.out.write_all(header.as_bytes())
    }

    fn header(&self, node: &Node<'_>, kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_ustar();
        // Whoever reads extended headers does not need it.
        let name = &node.path[..node.path.len().min(99)];
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(node.stat.st_mode & 0o7777);
        header.set_uid(u64::from(self.ids.inside(node.stat.st_uid)));
        header.set_gid(u64::from(self.ids.inside(node.stat.st_gid)));
        header.set_mtime(u64::try_from(node.stat.st_mtime).unwrap_or(0));
        header.set_size(size);
        if kind == EntryType::Char {
            // A ustar header has these fields.
            header.set_device_major(0).ok();
            header.set_device_minor(0).ok();
        }
        header.set_cksum();
        header
    }
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts itself.
pub(super) fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Where a file has data: offsets and lengths.
fn pieces(file: &OwnedFd, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut offset = 0;
    while offset < size {
        let begin = match seek(file, SeekFrom::Data(offset)) {
            // Only a hole follows.
            Err(rustix::io::Errno::NXIO) => break,
            begin => begin?,
        };
        let end = match pieces.len() < PIECES_MAX {
            true => seek(file, SeekFrom::Hole(begin))?.min(size),
            false => size,
        };
        if end <= begin {
            break;
        }
        pieces.push((begin, end - begin));
        offset = end;
    }
    Ok(pieces)
}
