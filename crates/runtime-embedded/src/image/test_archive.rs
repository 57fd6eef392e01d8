//! Archives for tests, written header by header so that they may say anything.

use tar::{EntryType, Header};

/// A tar archive in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    /// A file.
    pub(super) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", content)
    }

    pub(super) fn folder(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    pub(super) fn entry(self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Self {
        self.custom(kind, path, link, content, |_| {})
    }

    /// An entry whose header is changed before its checksum is made.
    pub(super) fn custom(
        mut self,
        kind: EntryType,
        path: &str,
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Self {
        // What does not fit into a header goes into an extended one before it.
        let mut records = Vec::new();
        if path.len() > 100 {
            records.push(("path", path.as_bytes()));
        }
        if link.len() > 100 {
            records.push(("linkpath", link.as_bytes()));
        }
        if !records.is_empty() {
            self = self.extended(&records);
        }
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, path), (&mut old.linkname, link)] {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text.as_bytes()[..length]);
        }
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_uid(u64::from(rustix::process::geteuid().as_raw()));
        header.set_gid(u64::from(rustix::process::getegid().as_raw()));
        header.set_mtime(1_600_000_000);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        change(&mut header);
        header.set_cksum();
        self.block(header.as_bytes()).block(content)
    }

    /// An extended header for the next entry.
    pub(super) fn extended(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(EntryType::XHeader, "PaxHeaders/x", "", &body)
    }

    /// Bytes, filled up to whole blocks.
    pub(super) fn block(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The archive with its end marker.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
