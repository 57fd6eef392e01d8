//! The file system of a sandbox, put together in its own mount namespace.
//!
//! Everything is prepared in a small tmpfs, the *stage*, that only this process
//! can reach:
//!
//! ```text
//! stage/0, 1, …   layers on disk, shown through the sandbox's id map, read-only
//! stage/fresh     the layer in memory above them
//! stage/data      the sandbox's folder, with the writable layer
//! stage/root      overlayfs of all these, then what is mounted over it
//! stage/file, folder   empty, to hide parts of /proc behind
//! ```
//!
//! Overlayfs gets names relative to the stage, so that its options tell nothing
//! about the host. Whatever lies below `root` comes from the image and may be
//! hostile: a place there is found by descriptor without following any link, and
//! mounts go to descriptors, never to a path.

use std::{
    fmt::Write as _,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags,
        MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen, mount, mount_change, move_mount, open_tree, unmount,
    },
    process::{fchdir, pivot_root},
};
use sys::mount::{Attributes, set_attributes};

use super::nodes;
use crate::{
    error::{At as _, Error, Step},
    layout::{UPPER, WORK},
    plan::{Mount, MountKind, Plan},
};

/// Layers of images: nothing can be written through them.
const LAYER: Attributes = Attributes {
    read_only: true,
    no_set_uid: true,
    no_devices: true,
    no_execute: false,
};
/// What hides parts of `/proc`.
const MASK: Attributes = Attributes {
    read_only: true,
    no_set_uid: true,
    no_devices: true,
    no_execute: true,
};
/// Options of overlayfs beside its folders. `volatile`: no sandbox outlives a
/// crash of the host, so nothing needs to reach the disk in time, and ending a
/// sandbox must not flush the disk of all. `redirect_dir`: renaming a folder of
/// the image works as on any file system; the attribute behind it can only be
/// set by the host's root.
const OVERLAY_OPTIONS: &str = "redirect_dir=on,index=off,metacopy=off,volatile";
/// Room for the options of `mount`, one page with its final zero.
const OPTIONS_BYTES_MAX: usize = 4095;
/// The layer in memory.
const FRESH: &str = "fresh";
/// Mode of directories that only serve as mount points or folders of the stage.
const STAGE_MODE: Mode = Mode::from_raw_mode(0o700);

/// Builds the file system and makes it the root of the calling process, which must
/// be alone in its mount and pid namespaces, have no file mode mask, and be root.
pub(super) fn enter(
    plan: &Plan,
    folder: &Path,
    user_namespace: BorrowedFd<'_>,
) -> Result<(), Error> {
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .at(Step::MountOverlay, "private mounts")?;
    let stage = Stage::new(folder)?;
    let root = stage.overlay(plan, user_namespace)?;
    let mut proc = None;
    for fresh in &plan.mounts {
        let mounted = mount_fresh(&root, fresh, plan.uid_base)?;
        if matches!(fresh.kind, MountKind::Proc) {
            proc = Some(mounted);
        }
    }
    if let Some(proc) = proc {
        stage.protect(&proc, plan)?;
    }
    change_root(&root)
}

/// The private tmpfs in which everything is put together.
struct Stage(OwnedFd);

