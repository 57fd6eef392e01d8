//! What one sandbox is made of, computed without touching the host.
//!
//! A [`Plan`] says everything about a sandbox: where its ids lie, what is
//! mounted where, what it may use and do. The spawner computes it from a
//! checked request, so that a request can never name a path, a mount or a
//! capability. Nothing here reads or writes; golden tests hold the result.

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

/// Group `tty` in Debian and its relatives.
const TTY_GROUP: u32 = 5;
/// Terminals of one sandbox; the host has 4096 for all.
const TERMINALS_MAX: u32 = 64;
/// Memory for the agent, beside the sandbox's own.
const AGENT_MEMORY_BYTES: u64 = 32 << 20;
/// Processes and threads of the agent.
const AGENT_PIDS: u32 = 64;
/// What the kernel subtracts for the agent when it looks for something to kill.
const AGENT_OOM_SCORE: i32 = -900;
/// `/run` holds pid files and sockets.
const RUN_BYTES: u64 = 16 << 20;
/// Largest share of the memory limit that `/dev/shm` can take, as a divisor.
const SHM_DIVISOR: u64 = 2;
/// Files in each tmpfs that the sandbox can write to.
const TMPFS_INODES: u64 = 16_384;
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
    /// The content of the operator's certificate bundle.
    pub(crate) ca_certificates: Option<&'a [u8]>,
}

/// Everything about one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) host_name: String,
    /// Host id of the sandbox's user 0; the map is `0 uid_base 65536`.
    pub(crate) uid_base: u32,
    pub(crate) slot: u32,
    pub(crate) network: NetworkMode,
    /// Read-only folders of the image, bottom first.
    pub(crate) layers: Vec<PathBuf>,
    /// What the writable layer holds before the image is seen.
    pub(crate) upper: Vec<Node>,
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
            layers: wish.layers.to_vec(),
            upper: upper(&host_name, wish.network, wish.ca_certificates),
            mounts: mounts(wish.limits, uid_base),
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
    if wish.ca_certificates.is_some() {
        all.extend(CA_VARIABLES.map(|name| (name, CA_BUNDLE)));
    }
    for (name, value) in wish.image_env.iter().chain(wish.env) {
        all.insert(name, value);
    }
    all.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn node(path: impl Into<String>, kind: NodeKind) -> Node {
    Node {
        path: path.into(),
        kind,
    }
}

fn directory(path: &str, mode: u32) -> Node {
    node(path, NodeKind::Directory { mode })
}

fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Node {
    let content = content.into();
    node(path, NodeKind::File { mode, content })
}

fn link(path: &str, target: &'static str) -> Node {
    node(path, NodeKind::Link { target })
}

/// The writable layer. Every place that something is mounted at or written to is
/// a real directory here, so that a symbolic link in the image at its place is
/// hidden by it and leads nowhere.
fn upper(host_name: &str, network: NetworkMode, ca_certificates: Option<&[u8]>) -> Vec<Node> {
    let resolver = match network {
        NetworkMode::Open => "nameserver 127.0.0.53\n",
        NetworkMode::None => "",
    };
    let hosts = format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{host_name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    );
    let mut nodes: Vec<Node> = ["dev", "proc", "run", "sys"]
        .into_iter()
        .map(|path| directory(path, 0o755))
        .collect();
    nodes.extend([
        node("tmp", NodeKind::EmptyDirectory { mode: 0o1777 }),
        directory("etc", 0o755),
        file("etc/hostname", 0o644, format!("{host_name}\n")),
        file("etc/hosts", 0o644, hosts),
        file("etc/resolv.conf", 0o644, resolver),
    ]);
    if let Some(bundle) = ca_certificates {
        nodes.extend([
            directory("etc/ssl", 0o755),
            directory("etc/ssl/certs", 0o755),
            file(CA_BUNDLE.trim_start_matches('/'), 0o644, bundle),
        ]);
    }
    nodes
}

/// Everything that is mounted over the image, parents before children.
fn mounts(limits: Limits, uid_base: u32) -> Vec<Mount> {
    let plain = Attributes {
        no_set_uid: true,
        no_devices: true,
        no_execute: true,
        read_only: false,
    };
    let with_devices = Attributes {
        no_devices: false,
        ..plain
    };
    let read_only = Attributes {
        read_only: true,
        ..plain
    };
    let mount = |target, kind, attributes| Mount {
        target,
        kind,
        attributes,
    };
    vec![
        mount("proc", MountKind::Proc, plain),
        mount("dev", devices(), with_devices),
        mount(
            "dev/pts",
            MountKind::Terminals {
                group: uid_base + TTY_GROUP,
                max: TERMINALS_MAX,
            },
            with_devices,
        ),
        mount(
            "dev/shm",
            MountKind::Memory {
                bytes: limits.memory_bytes / SHM_DIVISOR,
                inodes: TMPFS_INODES,
                mode: 0o1777,
                nodes: Vec::new(),
            },
            plain,
        ),
        mount("sys", processors(limits.cpu_millis), read_only),
        mount(
            "run",
            MountKind::Memory {
                bytes: RUN_BYTES,
                inodes: TMPFS_INODES,
                mode: 0o755,
                nodes: vec![directory("lock", 0o1777), directory("shm", 0o1777)],
            },
            Attributes {
                no_execute: false,
                ..plain
            },
        ),
    ]
}

