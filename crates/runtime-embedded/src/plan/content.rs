//! The file systems of a sandbox that are made fresh, with what is in them.

use sandbox::{Limits, NetworkMode};
use sys::mount::Attributes;

use super::{Mount, MountKind, Node, NodeKind};
use crate::network;

/// Group `tty` in Debian and its relatives.
const TTY_GROUP: u32 = 5;
/// Terminals of one sandbox; the host has 4096 for all.
const TERMINALS_MAX: u32 = 64;
/// `/run` holds pid files and sockets.
const RUN_BYTES: u64 = 16 << 20;
/// Largest share of the memory limit that `/dev/shm` can take, as a divisor.
const SHM_DIVISOR: u64 = 2;
/// Files in each tmpfs that the sandbox can write to.
const TMPFS_INODES: u64 = 16_384;

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

/// The layer above the image. Every place that something is mounted at is a real
/// directory here, so that a symbolic link in the image at its place is hidden by
/// it and leads nowhere. It is in memory because making files on disk is most of
/// what a sandbox would cost otherwise.
pub(super) fn fresh(host_name: &str, network: NetworkMode) -> Vec<Node> {
    let resolver = match network {
        NetworkMode::Open => network::RESOLV_CONF,
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
    nodes
}

/// Everything that is mounted over the image, parents before children.
pub(super) fn mounts(limits: Limits, uid_base: u32) -> Vec<Mount> {
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
pub(super) fn processors(cpu_millis: u32) -> MountKind {
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
