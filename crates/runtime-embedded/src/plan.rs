//! What one sandbox is made of, computed without touching the host.
//!
//! A [`Plan`] says everything about a sandbox: where its ids lie, what is
//! mounted where, what it may use and do. The spawner computes it from a
//! checked request, so that a request can never name a path, a mount or a
//! capability. Nothing here reads or writes; golden tests hold the result.

mod content;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rustix::thread::CapabilitySet;
use sandbox::{Id, Limits, NetworkMode};
use sys::mount::Attributes;

/// Host ids of sandboxes begin here, above those of people and services.
const UID_FIRST: u32 = 1_000_000;
/// Ids per sandbox: everything that fits the 16 bits that programs expect.
pub(crate) const UIDS_PER_SANDBOX: u32 = 65_536;
/// Slots per host; the id range of the last one still ends below 2^31.
pub(crate) const SLOTS_MAX: u32 = 30_000;

/// Memory for the agent, beside the sandbox's own. Some 2 MiB are used at rest;
/// a browser with hundreds of slow connections to ports takes tens of them, most
/// of it in the kernel's buffers.
const AGENT_MEMORY_BYTES: u64 = 64 << 20;
/// Processes and threads of the agent.
const AGENT_PIDS: u32 = 64;
/// What the kernel subtracts for the agent when it looks for something to kill.
const AGENT_OOM_SCORE: i32 = -900;
/// Host names of sandboxes are the beginning of their id.
const HOST_NAME_CHARS: usize = 12;
/// Where an image's certificate bundle lies, and where ours takes its place.
pub(crate) const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The variables by which programs with a bundle of their own find ours.
const CA_VARIABLES: [&str; 6] = [
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// What a plan is computed from.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) id: &'a Id,
    pub(crate) slot: u32,
    pub(crate) limits: Limits,
    pub(crate) network: NetworkMode,
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) layers: &'a [PathBuf],
    pub(crate) image_env: &'a BTreeMap<String, String>,
    pub(crate) workdir: &'a str,
    /// A layer with the operator's certificate bundle in it.
    pub(crate) ca_layer: Option<&'a Path>,
}

/// Everything about one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) host_name: String,
    /// Host id of the sandbox's user 0; the map is `0 uid_base 65536`.
    pub(crate) uid_base: u32,
    pub(crate) slot: u32,
    pub(crate) network: NetworkMode,
    /// Read-only folders on disk, bottom first: the image, then certificates.
    pub(crate) layers: Vec<PathBuf>,
    /// What a small layer in memory above them holds.
    pub(crate) fresh: Vec<Node>,
    pub(crate) mounts: Vec<Mount>,
    /// Below `/proc`, hidden behind something empty.
    pub(crate) masked: &'static [&'static str],
    /// Below `/proc`, made read-only.
    pub(crate) read_only: &'static [&'static str],
    pub(crate) cgroup: CgroupPlan,
    pub(crate) resources: &'static [Resource],
    pub(crate) capabilities: CapabilitySet,
    pub(crate) oom_score: i32,
    pub(crate) workdir: String,
    /// `NAME=value`, sorted.
    pub(crate) environment: Vec<String>,
}

/// What the two control groups of a sandbox may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CgroupPlan {
    /// Everything but the agent.
    pub(crate) user: Limits,
    /// Reserve of the agent; it shares no limit with the workload.
    pub(crate) agent_memory_bytes: u64,
    pub(crate) agent_pids: u32,
}

/// One limit of every process, as (soft, hard).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) resource: rustix::process::Resource,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// One fresh file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Path below the sandbox's root, without a leading slash.
    pub(crate) target: &'static str,
    pub(crate) kind: MountKind,
    pub(crate) attributes: Attributes,
}

/// What kind of file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// The processes of the sandbox.
    Proc,
    /// Pseudo terminals of its own.
    Terminals { group: u32, max: u32 },
    /// Memory, with what is in it from the start.
    Memory {
        bytes: u64,
        inodes: u64,
        mode: u32,
        nodes: Vec<Node>,
    },
}

/// Something made in a folder that is still empty.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Relative path; its folder comes before it.
    pub(crate) path: String,
    pub(crate) kind: NodeKind,
}

