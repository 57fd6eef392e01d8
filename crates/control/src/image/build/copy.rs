//! `COPY` and `ADD`: what is taken, and how it comes into a sandbox.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sandbox::{Error, Kind as ErrorKind, Result};
use sha2::Digest as _;

use super::{
    bench::Bench,
    key::Key,
    tree::{Item, Kind, Part, Tree, unkept},
};
use crate::{Control, EntryKind, PieceStream};

/// Files written at once.
const WRITES_AT_ONCE: usize = 8;
/// Entries taken from another stage or image.
const LISTED_MAX: u64 = 100_000;
/// How deep those may lie.
const DEPTH_MAX: u32 = 128;

/// Something that is taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// Its name, for when it is put into a folder.
    pub(super) name: String,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    One(Put),
    /// The contents of a folder, or of an archive.
    Folder(Vec<Put>),
}

/// One thing to be made; the path is empty for something taken by itself, else
/// relative to the folder that was taken.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Folder,
    Link(String),
    Part(Part),
    Text(Bytes),
    /// A file of the sandbox that is copied from.
    There(String),
}

impl Put {
    fn of(path: &str, item: &Item) -> Self {
        Self {
            path: path.to_owned(),
            mode: item.mode,
            content: match &item.kind {
                Kind::Folder => Content::Folder,
                Kind::Link(to) => Content::Link(to.clone()),
                Kind::File(part) => Content::Part(part.clone()),
            },
        }
    }
}

/// What a pattern names in the context.
///
/// # Errors
/// `InvalidRequest` when that is nothing.
pub(super) fn from_context(tree: &Tree, pattern: &str) -> Result<Vec<Taken>> {
    let parts = pattern.split('/').filter(|part| !matches!(*part, "" | "."));
    let parts: Vec<&str> = parts.collect();
    if parts.contains(&"..") {
        return Err(Error::invalid(format!(
            "{pattern:?} leads out of the context of the build"
        )));
    }
    let folder = |path: &str| What::Folder(all_below(tree, path));
    let cleaned = parts.join("/");
    if cleaned.is_empty() {
        return Ok(vec![Taken {
            name: String::new(),
            what: folder(""),
        }]);
    }
    let taken: Vec<Taken> = tree
        .matching(&cleaned)
        .into_iter()
        .map(|path| {
            let item = &tree.items[path];
            let name = path.rsplit('/').next().unwrap_or(path).to_owned();
            let what = match item.kind {
                Kind::Folder => folder(path),
                _ => What::One(Put::of("", item)),
            };
            Taken { name, what }
        })
        .collect();
    if taken.is_empty() {
        return Err(Error::invalid(format!(
            "there is no {pattern:?} in the context of the build"
        )));
    }
    Ok(taken)
}

/// Everything in a folder of an archive.
pub(super) fn all_below(tree: &Tree, folder: &str) -> Vec<Put> {
    let below = tree.below(folder);
    below.map(|(path, item)| Put::of(path, item)).collect()
}

/// What a path names in the sandbox of another stage or image.
///
/// # Errors
/// `InvalidRequest` when that is nothing.
pub(super) async fn from_bench(bench: &Bench, path: &str) -> Result<Vec<Taken>> {
    let Bench {
        control,
        space,
        name,
        ..
    } = bench;
    let absolute = format!("/{}", path.trim_matches('/'));
    let file_name = absolute.rsplit('/').next().unwrap_or_default().to_owned();
    let taken = |what| {
        vec![Taken {
            name: file_name.clone(),
            what,
        }]
    };
    if absolute == "/" || bench.is_folder(&absolute).await? {
        let listing = control
            .list_files(space, name, &absolute, DEPTH_MAX, LISTED_MAX)
            .await?;
        if listing.truncated {
            return Err(Error::limit(format!(
                "{absolute} has more than the {LISTED_MAX} entries that can be copied at once"
            )));
        }
        let root = absolute.trim_end_matches('/');
        let mut puts = Vec::with_capacity(listing.entries.len());
        for entry in listing.entries {
            let Some(relative) = entry
                .path
                .strip_prefix(root)
                .and_then(|rest| rest.strip_prefix('/'))
                .filter(|_| entry.path_base64.is_none())
            else {
                let path = entry.path;
                return Err(Error::invalid(format!(
                    "{path:?} has a name that is not UTF-8"
                )));
            };
            let content = match entry.kind {
                EntryKind::Directory => Content::Folder,
                EntryKind::Symlink => Content::Link(entry.target.unwrap_or_default()),
                EntryKind::File => Content::There(entry.path.clone()),
                EntryKind::Other => continue,
            };
            puts.push(Put {
                path: relative.to_owned(),
                mode: entry.mode & 0o7777,
                content,
            });
        }
        return Ok(taken(What::Folder(puts)));
    }
    let entry = match control.stat_file(space, name, &absolute).await {
        Ok(entry) => entry,
        Err(error) if error.kind == ErrorKind::NotFound => {
            return Err(Error::invalid(format!(
                "there is no {absolute} where it is copied from"
            )));
        }
        Err(error) => return Err(error),
    };
    Ok(taken(What::One(Put {
        path: String::new(),
        mode: entry.mode & 0o7777,
        content: Content::There(absolute.clone()),
    })))
}

/// Adds what is taken to the key of a step; files count by their contents. Blocks.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn note(key: &mut Key, taken: &[Taken]) -> Result<()> {
    for taken in taken {
        key.add(&taken.name);
        let puts = match &taken.what {
            What::One(put) => std::slice::from_ref(put),
            What::Folder(puts) => {
                key.add("folder");
                puts.as_slice()
            }
        };
        for put in puts {
            key.add(&put.path);
            key.add(put.mode.to_string());
            match &put.content {
                Content::Folder => key.add("folder"),
                Content::Link(to) => key.add(to),
                Content::Text(text) => key.add(text),
                Content::There(path) => key.add(path),
                Content::Part(part) => key.add(digest(part)?),
            }
        }
    }
    Ok(())
}

