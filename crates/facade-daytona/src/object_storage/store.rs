//! Where contexts are kept: one file each, named by the hash that its client gave it.

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use control::PieceStream;
use futures_util::StreamExt as _;
use sandbox::{Error, Result};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt as _,
};

use super::ORGANIZATION;
use crate::token;

/// Largest context, bytes.
const CONTEXT_BYTES_MAX: u64 = 4 << 30;
/// All contexts together, bytes; those used longest ago go first.
const CONTEXTS_BYTES_MAX: u64 = 16 << 30;
/// Most parts of an upload, as at S3.
const PART_MAX: u32 = 10_000;
/// Uploads in parts that may be under way.
const UPLOADS_MAX: usize = 64;
/// The name of every object.
const FILE: &str = "context.tar";

/// The key of a context: the hash is all that distinguishes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// A context by its hash.
    pub(crate) fn of_hash(hash: &str) -> Option<Self> {
        let hexadecimal = hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        ((16..=128).contains(&hash.len()) && hexadecimal).then(|| Self(hash.to_ascii_lowercase()))
    }

    /// From the key of an object.
    pub(super) fn parse(key: &str) -> Option<Self> {
        let rest = key.strip_prefix(ORGANIZATION)?.strip_prefix('/')?;
        Self::of_hash(rest.strip_suffix(FILE)?.strip_suffix('/')?)
    }

    /// From the beginning of a key, up to the hash at least.
    pub(super) fn of_prefix(prefix: &str) -> Option<Self> {
        let rest = prefix.strip_prefix(ORGANIZATION)?.strip_prefix('/')?;
        Self::of_hash(rest.split('/').next()?)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ORGANIZATION}/{}/{FILE}", self.0)
    }
}

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) key: String,
    pub(super) bytes: u64,
}

impl Stored {
    /// What tells contents apart for clients that compare.
    pub(super) fn etag(&self) -> String {
        format!("\"{:x}\"", self.bytes)
    }
}

/// The contexts of one server.
#[derive(Clone, Debug)]
pub(crate) struct ContextStore(PathBuf);

impl ContextStore {
    /// Keeps contexts below `folder`, which is made when it is needed.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The files of contexts.
    ///
    /// # Errors
    /// As [`ContextStore::file`].
    pub(crate) async fn files(&self, hashes: &[String]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::with_capacity(hashes.len());
        for hash in hashes {
            files.push(self.file(hash).await?);
        }
        Ok(files)
    }