impl Stage {
    /// Mounts the stage over the sandbox's folder, which it has inside as `data`.
    fn new(folder: &Path) -> Result<Self, Error> {
        let at = Step::MountOverlay;
        let data = open_tree(CWD, folder, clone_flags()).at(at, folder.display())?;
        let stage = new_tmpfs(&[("mode", "0700")])
            .and_then(|context| detached(&context, MASK_UNTIL_READY))
            .at(at, "the stage")?;
        move_mount(
            &stage,
            "",
            CWD,
            folder,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .at(at, folder.display())?;
        for name in ["data", "root"] {
            mkdirat(&stage, name, STAGE_MODE).at(at, name)?;
        }
        attach(&data, &stage, "data").at(at, "data")?;
        Ok(Self(stage))
    }

    /// Mounts the layers and overlayfs over them; returns its root.
    fn overlay(&self, plan: &Plan, user_namespace: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        for (number, layer) in plan.layers.iter().enumerate() {
            let name = number.to_string();
            let mapped = open_layer(layer)
                .and_then(|layer| {
                    let copy = open_tree(&layer, "", clone_flags() | OpenTreeFlags::AT_EMPTY_PATH)?;
                    set_attributes(&copy, LAYER, Some(user_namespace))?;
                    Ok(copy)
                })
                .at(Step::MapLayer, layer.display())?;
            mkdirat(&self.0, &name, STAGE_MODE)
                .and_then(|()| attach(&mapped, &self.0, &name))
                .at(Step::MapLayer, layer.display())?;
        }
        self.make_fresh(plan)?;
        let options = overlay_options(plan.layers.len());
        let at = Step::MountOverlay;
        if options.len() > OPTIONS_BYTES_MAX || plan.layers.is_empty() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput))
                .at(at, format_args!("{} layers", plan.layers.len()));
        }
        // The names in the options are looked up from the working directory.
        fchdir(&self.0).at(at, "the stage")?;
        let options_text = std::ffi::CString::new(options.as_str())
            .expect("numbers and our own words have no zero byte");
        mount(
            "overlay",
            "root",
            "overlay",
            MountFlags::NOSUID | MountFlags::NODEV,
            options_text.as_c_str(),
        )
        .at(at, &options)?;
        openat(&self.0, "root", place_flags(), Mode::empty()).at(at, "the mounted root")
    }

    /// Makes the layer that lies above those on disk.
    fn make_fresh(&self, plan: &Plan) -> Result<(), Error> {
        let at = Step::PrepareUpper;
        mkdirat(&self.0, FRESH, Mode::from_raw_mode(0o755)).at(at, FRESH)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(&self.0, FRESH, flags, Mode::empty()).at(at, FRESH)?;
        nodes::make(folder.as_fd(), &plan.fresh, plan.uid_base)
            .or_else(|(path, error)| Err(error).at(at, format_args!("/{path}")))
    }

    /// Hides and write-protects what the plan names below `/proc`.
    fn protect(&self, proc: &OwnedFd, plan: &Plan) -> Result<(), Error> {
        let mask = Mask::new(&self.0).at(Step::MaskPath, "the mask")?;
        for name in plan.masked {
            mask.hide(proc, name)
                .at(Step::MaskPath, format_args!("/proc/{name}"))?;
        }
        for name in plan.read_only {
            make_read_only(proc, name).at(Step::MaskPath, format_args!("/proc/{name}"))?;
        }
        Ok(())
    }
}

/// Attributes of the stage while it is being written to.
const MASK_UNTIL_READY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// `lowerdir` has the topmost layer first.
fn overlay_options(layers: usize) -> String {
    let mut options = format!("lowerdir={FRESH}");
    for number in (0..layers).rev() {
        write!(options, ":{number}").expect("writing to a string cannot fail");
    }
    write!(
        options,
        ",upperdir=data/{UPPER},workdir=data/{WORK},{OVERLAY_OPTIONS}"
    )
    .expect("writing to a string cannot fail");
    options
}

/// Opens a layer of the image store; nothing on the way may be a link.
fn open_layer(layer: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(CWD, layer, place_flags(), Mode::empty(), resolve)?)
}

fn place_flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC
}

