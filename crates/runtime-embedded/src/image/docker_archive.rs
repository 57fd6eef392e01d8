//! Archives that `docker save` and its relatives write: a tar archive of layers
//! with `manifest.json` (Docker) or `index.json` (OCI image layout) beside them.
//!
//! The description may come after the layers, so all members are first copied
//! into one unnamed file. Names of members are only ever keys of a map: none of
//! them becomes a file name.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::fs::FileExt,
};

use sandbox::Image;
use serde::de::DeserializeOwned;

use super::{
    ImageError,
    docker_json::{Descriptor, DockerManifest, ImageConfig, OciDocument},
    entry_path::{EntryPath, shown},
    manifest::is_digest,
    source::read_error,
    tar_stream::{Entry, EntryKind, TarStream},
};

/// Members of an archive; an image of 100 layers has about 300.
const MEMBERS_MAX: usize = 10_000;
/// Largest description file, bytes.
const JSON_BYTES_MAX: u64 = 4 << 20;
/// Most layers of an image; overlayfs stacks 500.
pub(super) const LAYERS_MAX: usize = 128;
/// How many indexes may lead to one another.
const INDEX_DEPTH_MAX: usize = 3;

/// Whether an archive that begins with this entry is a container image.
pub(super) fn begins_with(path: &[u8]) -> bool {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let Ok(path) = std::str::from_utf8(path) else {
        return false;
    };
    let first = path.split('/').next().unwrap_or_default();
    let stem = first.split('.').next().unwrap_or_default();
    matches!(
        first,
        "blobs" | "oci-layout" | "index.json" | "manifest.json" | "repositories"
    ) || is_digest(stem.strip_prefix("sha256:").unwrap_or(stem))
}

/// What the archive says about its one image.
#[derive(Debug)]
pub(super) struct Description {
    /// Names of the members with the layers, bottom first.
    pub(super) layers: Vec<String>,
    /// Digests of the uncompressed layers.
    pub(super) diff_ids: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: String,
    pub(super) user: Option<String>,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    /// The name that the archive gives the image, if it is a valid one.
    pub(super) name: Option<Image>,
}

#[derive(Debug)]
enum Member {
    Bytes { offset: u64, size: u64 },
    Link(Vec<u8>),
}

/// All members of an archive, on disk.
#[derive(Debug)]
pub(super) struct Members {
    spool: File,
    members: BTreeMap<Vec<u8>, Member>,
}

impl Members {
    /// Copies `first` and all members that follow it into `spool`.
    pub(super) fn read<R: Read>(
        stream: &mut TarStream<R>,
        first: Entry,
        mut spool: File,
    ) -> Result<Self, ImageError> {
        let mut members = BTreeMap::new();
        let mut next = Some(first);
        while let Some(entry) = next {
            if members.len() == MEMBERS_MAX {
                return Err(ImageError::TooLarge {
                    what: "members",
                    limit: MEMBERS_MAX as u64,
                });
            }
            let member = match entry.kind {
                EntryKind::File => Some(copy(stream, &mut spool)?),
                EntryKind::Symlink | EntryKind::HardLink => Some(Member::Link(entry.link.clone())),
                _ => None,
            };
            if let (Some(member), Some(key)) = (member, key(&entry.path)?) {
                members.insert(key, member);
            }
            next = stream.next()?;
        }
        Ok(Self { spool, members })
    }

    /// Finds the image and checks that this machine can run it.
    pub(super) fn describe(&self) -> Result<Description, ImageError> {
        let (config, layers, name) = if self.members.contains_key(&b"manifest.json"[..]) {
            self.docker_manifest()?
        } else if self.members.contains_key(&b"index.json"[..]) {
            self.oci_manifest()?
        } else {
            return Err(unusable("it has neither manifest.json nor index.json"));
        };
        let ImageConfig {
            architecture,
            config: execution,
            rootfs,
        } = self.json(&config)?;
        let host = host_architecture();
        if !architecture.is_empty() && architecture != host {
            return Err(ImageError::Architecture {
                image: architecture,
                host,
            });
        }
        if layers.len() != rootfs.diff_ids.len() || layers.len() > LAYERS_MAX {
            return Err(unusable(format!(
                "it has {} layers and {} layer digests; both must be the same and at most {LAYERS_MAX}",
                layers.len(),
                rootfs.diff_ids.len()
            )));
        }
        let diff_ids = rootfs
            .diff_ids
            .iter()
            .map(|id| digest_of(id))
            .collect::<Result<_, _>>()?;
        let execution = execution.unwrap_or_default();
        Ok(Description {
            layers,
            diff_ids,
            env: environment(execution.env.unwrap_or_default()),
            workdir: workdir(execution.workdir),
            user: execution.user.filter(|user| !user.is_empty()),
            entrypoint: execution.entrypoint.unwrap_or_default(),
            cmd: execution.cmd.unwrap_or_default(),
            labels: execution.labels.unwrap_or_default(),
            name,
        })
    }