/// What kind of thing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum NodeKind {
    Directory {
        mode: u32,
    },
    /// A directory that hides what the image has in its place.
    EmptyDirectory {
        mode: u32,
    },
    File {
        mode: u32,
        content: Vec<u8>,
    },
    Link {
        target: &'static str,
    },
    Device {
        major: u32,
        minor: u32,
    },
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = &self.path;
        match &self.kind {
            NodeKind::Directory { mode } => write!(f, "{path}: directory {mode:04o}"),
            NodeKind::EmptyDirectory { mode } => write!(f, "{path}: empty directory {mode:04o}"),
            NodeKind::Link { target } => write!(f, "{path} -> {target}"),
            NodeKind::Device { major, minor } => write!(f, "{path}: device {major}:{minor}"),
            NodeKind::File { mode, content } => {
                write!(f, "{path}: file {mode:04o} ")?;
                match std::str::from_utf8(content) {
                    Ok(text) if content.len() < 200 => write!(f, "{text:?}"),
                    _ => write!(f, "of {} bytes", content.len()),
                }
            }
        }
    }
}

/// Below `/proc`: what tells about the host or reaches into it.
const MASKED: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "kmsg",
    "key-users",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "modules",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
];

/// Below `/proc`: what may be read, never written. The write permission of
/// nearly all of it belongs to the host's root, whom no sandbox has; this is
/// the second wall.
const READ_ONLY: &[&str] = &["bus", "driver", "fs", "irq", "sys", "sysrq-trigger"];

/// Limits of every process. Memory, processes and cpu are limited by cgroups.
const RESOURCES: &[Resource] = {
    use rustix::process::Resource as Kind;
    const fn limit(resource: Kind, soft: u64, hard: u64) -> Resource {
        Resource {
            resource,
            soft,
            hard,
        }
    }
    &[
        // A core dump can start a program of the host's as root.
        limit(Kind::Core, 0, 0),
        limit(Kind::Memlock, 1 << 20, 1 << 20),
        limit(Kind::Msgqueue, 64 << 10, 64 << 10),
        limit(Kind::Nofile, 1024, 4096),
        limit(Kind::Sigpending, 1024, 1024),
    ]
};

/// What package managers need, and nothing that the kernel checks against
/// something outside of the sandbox's own user namespace.
fn capabilities() -> CapabilitySet {
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::SETGID
        | CapabilitySet::SETUID
        | CapabilitySet::SETPCAP
        | CapabilitySet::NET_BIND_SERVICE
        | CapabilitySet::SYS_CHROOT
}

/// Host id of user 0 of the sandbox with number `slot`.
pub(crate) fn uid_base(slot: u32) -> u32 {
    UID_FIRST + slot * UIDS_PER_SANDBOX
}

impl Plan {
    /// The plan for `wish`.
    pub(crate) fn new(wish: &Wish<'_>) -> Self {
        let uid_base = uid_base(wish.slot);
        let host_name: String = wish.id.as_str().chars().take(HOST_NAME_CHARS).collect();
        Self {
            uid_base,
            slot: wish.slot,
            network: wish.network,
            layers: wish
                .layers
                .iter()
                .cloned()
                .chain(wish.ca_layer.map(Path::to_owned))
                .collect(),
            fresh: content::fresh(&host_name, wish.network),
            mounts: content::mounts(wish.limits, uid_base),
            masked: MASKED,
            read_only: READ_ONLY,
            cgroup: CgroupPlan {
                user: wish.limits,
                agent_memory_bytes: AGENT_MEMORY_BYTES,
                agent_pids: AGENT_PIDS,
            },
            resources: RESOURCES,
            capabilities: capabilities(),
            oom_score: AGENT_OOM_SCORE,
            workdir: workdir(wish.workdir),
            environment: environment(wish),
            host_name,
        }
    }
}

/// The image's working directory, or the root when it names none.
fn workdir(image: &str) -> String {
    if Path::new(image).is_absolute() {
        image.to_owned()
    } else {
        format!("/{image}")
    }
}

/// The image's variables, over them those of the request; then what programs
/// cannot do without, where neither says otherwise.
fn environment(wish: &Wish<'_>) -> Vec<String> {
    let mut all: BTreeMap<&str, &str> = BTreeMap::from([
        (
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ),
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
    ]);
    if wish.ca_layer.is_some() {
        all.extend(CA_VARIABLES.map(|name| (name, CA_BUNDLE)));
    }
    for (name, value) in wish.image_env.iter().chain(wish.env) {
        all.insert(name, value);
    }
    all.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[cfg(test)]
mod tests;