    /// The file of a context.
    ///
    /// # Errors
    /// `InvalidRequest` when it was not uploaded, or was removed since.
    pub(crate) async fn file(&self, hash: &str) -> Result<PathBuf> {
        let missing = || {
            Error::invalid(format!(
                "field `buildInfo.contextHashes`: the files {hash:?} are not here; upload them again"
            ))
        };
        let path = self.path(&Key::of_hash(hash).ok_or_else(missing)?);
        match fs::try_exists(&path).await {
            Ok(true) => Ok(path),
            _ => Err(missing()),
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.0.join(format!("{}.tar", key.0))
    }

    fn upload(&self, id: &str) -> Result<PathBuf> {
        let known = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match known {
            true => Ok(self.0.join(format!("upload-{id}"))),
            false => Err(Error::not_found("there is no such upload")),
        }
    }

    pub(super) async fn find(&self, key: &Key) -> Result<Option<Stored>> {
        match fs::metadata(self.path(key)).await {
            Ok(metadata) => Ok(Some(Stored {
                key: key.to_string(),
                bytes: metadata.len(),
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look at a context", error)),
        }
    }

    /// Keeps a context, whole or not at all.
    pub(super) async fn put(&self, key: &Key, content: PieceStream<Bytes>) -> Result<Stored> {
        let draft = self.draft().await?;
        let stored = async {
            let bytes = write(&draft, content, CONTEXT_BYTES_MAX).await?;
            self.publish(&draft, key, bytes).await
        };
        let stored = stored.await;
        if stored.is_err() {
            // Renamed away when all went well.
            let _gone = fs::remove_file(&draft).await;
        }
        stored
    }

    /// Begins an upload in parts.
    pub(super) async fn begin(&self) -> Result<String> {
        self.make_room(0).await?;
        let id = token::random()?;
        let folder = self.upload(&id)?;
        fs::create_dir_all(&folder)
            .await
            .map_err(|error| failed("make a folder for an upload", error))?;
        Ok(id)
    }

    pub(super) async fn put_part(
        &self,
        upload: &str,
        part: u32,
        content: PieceStream<Bytes>,
    ) -> Result<Stored> {
        if !(1..=PART_MAX).contains(&part) {
            return Err(Error::invalid(format!(
                "partNumber: {part} is not from 1 to {PART_MAX}"
            )));
        }
        let folder = self.upload(upload)?;
        let room = CONTEXT_BYTES_MAX.saturating_sub(size_of(&folder).await?);
        let path = folder.join(part.to_string());
        let draft = folder.join(format!("{part}.{}", token::random()?));
        let bytes = write(&draft, content, room).await?;
        fs::rename(&draft, &path)
            .await
            .map_err(|error| failed("keep a part", error))?;
        Ok(Stored {
            key: part.to_string(),
            bytes,
        })
    }

    /// Joins the parts.
    pub(super) async fn complete(&self, key: &Key, upload: &str, parts: &[u32]) -> Result<Stored> {
        if parts.is_empty() {
            return Err(Error::invalid("the upload has no parts"));
        }
        let folder = self.upload(upload)?;
        let draft = self.draft().await?;
        let joined = async {
            let mut file = create(&draft).await?;
            let mut bytes = 0;
            for part in parts {
                let mut part = File::open(folder.join(part.to_string()))
                    .await
                    .map_err(|error| missing_or("read a part", error))?;
                bytes += tokio::io::copy(&mut part, &mut file)
                    .await
                    .map_err(|error| failed("join the parts", error))?;
                if bytes > CONTEXT_BYTES_MAX {
                    return Err(too_large(CONTEXT_BYTES_MAX));
                }
            }
            finish(file).await?;
            self.publish(&draft, key, bytes).await
        };
        let joined = joined.await;
        match joined.is_ok() {
            true => self.abort(upload).await?,
            false => drop(fs::remove_file(&draft).await),
        }
        joined
    }

    /// Forgets an upload in parts.
    pub(super) async fn abort(&self, upload: &str) -> Result<()> {
        match fs::remove_dir_all(self.upload(upload)?).await {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove an upload", error))
            }
            _ => Ok(()),
        }
    }

    async fn draft(&self) -> Result<PathBuf> {
        fs::create_dir_all(&self.0)
            .await
            .map_err(|error| failed("make the folder of contexts", error))?;
        Ok(self.0.join(format!("draft-{}", token::random()?)))
    }

    async fn publish(&self, draft: &Path, key: &Key, bytes: u64) -> Result<Stored> {
        self.make_room(bytes).await?;
        fs::rename(draft, self.path(key))
            .await
            .map_err(|error| failed("keep a context", error))?;
        Ok(Stored {
            key: key.to_string(),
            bytes,
        })
    }

    /// Removes what was written longest ago until `more` bytes fit, and uploads
    /// beyond their number.
    async fn make_room(&self, more: u64) -> Result<()> {
        let (mut contexts, mut uploads) = (Vec::new(), Vec::new());
        let mut listing = match fs::read_dir(&self.0).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            listing => listing.map_err(|error| failed("list the contexts", error))?,
        };
        while let Ok(Some(entry)) = listing.next_entry().await {
            let Ok(metadata) = entry.metadata().await else {
                continue;
            };
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match metadata.is_dir() {
                true => uploads.push((written, entry.path())),
                false if entry.path().extension().is_some() => {
                    contexts.push((written, metadata.len(), entry.path()));
                }
                false => {}
            }
        }
        contexts.sort();
        uploads.sort();
        let mut bytes: u64 = contexts.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in contexts {
            if bytes.saturating_add(more) <= CONTEXTS_BYTES_MAX {
                break;
            }
            // Somebody else may have removed it; that makes room, too.
            let _gone = fs::remove_file(path).await;
            bytes -= size;
        }
        let excess = uploads.len().saturating_sub(UPLOADS_MAX);
        for (_, path) in uploads.into_iter().take(excess) {
            let _gone = fs::remove_dir_all(path).await;
        }
        Ok(())
    }
}

/// Bytes of the files in a folder.
async fn size_of(folder: &Path) -> Result<u64> {
    let mut listing = fs::read_dir(folder)
        .await
        .map_err(|error| missing_or("list the parts", error))?;
    let mut bytes = 0;
    while let Ok(Some(entry)) = listing.next_entry().await {
        bytes += entry.metadata().await.map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}

async fn create(path: &Path) -> Result<File> {
    File::create_new(path)
        .await
        .map_err(|error| failed("make a file", error))
}

async fn finish(mut file: File) -> Result<()> {
    file.flush()
        .await
        .map_err(|error| failed("write a context", error))
}

async fn write(path: &Path, mut content: PieceStream<Bytes>, bytes_max: u64) -> Result<u64> {
    let mut file = create(path).await?;
    let mut bytes = 0;
    while let Some(piece) = content.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        if bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        file.write_all(&piece)
            .await
            .map_err(|error| failed("write a context", error))?;
    }
    finish(file).await?;
    Ok(bytes)
}

fn too_large(bytes_max: u64) -> Error {
    Error::limit(format!(
        "the files are too large: at most {bytes_max} bytes are possible"
    ))
}

fn missing_or(what: &str, error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::not_found("there is no such upload, or not this part of it"),
        _ => failed(what, error),
    }
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::internal(format!("cannot {what}: {error}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef";

    fn content(pieces: &[&'static [u8]]) -> PieceStream<Bytes> {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece)))
            .collect();
        Box::pin(futures_util::stream::iter(pieces))
    }

    #[test]
    fn only_hashes_are_keys() {
        let good = format!("default/{HASH}/context.tar");
        assert_eq!(Key::parse(&good).unwrap().to_string(), good);
        for bad in [
            "default/../context.tar",
            "default/../../etc/passwd/context.tar",
            &format!("other/{HASH}/context.tar"),
            &format!("default/{HASH}/x"),
            &format!("default/{HASH}"),
            "default//context.tar",
            "",
        ] {
            assert_eq!(Key::parse(bad), None, "{bad:?}");
        }
        assert!(Key::of_prefix(&format!("default/{HASH}")).is_some());
        assert!(Key::of_prefix(&format!("default/{HASH}/")).is_some());
        assert_eq!(Key::of_prefix("default/.."), None);
    }

    #[tokio::test]
    async fn a_context_is_kept_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContextStore::new(folder.path().join("contexts"));
        let key = Key::of_hash(HASH).unwrap();
        assert!(store.file(HASH).await.is_err());
        let broken: PieceStream<Bytes> = Box::pin(futures_util::stream::iter([
            Ok(Bytes::from_static(b"half")),
            Err(Error::invalid("broke off")),
        ]));
        assert!(store.put(&key, broken).await.is_err());
        assert_eq!(store.find(&key).await.unwrap(), None);
        assert_eq!(
            store
                .put(&key, content(&[b"ab", b"c"]))
                .await
                .unwrap()
                .bytes,
            3
        );
        let path = store.file(HASH).await.unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"abc");
        let left = std::fs::read_dir(folder.path().join("contexts"))
            .unwrap()
            .count();
        assert_eq!(left, 1, "no drafts are left");
    }

    #[tokio::test]
    async fn parts_are_joined_in_the_order_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContextStore::new(folder.path().to_owned());
        let key = Key::of_hash(HASH).unwrap();
        let upload = store.begin().await.unwrap();
        store
            .put_part(&upload, 2, content(&[b"world"]))
            .await
            .unwrap();
        store
            .put_part(&upload, 1, content(&[b"hello "]))
            .await
            .unwrap();
        assert!(store.complete(&key, &upload, &[1, 3]).await.is_err());
        let stored = store.complete(&key, &upload, &[1, 2]).await.unwrap();
        assert_eq!(stored.bytes, 11);
        assert_eq!(
            std::fs::read(store.file(HASH).await.unwrap()).unwrap(),
            b"hello world"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(store.put_part(&upload, 1, content(&[b"x"])).await.is_err());
        for bad in ["../x", "", "a/b"] {
            assert!(store.abort(bad).await.is_err(), "{bad:?}");
        }
    }
}
