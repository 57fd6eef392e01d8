//! The frames of a tar archive, read once from front to back.
//!
//! The `tar` crate decodes single headers; walking from one to the next,
//! long names and extended headers are done here, because every length in an
//! archive is the sender's word: nothing is allocated by it without a bound.

use std::io::Read;

use tar::{EntryType, Header};

use super::{
    ImageError,
    entry_path::{PATH_BYTES_MAX, refused},
    source::read_error,
};

/// Everything in a tar archive comes in blocks of so many bytes.
const BLOCK: usize = 512;
/// Largest extended header accepted, bytes; real ones hold a few hundred.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// What an entry is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    /// A character or block device with these numbers.
    Device {
        character: bool,
        major: u32,
        minor: u32,
    },
}

/// One entry, its extensions applied. Nothing in it is checked for meaning.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    /// Bytes of content that follow.
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds since 1970.
    pub(super) mtime_s: i64,
    /// Extended attributes, names without the `SCHILY.xattr.` of their records.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Entries one after the other, each before its content.
pub(super) trait Entries {
    /// Whether they come from an archive: its names may begin with `.wh.` to hide
    /// others, and nothing that it says about overlayfs is believed.
    const IS_ARCHIVE: bool;

    /// The next entry, skipping what is left of the last one; none at the end.
    fn next(&mut self) -> Result<Option<Entry>, ImageError>;

    /// Reads from the content of the last entry; 0 at its end.
    fn read_content(&mut self, buffer: &mut [u8]) -> std::io::Result<usize>;
}

/// What headers before an entry say about it.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime_s: Option<i64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar archive being read.
#[derive(Debug)]
pub(super) struct TarStream<R> {
    reader: R,
    /// Content of the last entry not yet read.
    content: u64,
    /// Filling after it.
    padding: u64,
    offset: u64,
}

