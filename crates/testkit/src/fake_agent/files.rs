//! Files in a map from absolute paths to contents.

use std::collections::BTreeMap;

use agent_protocol::{
    Entry, EntryKind, FailureKind, FileRequest, Reply,
    frame::{CHUNK_BYTES, FrameKind},
};
use tokio::io::AsyncWrite;

use super::{Closed, Connection};

/// Entries in one message of a listing.
const ENTRIES_PER_MESSAGE: usize = 200;

#[derive(Clone, Debug)]
struct Node {
    /// `None` for a directory.
    content: Option<Vec<u8>>,
    mode: u32,
}

/// All files and directories.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(BTreeMap<String, Node>);

impl Files {
    pub(super) fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.0.get(path)?.content.clone()
    }

    pub(super) fn entry(&self, path: &str) -> Option<Entry> {
        let node = self.0.get(path)?;
        let bytes = node.content.as_ref().map_or(0, Vec::len);
        let mut entry = entry(path, bytes as u64, node.mode);
        if node.content.is_none() {
            entry.kind = EntryKind::Directory;
        }
        Some(entry)
    }

    fn make_parents(&mut self, path: &str) {
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        for parent in parents.filter(|parent| !parent.is_empty()) {
            self.make_directory(parent, 0o755);
        }
    }

    fn make_directory(&mut self, path: &str, mode: u32) {
        let content = None;
        let node = Node { content, mode };
        self.0.entry(path.to_owned()).or_insert(node);
    }

    /// The content of a file, to be changed.
    pub(super) fn content_mut(&mut self, path: &str) -> Option<&mut Vec<u8>> {
        self.0.get_mut(path)?.content.as_mut()
    }

    /// What is below a directory, with how deep.
    pub(super) fn below(&self, path: &str) -> Vec<(String, usize)> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let below = self.0.keys().filter_map(|path| {
            let rest = path.strip_prefix(&prefix)?;
            Some((path.clone(), rest.matches('/').count() + 1))
        });
        below.collect()
    }
}

/// A regular file's metadata.
pub(super) fn entry(path: &str, size: u64, mode: u32) -> Entry {
    Entry {
        path: path.to_owned(),
        path_base64: None,
        kind: EntryKind::File,
        size,
        mode,
        modified_ms: 0,
        uid: 0,
        gid: 0,
        owner: "root".to_owned(),
        group: "root".to_owned(),
        target: None,
    }
}

impl<W: AsyncWrite> Connection<W> {
    pub(super) async fn file(&mut self, request: FileRequest) -> Result<(), Closed> {
        match request {
            FileRequest::Read {
                path,
                offset,
                length,
            } => self.read(&path, offset, length).await,
            FileRequest::Write { path, mode, append } => self.write_file(&path, mode, append).await,
            FileRequest::List { path, depth, limit } => self.list(&path, depth, limit).await,
            FileRequest::Grep {
                path,
                pattern,
                limit,
            } => self.grep(&path, &pattern, limit).await,
            FileRequest::Glob {
                path,
                pattern,
                limit,
            } => self.glob(&path, &pattern, limit).await,
            FileRequest::Replace {
                paths,
                pattern,
                replacement,
            } => self.replace(paths, &pattern, &replacement).await,
            FileRequest::Stat { path } => self.tell(&path).await,
            FileRequest::MakeDirectory { path, mode } => {
                {
                    let mut state = self.agent.state();
                    state.files.make_parents(&path);
                    state.files.make_directory(&path, mode.unwrap_or(0o755));
                }
                self.tell(&path).await
            }
            FileRequest::Move {
                source,
                destination,
                overwrite,
            } => self.move_file(&source, &destination, overwrite).await,
            FileRequest::Remove { path, recursive } => self.remove(&path, recursive).await,
            FileRequest::SetPermissions { path, mode, .. } => {
                if let (Some(mode), Some(node)) = (mode, self.agent.state().files.0.get_mut(&path))
                {
                    node.mode = mode;
                }
                self.tell(&path).await
            }
        }
    }

    pub(super) async fn missing(&mut self, path: &str) -> Result<(), Closed> {
        let message = format!("{path}: no such file or directory");
        self.fail(FailureKind::NotFound, message).await
    }

    async fn tell(&mut self, path: &str) -> Result<(), Closed> {
        let entry = self.agent.state().files.entry(path);
        match entry {
            Some(entry) => self.reply(&Reply::Entry { entry, more: false }).await,
            None => self.missing(path).await,
        }
    }