fn digest(part: &Part) -> Result<[u8; 32]> {
    let mut digest = sha2::Sha256::new();
    let mut at = 0;
    loop {
        let piece = part.piece(at).map_err(unkept)?;
        if piece.is_empty() {
            return Ok(digest.finalize().into());
        }
        digest.update(&piece);
        at += piece.len() as u64;
    }
}

/// How what is taken is put down.
#[derive(Debug)]
pub(super) struct Landing<'a> {
    /// Absolute; a folder when it ends with a slash.
    pub(super) target: &'a str,
    pub(super) owner: Option<&'a str>,
    pub(super) mode: Option<u32>,
}

/// Puts everything into the sandbox. `from` is the one that it is taken from.
///
/// # Errors
/// As the agent says, or when a file cannot be read.
pub(super) async fn put(
    bench: &Bench,
    from: Option<&Bench>,
    taken: Vec<Taken>,
    landing: &Landing<'_>,
) -> Result<()> {
    let target = landing.target.trim_end_matches('/');
    let is_folder = landing.target.ends_with('/')
        || taken.len() > 1
        || taken
            .iter()
            .any(|taken| matches!(taken.what, What::Folder(_)))
        || bench.is_folder(landing.target).await?;
    if is_folder && !target.is_empty() {
        let is_new = !bench.is_folder(target).await?;
        bench.make_folder(target, None).await?;
        if is_new {
            own(bench, target, landing.owner).await?;
        }
    }
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for taken in taken {
        let base = match (&taken.what, is_folder) {
            (What::One(_), true) => format!("{target}/{}", taken.name),
            _ => target.to_owned(),
        };
        let puts = match taken.what {
            What::One(put) => vec![put],
            What::Folder(puts) => puts,
        };
        for mut put in puts {
            if !put.path.is_empty() {
                put.path = format!("{base}/{}", put.path);
            } else {
                put.path.clone_from(&base);
            }
            match put.content {
                Content::Folder => folders.push(put),
                _ => files.push(put),
            }
        }
    }
    // In order: a folder comes before what is in it.
    for folder in folders {
        if !bench.is_folder(&folder.path).await? {
            let mode = landing.mode.unwrap_or(folder.mode);
            bench.make_folder(&folder.path, Some(mode)).await?;
        }
        own(bench, &folder.path, landing.owner).await?;
    }
    stream::iter(files)
        .map(|file| put_file(bench, from, file, landing))
        .buffer_unordered(WRITES_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

async fn put_file(
    bench: &Bench,
    from: Option<&Bench>,
    put: Put,
    landing: &Landing<'_>,
) -> Result<()> {
    let mode = landing.mode.unwrap_or(put.mode);
    let content = match put.content {
        Content::Folder => return Ok(()),
        Content::Link(to) => return link(bench, &to, &put.path).await,
        Content::Text(text) => Box::pin(stream::iter([Ok(text)])),
        Content::Part(part) => pieces(part),
        Content::There(path) => {
            let from = from.ok_or_else(|| Error::internal("a copy has lost its source"))?;
            let control: &Control = &from.control;
            let read = control.read_file(&from.space, &from.name, &path, 0, None);
            read.await?.content
        }
    };
    bench.write(&put.path, mode, content).await?;
    own(bench, &put.path, landing.owner).await
}

/// The agent makes no links; a program of the image does.
async fn link(bench: &Bench, to: &str, path: &str) -> Result<()> {
    let words = ["ln", "-sfn", "--", to, path].map(str::to_owned);
    let exec = crate::Exec {
        command: crate::Command::Argv(words.into()),
        ..crate::Exec::default()
    };
    let pieces = bench.control.exec(&bench.space, &bench.name, exec, None);
    let done = crate::collect(pieces.await?, 4096).await?;
    match done.end {
        crate::End::Exited(exit) if exit.code == 0 => Ok(()),
        _ => Err(Error::invalid(format!(
            "the symbolic link {path} cannot be made: the image needs a program `ln` for that"
        ))),
    }
}

async fn own(bench: &Bench, path: &str, owner: Option<&str>) -> Result<()> {
    let Some(owner) = owner else {
        return Ok(());
    };
    let (user, group) = owner.split_once(':').unwrap_or((owner, owner));
    let (control, space, name) = (&bench.control, &bench.space, &bench.name);
    let user = Some(user).filter(|user| !user.is_empty());
    let group = Some(group).filter(|group| !group.is_empty());
    control
        .set_permissions(space, name, path, None, user, group)
        .await
        .map(drop)
}

fn pieces(part: Part) -> PieceStream<Bytes> {
    let part = Arc::new(part);
    Box::pin(stream::try_unfold(0, move |at| {
        let part = Arc::clone(&part);
        async move {
            let piece = blocking(move || part.piece(at).map_err(unkept)).await?;
            let next = at + piece.len() as u64;
            Ok((!piece.is_empty()).then_some((piece, next)))
        }
    }))
}

/// Does something that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal(format!("a task of a build failed: {error}")))?
}

/// An archive that `ADD` unpacks.
///
/// # Errors
/// `InvalidRequest` when it cannot be read.
pub(super) async fn unpacked(part: Part, folder: &Path) -> Result<What> {
    let folder = folder.to_owned();
    let tree = blocking(move || Tree::of(&part, &folder)).await?;
    Ok(What::Folder(all_below(&tree, "")))
}