/// `/dev`: the nodes that every program may expect and no other.
fn devices() -> MountKind {
    let device = |path: &str, major, minor| node(path, NodeKind::Device { major, minor });
    MountKind::Memory {
        bytes: 64 << 10,
        inodes: 64,
        mode: 0o755,
        nodes: vec![
            device("null", 1, 3),
            device("zero", 1, 5),
            device("full", 1, 7),
            device("random", 1, 8),
            device("urandom", 1, 9),
            device("tty", 5, 0),
            directory("pts", 0o755),
            directory("shm", 0o1777),
            link("ptmx", "pts/ptmx"),
            link("fd", "/proc/self/fd"),
            link("stdin", "/proc/self/fd/0"),
            link("stdout", "/proc/self/fd/1"),
            link("stderr", "/proc/self/fd/2"),
        ],
    }
}

/// `/sys`: how many processors there are, as far as the sandbox is concerned,
/// so that programs start as many threads as they get cpu time for. Never the
/// kernel's own sysfs, which tells about the host's hardware.
fn processors(cpu_millis: u32) -> MountKind {
    let count = cpu_millis.div_ceil(1000).max(1);
    let list = if count == 1 {
        "0\n".to_owned()
    } else {
        format!("0-{}\n", count - 1)
    };
    let mut nodes = vec![
        directory("devices", 0o755),
        directory("devices/system", 0o755),
        directory("devices/system/cpu", 0o755),
        directory("fs", 0o755),
        directory("fs/cgroup", 0o755),
    ];
    nodes.extend(
        ["online", "possible", "present"]
            .map(|name| file(&format!("devices/system/cpu/{name}"), 0o444, list.clone())),
    );
    MountKind::Memory {
        bytes: 64 << 10,
        inodes: 64,
        mode: 0o755,
        nodes,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(slot: u32, env: &[(&str, &str)], ca_certificates: Option<&[u8]>) -> Plan {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        Plan::new(&Wish {
            id: &"abcdefghijkmnpqrstuvwxyz23".parse().unwrap(),
            slot,
            limits: Limits {
                memory_bytes: 512 << 20,
                cpu_millis: 1500,
                pids: 256,
            },
            network: NetworkMode::Open,
            env: &map(env),
            layers: &[
                "/state/images/layers/one".into(),
                "/state/images/layers/two".into(),
            ],
            image_env: &map(&[("PATH", "/opt/bin:/bin"), ("FROM", "image")]),
            workdir: "/workspace",
            ca_certificates,
        })
    }

    #[test]
    fn the_plan_of_a_sandbox_is_reviewed() {
        insta::assert_debug_snapshot!(plan(3, &[("FROM", "request")], Some(b"PEM")));
    }

    #[test]
    fn the_request_wins_over_the_image_and_the_defaults() {
        let plan = plan(
            0,
            &[("FROM", "request"), ("SSL_CERT_FILE", "/mine")],
            Some(b""),
        );
        let has = |text: &str| plan.environment.iter().any(|line| line == text);
        assert!(has("FROM=request") && has("PATH=/opt/bin:/bin") && has("SSL_CERT_FILE=/mine"));
        assert!(has("PIP_CERT=/etc/ssl/certs/ca-certificates.crt") && has("HOME=/root"));
    }

    #[test]
    fn every_mounted_place_is_a_directory_of_the_writable_layer() {
        let plan = plan(0, &[], None);
        for mount in &plan.mounts {
            let first = mount.target.split('/').next().unwrap();
            assert!(
                plan.upper
                    .iter()
                    .any(|node| node.path == first
                        && matches!(node.kind, NodeKind::Directory { .. })),
                "{}",
                mount.target
            );
        }
    }

    proptest! {
        #[test]
        fn id_ranges_of_slots_are_disjoint_and_no_ones_else(a in 0..SLOTS_MAX, b in 0..SLOTS_MAX) {
            let (first, second) = (uid_base(a), uid_base(b));
            prop_assert!(first >= UID_FIRST);
            prop_assert!(first.checked_add(UIDS_PER_SANDBOX).is_some_and(|end| end < 1 << 31));
            prop_assert!(a == b || first.abs_diff(second) >= UIDS_PER_SANDBOX);
        }

        #[test]
        fn nodes_come_after_their_folders_and_stay_inside(cpu in 0u32..1_000_000) {
            let MountKind::Memory { nodes, .. } = processors(cpu) else { unreachable!() };
            let mut seen = vec![String::new()];
            for node in nodes {
                let parent = Path::new(&node.path).parent().unwrap();
                prop_assert!(seen.iter().any(|path| Path::new(path) == parent));
                prop_assert!(!node.path.starts_with('/') && !node.path.contains(".."));
                seen.push(node.path);
            }
        }
    }
}