/// Attaches a mount to a directory of the stage.
fn attach(mount: &OwnedFd, stage: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    move_mount(
        mount,
        "",
        stage,
        name,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// Attaches a mount to whatever `place` refers to.
fn attach_to(mount: impl AsFd, place: impl AsFd) -> rustix::io::Result<()> {
    move_mount(
        mount,
        "",
        place,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// A place below `root`, found without following a link out of it or at all.
fn place(root: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    openat2(
        root,
        path,
        flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

fn new_tmpfs(options: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "tmpfs")?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, *value)?;
    }
    Ok(context)
}

/// Makes the file system and a mount of it that is not attached anywhere.
fn detached(context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    fsconfig_create(context)?;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Makes one file system of the plan and mounts it at its place.
fn mount_fresh(root: &OwnedFd, fresh: &Mount, owner: u32) -> Result<OwnedFd, Error> {
    let target = fresh.target;
    let mounted = match &fresh.kind {
        MountKind::Proc => make_named("proc", &[]),
        MountKind::Terminals { group, max } => make_named(
            "devpts",
            &[
                ("mode", "0620"),
                ("ptmxmode", "0666"),
                ("gid", &group.to_string()),
                ("max", &max.to_string()),
            ],
        ),
        MountKind::Memory {
            bytes,
            inodes,
            mode,
            nodes,
        } => new_tmpfs(&[
            ("size", &bytes.to_string()),
            ("nr_inodes", &inodes.to_string()),
            ("mode", &format!("{mode:o}")),
            ("uid", &owner.to_string()),
            ("gid", &owner.to_string()),
        ])
        .and_then(|context| detached(&context, MountAttrFlags::empty()))
        .and_then(|mounted| {
            nodes::make(mounted.as_fd(), nodes, owner).map_err(|(_, error)| error)?;
            Ok(mounted)
        }),
    };
    let mounted = mounted.at(Step::MountFresh, format_args!("/{target}"))?;
    set_attributes(&mounted, fresh.attributes, None)
        .at(Step::MountFresh, format_args!("/{target}"))?;
    place(root, target, OFlags::DIRECTORY)
        .and_then(|place| attach_to(&mounted, &place))
        .at(Step::MountFresh, format_args!("/{target}"))?;
    Ok(mounted)
}

fn make_named(kind: &str, options: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", kind)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, *value)?;
    }
    detached(&context, MountAttrFlags::empty())
}

/// An empty file and an empty folder of our own. They exist before anything
/// of the image could take their place, and what is mounted is compared with them.
struct Mask {
    stage: OwnedFd,
    file: Stat,
    folder: Stat,
}

impl Mask {
    fn new(stage: &OwnedFd) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(stage, "file", flags, Mode::from_raw_mode(0o444))?;
        mkdirat(stage, "folder", Mode::from_raw_mode(0o555))?;
        let folder = openat(stage, "folder", place_flags(), Mode::empty())?;
        // Copies of the mount, which hide something, are read-only from the start.
        set_attributes(stage, MASK, None)?;
        Ok(Self {
            file: fstat(&file)?,
            folder: fstat(&folder)?,
            stage: rustix::io::fcntl_dupfd_cloexec(stage, 0)?,
        })
    }

    /// Hides `name`, if the kernel has it.
    fn hide(&self, proc: &OwnedFd, name: &str) -> io::Result<()> {
        let target = match place(proc, name, OFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            target => target?,
        };
        let is_folder = rustix::fs::FileType::from_raw_mode(fstat(&target)?.st_mode)
            == rustix::fs::FileType::Directory;
        let (source, expected) = if is_folder {
            ("folder", &self.folder)
        } else {
            ("file", &self.file)
        };
        let copy = open_tree(&self.stage, source, clone_flags())?;
        attach_to(&copy, &target)?;
        let found = fstat(place(proc, name, OFlags::empty())?)?;
        if (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino) {
            Ok(())
        } else {
            Err(io::Error::other(
                "something else is in the place of the mask",
            ))
        }
    }
}

/// Mounts `name` over itself, read-only, if the kernel has it.
fn make_read_only(proc: &OwnedFd, name: &str) -> io::Result<()> {
    let target = match place(proc, name, OFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        target => target?,
    };
    let copy = open_tree(&target, "", clone_flags() | OpenTreeFlags::AT_EMPTY_PATH)?;
    set_attributes(&copy, MASK, None)?;
    Ok(attach_to(&copy, &target)?)
}

/// Makes `root` the root of this mount namespace, and lets go of everything else.
fn change_root(root: &OwnedFd) -> Result<(), Error> {
    let at = Step::PivotRoot;
    fchdir(root).at(at, "the mounted tree")?;
    // The old root then lies on top of the new one, and is what "." refers to.
    pivot_root(".", ".").at(at, "the mounted tree")?;
    unmount(".", UnmountFlags::DETACH).at(at, "the old root")?;
    rustix::process::chdir("/").at(at, "/")?;
    let now = rustix::fs::statat(CWD, "/", AtFlags::empty()).at(at, "/")?;
    let expected = fstat(root).at(at, "/")?;
    if (now.st_dev, now.st_ino) == (expected.st_dev, expected.st_ino) {
        Ok(())
    } else {
        Err(io::Error::other("the root is not the mounted tree")).at(at, "/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_layer_comes_first() {
        assert!(
            overlay_options(3)
                .starts_with("lowerdir=fresh:2:1:0,upperdir=data/upper,workdir=data/work,")
        );
        assert!(overlay_options(1).starts_with("lowerdir=fresh:0,"));
    }

    #[test]
    fn options_of_many_layers_fit() {
        // The kernel's own limit is 500.
        assert!(overlay_options(500).len() <= OPTIONS_BYTES_MAX);
    }
}
