//! The files of a tar archive, found again by name: the context of a build, and
//! archives that `ADD` unpacks. Archives may be hostile; nothing is written by
//! their names here, and how much is kept in memory is bounded.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use sandbox::{Error, Result};
use tar::{Archive, EntryType, PaxExtensions};

/// Entries of one archive.
const ENTRIES_MAX: usize = 200_000;
/// Names of all entries, bytes.
const NAMES_BYTES_MAX: usize = 64 << 20;
/// Longest extended header, bytes.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// Uncompressed bytes of one archive.
const ARCHIVE_BYTES_MAX: u64 = 16 << 30;
/// Bytes read at once.
const PIECE_BYTES: usize = 256 << 10;
/// Where a tar archive says that it is one.
const MAGIC_OFFSET: u64 = 257;

/// What an entry is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Folder,
    Link(String),
    File(Part),
}

/// A file or folder.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) mode: u32,
}

/// A part of a file on disk.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Part {
    /// The whole file.
    pub(super) fn whole(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self {
            file: Arc::new(file),
            offset: 0,
            size,
        })
    }

    /// A piece from `at` on; empty at the end. Blocks.
    pub(super) fn piece(&self, at: u64) -> io::Result<Bytes> {
        let left = self.size.saturating_sub(at);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let mut piece = vec![0; length];
        self.file.read_exact_at(&mut piece, self.offset + at)?;
        Ok(piece.into())
    }

    fn begins_with(&self, offset: u64, magic: &[u8]) -> bool {
        let mut found = vec![0; magic.len()];
        self.size >= offset + magic.len() as u64
            && self
                .file
                .read_exact_at(&mut found, self.offset + offset)
                .is_ok()
            && found == magic
    }

    /// Whether it is an archive that [`Tree::of`] may be able to read.
    pub(super) fn is_archive(&self) -> bool {
        self.begins_with(MAGIC_OFFSET, b"ustar") || self.begins_with(0, &[0x1f, 0x8b])
    }
}

/// The files of an archive; the key is the path without a leading slash, and the
/// root is not among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) items: BTreeMap<String, Item>,
}

impl Tree {
    /// Reads where everything lies. Blocks; `folder` is where an archive that is
    /// compressed is put, without a name.
    ///
    /// # Errors
    /// `InvalidRequest` saying what is wrong with the archive.
    pub(super) fn of(part: &Part, folder: &Path) -> Result<Self> {
        let plain = match part.begins_with(0, &[0x1f, 0x8b]) {
            true => decompressed(part, folder)?,
            false => part.clone(),
        };
        let mut tree = Self::default();
        let mut names = 0;
        let mut pending = Extensions::default();
        let mut archive = Archive::new(Reader {
            part: plain.clone(),
            at: 0,
        });
        let entries = archive.entries_with_seek().map_err(broken)?.raw(true);
        for entry in entries {
            let mut entry = entry.map_err(broken)?;
            let kind = entry.header().entry_type();
            if pending.take(kind, &mut entry)? {
                continue;
            }
            let extensions = std::mem::take(&mut pending);
            let raw = match extensions.path {
                Some(path) => path,
                None => entry.path_bytes().into_owned(),
            };
            names += raw.len();
            if tree.items.len() >= ENTRIES_MAX || names > NAMES_BYTES_MAX {
                return Err(Error::limit(format!(
                    "the archive has more than {ENTRIES_MAX} entries or too long names"
                )));
            }
            let path = clean(&raw)?;
            if path.is_empty() {
                continue;
            }
            let link = match extensions.link {
                Some(link) => link,
                None => entry.link_name_bytes().unwrap_or_default().into_owned(),
            };
            let kind = match kind {
                EntryType::Directory => Kind::Folder,
                EntryType::Symlink => Kind::Link(text(&link)?),
                EntryType::Link => match tree.items.get(&clean(&link)?) {
                    Some(first) => first.kind.clone(),
                    None => return Err(broken("a hard link leads to nothing before it")),
                },
                kind if kind.is_file() => Kind::File(Part {
                    file: Arc::clone(&plain.file),
                    offset: plain.offset + entry.raw_file_position(),
                    size: extensions.size.unwrap_or(entry.size()),
                }),
                // Devices and fifos have no meaning in an image.
                _ => continue,
            };
            let mode = entry.header().mode().map_err(broken)? & 0o7777;
            tree.add_parents(&path);
            tree.items.insert(path, Item { kind, mode });
        }
        Ok(tree)
    }