    /// The bytes of a member.
    pub(super) fn open(&self, name: &str) -> Result<impl Read + '_, ImageError> {
        let missing = || unusable(format!("it lacks its member {name:?}"));
        let mut at = key(name.as_bytes())?.ok_or_else(missing)?;
        // Old archives have links from one layer to another; never in chains.
        for _ in 0..2 {
            match self.members.get(&at).ok_or_else(missing)? {
                Member::Bytes { offset, size } => {
                    return Ok(Section {
                        file: &self.spool,
                        offset: *offset,
                        left: *size,
                    });
                }
                Member::Link(target) => at = link_key(&at, target).ok_or_else(missing)?,
            }
        }
        Err(missing())
    }

    /// Configuration, layers and name by Docker's own description.
    fn docker_manifest(&self) -> Result<(String, Vec<String>, Option<Image>), ImageError> {
        let mut manifests: Vec<DockerManifest> = self.json("manifest.json")?;
        if manifests.len() != 1 {
            return Err(unusable(format!(
                "it holds {} images; save one image into one archive",
                manifests.len()
            )));
        }
        let manifest = manifests.remove(0);
        let name = manifest
            .tags
            .unwrap_or_default()
            .iter()
            .find_map(|tag| tag.parse().ok());
        Ok((manifest.config, manifest.layers, name))
    }

    /// Configuration, layers and name by an OCI image layout.
    fn oci_manifest(&self) -> Result<(String, Vec<String>, Option<Image>), ImageError> {
        let mut document: OciDocument = self.json("index.json")?;
        let mut name = None;
        for _ in 0..INDEX_DEPTH_MAX {
            if let Some(config) = document.config {
                let blob = |descriptor: &Descriptor| {
                    digest_of(&descriptor.digest).map(|digest| format!("blobs/sha256/{digest}"))
                };
                let layers = document.layers.iter().map(blob).collect::<Result<_, _>>()?;
                return Ok((blob(&config)?, layers, name));
            }
            let mut fitting = document.manifests.into_iter().filter(|manifest| {
                manifest.platform.as_ref().is_none_or(|platform| {
                    platform.os == "linux" && platform.architecture == host_architecture()
                })
            });
            let (Some(manifest), None) = (fitting.next(), fitting.next()) else {
                return Err(unusable(format!(
                    "its index does not name exactly one image for linux/{}",
                    host_architecture()
                )));
            };
            if let Some(annotations) = &manifest.annotations {
                name = [
                    "io.containerd.image.name",
                    "org.opencontainers.image.ref.name",
                ]
                .iter()
                .find_map(|key| annotations.get(*key)?.parse().ok())
                .or(name);
            }
            document = self.json(&format!("blobs/sha256/{}", digest_of(&manifest.digest)?))?;
        }
        Err(unusable("its indexes lead to one another without an end"))
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ImageError> {
        let mut text = Vec::new();
        self.open(name)?
            .take(JSON_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(ImageError::Read)?;
        serde_json::from_slice(&text)
            .map_err(|error| unusable(format!("its member {name:?} is not as expected: {error}")))
    }
}

/// A part of a file.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn copy<R: Read>(stream: &mut TarStream<R>, spool: &mut File) -> Result<Member, ImageError> {
    let spool_error = |error| ImageError::store("write the archive to", "the image store")(error);
    let offset = spool.stream_position().map_err(spool_error)?;
    let mut size = 0;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = stream.content().read(&mut buffer).map_err(read_error)?;
        if count == 0 {
            // A member cut short is found by the stream when it goes on.
            return Ok(Member::Bytes { offset, size });
        }
        spool.write_all(&buffer[..count]).map_err(spool_error)?;
        size += count as u64;
    }
}

/// The cleaned name of a member.
fn key(path: &[u8]) -> Result<Option<Vec<u8>>, ImageError> {
    Ok(EntryPath::parse(path)?.map(|path| join(path.parent, &path.name)))
}

/// Where a link in a member leads: `../<layer>/layer.tar` in old archives.
fn link_key(from: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut components: Vec<&[u8]> = from.split(|byte| *byte == b'/').collect();
    components.pop();
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()?),
            component => components.push(component),
        }
    }
    Some(components.join(&b'/'))
}

fn join(mut parent: Vec<u8>, name: &[u8]) -> Vec<u8> {
    if !parent.is_empty() {
        parent.push(b'/');
    }
    parent.extend_from_slice(name);
    parent
}

/// The digits of `sha256:…`.
fn digest_of(text: &str) -> Result<String, ImageError> {
    text.strip_prefix("sha256:")
        .filter(|digits| is_digest(digits))
        .map(str::to_owned)
        .ok_or_else(|| {
            unusable(format!(
                "{:?} is not a sha256 digest",
                shown(text.as_bytes())
            ))
        })
}

/// Variables of the form `NAME=value`; anything else is left out.
fn environment(lines: Vec<String>) -> BTreeMap<String, String> {
    lines
        .into_iter()
        .filter(|line| !line.contains('\0'))
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

fn workdir(given: Option<String>) -> String {
    match given {
        Some(path) if path.contains('\0') || path.is_empty() => "/".to_owned(),
        Some(path) if path.starts_with('/') => path,
        Some(path) => format!("/{path}"),
        None => "/".to_owned(),
    }
}

/// This machine's architecture in the words of container images.
fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn unusable(why: impl Into<String>) -> ImageError {
    ImageError::DockerArchive(why.into())
}

#[cfg(test)]
#[path = "docker_archive_tests.rs"]
mod tests;