impl<R: Read> TarStream<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            content: 0,
            padding: 0,
            offset: 0,
        }
    }

    /// The next entry, skipping what is left of the last one; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        let mut extensions = Extensions::default();
        // Shared by all extended headers of one entry: any number may come.
        let mut budget = EXTENSION_BYTES_MAX;
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header
                .entry_size()
                .map_err(|error| self.malformed(format!("bad size: {error}")))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let records = self.extension(size, budget)?;
                    budget -= size;
                    self.apply_records(&records, &mut extensions)?;
                }
                // Comments for the whole archive, and volume labels (`V`).
                EntryType::XGlobalHeader => self.set_content(size)?,
                label if label.as_byte() == b'V' => self.set_content(size)?,
                EntryType::GNULongName => extensions.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(size)?),
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    /// The content of the last entry.
    pub(super) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// The reader, behind the archive's end marker.
    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, ImageError> {
        let path = extensions
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = self.kind(header, &path)?;
        // Only files have content; the size field of others is meaningless.
        let size = if kind == EntryKind::File {
            extensions.size.unwrap_or(size)
        } else {
            0
        };
        self.set_content(size)?;
        let number = |field: std::io::Result<u64>, name: &str| {
            field.map_err(|error| self.malformed(format!("bad {name}: {error}")))
        };
        Ok(Entry {
            kind,
            link: extensions.link.unwrap_or_else(|| {
                header
                    .link_name_bytes()
                    .map(std::borrow::Cow::into_owned)
                    .unwrap_or_default()
            }),
            size,
            mode: header
                .mode()
                .map_err(|error| self.malformed(format!("bad mode: {error}")))?
                & 0o7777,
            uid: extensions
                .uid
                .map_or_else(|| number(header.uid(), "uid"), Ok)?,
            gid: extensions
                .gid
                .map_or_else(|| number(header.gid(), "gid"), Ok)?,
            mtime_s: extensions
                .mtime_s
                .or_else(|| i64::try_from(header.mtime().ok()?).ok())
                .unwrap_or(0),
            attributes: extensions.attributes,
            path,
        })
    }

    fn kind(&self, header: &Header, path: &[u8]) -> Result<EntryKind, ImageError> {
        let device = |character| -> Result<EntryKind, ImageError> {
            let number = |field: std::io::Result<Option<u32>>| {
                field
                    .map(Option::unwrap_or_default)
                    .map_err(|error| self.malformed(format!("bad device number: {error}")))
            };
            Ok(EntryKind::Device {
                character,
                major: number(header.device_major())?,
                minor: number(header.device_minor())?,
            })
        };
        Ok(match header.entry_type() {
            // Archives from before POSIX mark folders by the slash alone.
            EntryType::Regular if path.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Link => EntryKind::HardLink,
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::Char => device(true)?,
            EntryType::Block => device(false)?,
            EntryType::GNUSparse => return Err(sparse(path)),
            other => {
                return Err(refused(
                    path,
                    format!("its type {:?} is not known", char::from(other.as_byte())),
                ));
            }
        })
    }

    /// The next header block; none at the end marker.
    fn header(&mut self) -> Result<Option<Header>, ImageError> {
        let mut block = [0; BLOCK];
        let mut zero_blocks = 0;
        loop {
            match self.fill(&mut block)? {
                0 if zero_blocks > 0 => return Ok(None),
                0 => return Err(ImageError::Truncated("without its end marker")),
                BLOCK => {}
                _ => return Err(ImageError::Truncated("inside a header")),
            }
            if block.iter().any(|byte| *byte != 0) {
                break;
            }
            zero_blocks += 1;
            if zero_blocks == 2 {
                return Ok(None);
            }
        }
        if zero_blocks > 0 {
            return Err(self.malformed("data after an end marker"));
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block
            .iter()
            .enumerate()
            // The checksum field itself counts as spaces.
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn apply_records(
        &self,
        mut rest: &[u8],
        extensions: &mut Extensions,
    ) -> Result<(), ImageError> {
        while !rest.is_empty() {
            let (key, value, after) =
                record(rest).ok_or_else(|| self.malformed("a bad extended header"))?;
            rest = after;
            let number = || {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok())
                    .ok_or_else(|| self.malformed("a bad number in an extended header"))
            };
            match key {
                b"path" => extensions.path = Some(value.to_vec()),
                b"linkpath" => extensions.link = Some(value.to_vec()),
                b"size" => extensions.size = Some(number()?),
                b"uid" => extensions.uid = Some(number()?),
                b"gid" => extensions.gid = Some(number()?),
                b"mtime" => extensions.mtime_s = whole_seconds(value),
                key if key.starts_with(b"GNU.sparse.") => return Err(sparse(b"(sparse file)")),
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extensions.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The content of an extension entry.
    fn extension(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, ImageError> {
        if size > limit {
            return Err(ImageError::TooLarge {
                what: "bytes in an extended header or long name",
                limit,
            });
        }
        self.set_content(size)?;
        let mut bytes = Vec::new();
        self.content().read_to_end(&mut bytes).map_err(read_error)?;
        if bytes.len() as u64 != size {
            return Err(ImageError::Truncated("inside an extended header"));
        }
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, ImageError> {
        // One more for the zero byte at its end.
        let mut name = self.extension(size, PATH_BYTES_MAX as u64 + 1)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn set_content(&mut self, size: u64) -> Result<(), ImageError> {
        if size > i64::MAX as u64 {
            return Err(self.malformed("an impossible size"));
        }
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), ImageError> {
        std::io::copy(&mut self.content(), &mut std::io::sink()).map_err(read_error)?;
        if self.content > 0 {
            return Err(ImageError::Truncated("inside a file"));
        }
        let mut padding = [0; BLOCK];
        let length = usize::try_from(self.padding).expect("padding is shorter than a block");
        if self.fill(&mut padding[..length])? < length {
            return Err(ImageError::Truncated("inside a file"));
        }
        self.padding = 0;
        Ok(())
    }

    /// Reads until the buffer is full or the stream ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }

    fn malformed(&self, detail: impl Into<String>) -> ImageError {
        ImageError::Malformed {
            detail: detail.into(),
            offset: self.offset,
        }
    }
}

/// Reads the content of one entry.
#[derive(Debug)]
pub(super) struct Content<'a, R>(&'a mut TarStream<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.0.content)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.0.reader.read(&mut buffer[..most])?;
        self.0.content -= count as u64;
        self.0.offset += count as u64;
        Ok(count)
    }
}

impl<R: Read> Entries for TarStream<R> {
    const IS_ARCHIVE: bool = true;

    fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        Self::next(self)
    }

    fn read_content(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.content().read(buffer)
    }
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

/// The seconds of a time like `1700000000.25` or `-3.5`, fractions dropped.
fn whole_seconds(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split('.').next()?.parse().ok()
}

fn sparse(path: &[u8]) -> ImageError {
    refused(
        path,
        "sparse files are not supported; pack the archive again without `--sparse`",
    )
}

#[cfg(test)]
#[path = "tar_stream_tests.rs"]
mod tests;