    /// Archives need not name the folders that their files are in.
    fn add_parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.items
                .entry(path[..end].to_owned())
                .or_insert_with(|| Item {
                    kind: Kind::Folder,
                    mode: 0o755,
                });
        }
    }

    /// What lies below a folder; an empty path is the root.
    pub(super) fn below<'a>(
        &'a self,
        folder: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Item)> + use<'a> {
        let prefix = match folder {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        self.items
            .range(prefix.clone()..)
            .take_while({
                let prefix = prefix.clone();
                move |(path, _)| path.starts_with(&prefix)
            })
            .map(move |(path, item)| (&path[prefix.len()..], item))
    }

    /// Paths that a pattern of `COPY` names, in order.
    pub(super) fn matching(&self, pattern: &str) -> Vec<&str> {
        if self.items.contains_key(pattern) {
            return self
                .items
                .get_key_value(pattern)
                .map(|(path, _)| path.as_str())
                .into_iter()
                .collect();
        }
        self.items
            .keys()
            .map(String::as_str)
            .filter(|path| matches_path(pattern, path))
            .collect()
    }
}

/// What headers before an entry say about it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extensions {
    /// Takes a header that only speaks about the next entry; `false` for others.
    fn take(&mut self, kind: EntryType, entry: &mut impl Read) -> Result<bool> {
        let mut body = || -> Result<Vec<u8>> {
            let mut body = Vec::new();
            let mut bounded = entry.take(EXTENSION_BYTES_MAX + 1);
            bounded.read_to_end(&mut body).map_err(broken)?;
            if body.len() as u64 > EXTENSION_BYTES_MAX {
                return Err(broken("an extended header is too long"));
            }
            Ok(body)
        };
        let name = |mut body: Vec<u8>| {
            let end = body.iter().position(|byte| *byte == 0);
            body.truncate(end.unwrap_or(body.len()));
            body
        };
        match kind {
            EntryType::GNULongName => self.path = Some(name(body()?)),
            EntryType::GNULongLink => self.link = Some(name(body()?)),
            EntryType::XHeader => {
                let body = body()?;
                for record in PaxExtensions::new(&body) {
                    let record = record.map_err(broken)?;
                    let value = record.value_bytes();
                    match record.key_bytes() {
                        b"path" => self.path = Some(value.to_vec()),
                        b"linkpath" => self.link = Some(value.to_vec()),
                        b"size" => self.size = text(value)?.parse().ok(),
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A part as a file of its own.
struct Reader {
    part: Part,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.part.size.saturating_sub(self.at);
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let offset = self.part.offset + self.at;
        let count = self.part.file.read_at(&mut buffer[..most], offset)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl io::Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.part.size.checked_add_signed(by),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

fn decompressed(part: &Part, folder: &Path) -> Result<Part> {
    let source = Reader {
        part: part.clone(),
        at: 0,
    };
    let mut plain = tempfile::tempfile_in(folder).map_err(unkept)?;
    let decoder = flate2::read::MultiGzDecoder::new(io::BufReader::new(source));
    let size = io::copy(&mut decoder.take(ARCHIVE_BYTES_MAX + 1), &mut plain).map_err(broken)?;
    if size > ARCHIVE_BYTES_MAX {
        return Err(Error::limit(format!(
            "the archive has more than {ARCHIVE_BYTES_MAX} bytes"
        )));
    }
    plain.flush().map_err(unkept)?;
    plain.rewind().map_err(unkept)?;
    Part::whole(plain).map_err(unkept)
}

/// The path without empty parts, `.` and a leading slash.
fn clean(raw: &[u8]) -> Result<String> {
    let path = text(raw)?;
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let parts: Vec<&str> = parts.collect();
    if parts.contains(&"..") {
        return Err(broken(format!("its entry {path:?} leads out of it")));
    }
    Ok(parts.join("/"))
}

fn text(raw: &[u8]) -> Result<String> {
    String::from_utf8(raw.to_vec())
        .map_err(|_| broken("a name in it is not UTF-8"))
        .and_then(|text| match text.contains('\0') {
            true => Err(broken("a name in it holds a zero byte")),
            false => Ok(text),
        })
}

fn broken(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the archive cannot be used: {what}"))
}

pub(super) fn unkept(error: io::Error) -> Error {
    Error::internal(format!("keep a file of a build: {error}")).with_source(error)
}

/// Whether a pattern names a path, part by part.
fn matches_path(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) => {
                let pattern: Vec<char> = pattern.chars().collect();
                let part: Vec<char> = part.chars().collect();
                if !matches_part(&pattern, &part) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// `*`, `?`, `[a-z]` and `\`, as in shells. Every state is looked at once, so
/// that no pattern takes long.
fn matches_part(pattern: &[char], part: &[char]) -> bool {
    let mut rows = vec![false; part.len() + 1];
    rows[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let mut next = vec![false; part.len() + 1];
        let mut length = 1;
        if pattern[at] == '*' {
            let mut seen = false;
            for (index, row) in rows.iter().enumerate() {
                seen |= *row;
                next[index] = seen;
            }
        } else {
            for (index, letter) in part.iter().enumerate() {
                let (fits, used) = matches_letter(&pattern[at..], *letter);
                length = used;
                next[index + 1] = rows[index] && fits;
            }
            if part.is_empty() {
                return false;
            }
        }
        rows = next;
        at += length;
    }
    rows[part.len()]
}

/// Whether the first element of the pattern names the letter, and its length.
fn matches_letter(pattern: &[char], letter: char) -> (bool, usize) {
    match pattern {
        ['?', ..] => (true, 1),
        ['\\', literal, ..] => (*literal == letter, 2),
        ['[', rest @ ..] => {
            let Some(end) = rest.iter().skip(1).position(|c| *c == ']') else {
                return (letter == '[', 1);
            };
            let set = &rest[..=end];
            let (negated, set) = match set {
                ['^' | '!', set @ ..] => (true, set),
                set => (false, set),
            };
            let (mut found, mut rest) = (false, set);
            while let [first, after @ ..] = rest {
                let (last, after) = match after {
                    ['-', last, after @ ..] => (last, after),
                    after => (first, after),
                };
                found |= (*first..=*last).contains(&letter);
                rest = after;
            }
            (found != negated, end + 3)
        }
        [literal, ..] => (*literal == letter, 1),
        [] => (false, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tar::{Builder, Header};

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o640);
            header.set_size(0);
            match kind {
                EntryType::Symlink | EntryType::Link => {
                    builder.append_link(&mut header, path, content).unwrap()
                }
                _ => {
                    header.set_size(content.len() as u64);
                    builder
                        .append_data(&mut header, path, content.as_bytes())
                        .unwrap();
                }
            }
        }
        builder.into_inner().unwrap()
    }

    fn tree(bytes: &[u8]) -> Result<Tree> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Tree::of(&Part::whole(file).unwrap(), &std::env::temp_dir())
    }

    #[test]
    fn files_are_found_again_by_name_also_compressed() {
        let long = format!("d/{}", "x".repeat(200));
        let plain = archive(&[
            ("a/b/c.txt", EntryType::Regular, "hello"),
            (&long, EntryType::Regular, "long"),
            ("link", EntryType::Symlink, "a"),
            ("twin", EntryType::Link, "a/b/c.txt"),
        ]);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&plain).unwrap();
        for bytes in [plain, encoder.finish().unwrap()] {
            let tree = tree(&bytes).unwrap();
            let content = |path: &str| match &tree.items[path].kind {
                Kind::File(part) => part.piece(0).unwrap(),
                other => panic!("{other:?}"),
            };
            assert_eq!(content("a/b/c.txt"), "hello");
            assert_eq!(content("twin"), "hello");
            assert_eq!(content(&long), "long");
            assert!(matches!(&tree.items["link"].kind, Kind::Link(to) if to == "a"));
            let below: Vec<&str> = tree.below("a").map(|(path, _)| path).collect();
            assert_eq!(below, ["b", "b/c.txt"]);
            assert_eq!(tree.below("").count(), tree.items.len());
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        let mut bytes = archive(&[("aa/b", EntryType::Regular, "")]);
        bytes[..2].copy_from_slice(b"..");
        let mut header = Header::from_byte_slice(&bytes[..512]).clone();
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        assert!(tree(&bytes).unwrap_err().message.contains("leads out"));
        assert!(tree(b"no archive at all, but long enough to be looked at").is_err());
    }

    #[test]
    fn patterns_name_paths_part_by_part() {
        for (pattern, path, wanted) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("d/*", "d/a", true),
            ("?[a-c]*", "xbyz", true),
            ("?[a-c]*", "xdyz", false),
            ("[!a]b", "cb", true),
            ("[^a]b", "ab", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("a", "b", false),
        ] {
            assert_eq!(matches_path(pattern, path), wanted, "{pattern} {path}");
        }
        let hard = "*a".repeat(200);
        assert!(!matches_path(&hard, &"a".repeat(199)));
    }

    proptest! {
        #[test]
        fn no_archive_and_no_pattern_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), pattern in "[a*?\\[\\]^\\\\-]{0,12}", path in "[a/-]{0,8}") {
            let _ = tree(&bytes);
            let _ = matches_path(&pattern, &path);
        }
    }
}