    async fn read(&mut self, path: &str, offset: u64, length: Option<u64>) -> Result<(), Closed> {
        let (entry, content) = {
            let files = &self.agent.state().files;
            (files.entry(path), files.content(path))
        };
        let (Some(entry), Some(content)) = (entry, content) else {
            return self.missing(path).await;
        };
        self.reply(&Reply::Entry { entry, more: true }).await?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let length = usize::try_from(length.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let content = content.get(start..).unwrap_or_default();
        let content = &content[..content.len().min(length)];
        for chunk in content.chunks(CHUNK_BYTES) {
            self.send(FrameKind::Output, chunk).await?;
        }
        self.reply(&Reply::Done { truncated: false }).await
    }

    async fn write_file(
        &mut self,
        path: &str,
        mode: Option<u32>,
        append: bool,
    ) -> Result<(), Closed> {
        if path.starts_with("/proc") {
            let message = format!("{path}: permission denied");
            self.fail(FailureKind::PermissionDenied, message).await?;
            return Err(Closed);
        }
        let mut content = Vec::new();
        loop {
            match self.frames.recv().await.ok_or(Closed)? {
                (FrameKind::Input, bytes) => content.extend(bytes),
                (FrameKind::InputEnd, _) => break,
                _ => return Err(Closed),
            }
        }
        {
            let files = &mut self.agent.state().files;
            files.make_parents(path);
            let old = files.0.remove(path);
            let old_mode = old.as_ref().map(|node| node.mode);
            if append {
                let mut before = old.and_then(|node| node.content).unwrap_or_default();
                before.append(&mut content);
                content = before;
            }
            let node = Node {
                content: Some(content),
                mode: mode.or(old_mode).unwrap_or(0o644),
            };
            files.0.insert(path.to_owned(), node);
        }
        self.tell(path).await
    }

    async fn list(&mut self, path: &str, depth: u32, limit: u64) -> Result<(), Closed> {
        let entries: Vec<Entry> = {
            let files = &self.agent.state().files;
            let depth = usize::try_from(depth).unwrap_or(usize::MAX);
            let below = files.below(path).into_iter();
            let near = below.filter(|(_, deep)| *deep <= depth);
            near.filter_map(|(path, _)| files.entry(&path)).collect()
        };
        let known = self.agent.state().files.entry(path).is_some();
        if entries.is_empty() && !known && path != "/" {
            return self.missing(path).await;
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let shown = &entries[..entries.len().min(limit)];
        for part in shown.chunks(ENTRIES_PER_MESSAGE) {
            let entries = part.to_vec();
            self.reply(&Reply::Entries { entries }).await?;
        }
        let truncated = shown.len() < entries.len();
        self.reply(&Reply::Done { truncated }).await
    }

    async fn move_file(
        &mut self,
        source: &str,
        destination: &str,
        overwrite: bool,
    ) -> Result<(), Closed> {
        enum Problem {
            Missing,
            Taken,
        }
        let moved = {
            let files = &mut self.agent.state().files;
            if !files.0.contains_key(source) {
                Err(Problem::Missing)
            } else if files.0.contains_key(destination) && !overwrite {
                Err(Problem::Taken)
            } else {
                let tree = files.below(source).into_iter().map(|(path, _)| path);
                for path in tree.chain([source.to_owned()]).collect::<Vec<_>>() {
                    if let Some(node) = files.0.remove(&path) {
                        let renamed = format!("{destination}{}", &path[source.len()..]);
                        files.0.insert(renamed, node);
                    }
                }
                Ok(())
            }
        };
        match moved {
            Ok(()) => self.tell(destination).await,
            Err(Problem::Missing) => self.missing(source).await,
            Err(Problem::Taken) => {
                let message = format!("{destination} exists; ask to overwrite it");
                self.fail(FailureKind::AlreadyExists, message).await
            }
        }
    }

    async fn remove(&mut self, path: &str, recursive: bool) -> Result<(), Closed> {
        let below = self.agent.state().files.below(path);
        if !below.is_empty() && !recursive {
            let message = format!("{path} is not empty; ask to remove it recursively");
            return self.fail(FailureKind::InvalidRequest, message).await;
        }
        let removed = {
            let files = &mut self.agent.state().files;
            for (path, _) in below {
                files.0.remove(&path);
            }
            files.0.remove(path).is_some()
        };
        if removed {
            self.reply(&Reply::Done { truncated: false }).await
        } else {
            self.missing(path).await
        }
    }
}
