use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink},
        net::UnixListener,
    },
    path::Path,
};

use rustix::fs::{CWD, XattrFlags};
use tempfile::TempDir;

use super::*;
use crate::image::unpack::{Totals, Unpacker};

const UID_BASE: u32 = 1_000_000;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A writable layer as overlayfs leaves it, owned by the sandbox's root.
fn upper() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    chown(folder.path(), Some(UID_BASE), Some(UID_BASE)).unwrap();
    folder
}

fn open(folder: &Path) -> OwnedFd {
    fs::File::open(folder).unwrap().into()
}

fn copy_with(upper: &Path, limits: Limits) -> Result<(TempDir, Totals, String, u64), ImageError> {
    let layer = tempfile::tempdir().unwrap();
    let mut entries = Upper::new(open(upper), UID_BASE, limits);
    let totals = Unpacker::new(open(layer.path()), limits).unpack(&mut entries, None)?;
    let (digest, skipped) = entries.finish();
    Ok((layer, totals, digest, skipped))
}

fn copy(upper: &Path) -> (TempDir, Totals, String, u64) {
    copy_with(upper, Limits::default()).unwrap()
}

fn write(path: &Path, content: &[u8], uid: u32) {
    fs::write(path, content).unwrap();
    chown(path, Some(UID_BASE + uid), Some(UID_BASE + uid)).unwrap();
}

fn whiteout(path: &Path) {
    let nothing = Mode::empty();
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, nothing, 0).unwrap();
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

#[test]
fn files_come_over_with_owners_counted_from_zero() {
    if !is_root() {
        return;
    }
    let from = upper();
    let at = |name: &str| from.path().join(name);
    write(&at("of root"), b"1", 0);
    write(&at("of a user"), b"22", 1000);
    write(&at("su"), b"code", 0);
    fs::set_permissions(at("su"), Permissions::from_mode(0o4755)).unwrap();
    // An id that no sandbox of this range has made.
    fs::write(at("of the host"), b"").unwrap();
    fs::create_dir(at("d")).unwrap();
    chown(at("d"), Some(UID_BASE + 5), Some(UID_BASE + 6)).unwrap();
    fs::set_permissions(at("d"), Permissions::from_mode(0o1777)).unwrap();
    symlink("/etc/shadow", at("d/link")).unwrap();
    fs::hard_link(at("of root"), at("d/twin")).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    set(&at("d"), "user.note", b"kept");
    let (layer, totals, ..) = copy(from.path());
    let to = |name: &str| layer.path().join(name);
    let owner = |name: &str| {
        let found = fs::symlink_metadata(to(name)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner("of root"), (0, 0));
    assert_eq!(owner("of a user"), (1000, 1000));
    assert_eq!(owner("of the host"), (65_534, 65_534));
    assert_eq!(owner("d"), (5, 6));
    assert_eq!(fs::metadata(to("su")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::metadata(to("d")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(
        fs::read_link(to("d/link")).unwrap(),
        Path::new("/etc/shadow")
    );
    assert_eq!(
        fs::metadata(to("d/twin")).unwrap().ino(),
        fs::metadata(to("of root")).unwrap().ino()
    );
    assert!(fs::metadata(to("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(get(&to("d"), "user.note").as_deref(), Some(&b"kept"[..]));
    assert_eq!(totals.bytes, 7);
}

#[test]
fn what_hides_lower_layers_stays_as_it_is() {
    if !is_root() {
        return;
    }
    let from = upper();
    let at = |name: &str| from.path().join(name);
    whiteout(&at("gone"));
    fs::create_dir(at("new")).unwrap();
    set(&at("new"), "trusted.overlay.opaque", b"y");
    fs::create_dir(at("moved")).unwrap();
    set(&at("moved"), "trusted.overlay.redirect", b"/usr/before");
    set(&at("moved"), "trusted.overlay.impure", b"y");
    let (layer, ..) = copy(from.path());
    let to = |name: &str| layer.path().join(name);
    let gone = fs::symlink_metadata(to("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let word = |name: &str, word: &str| get(&to(name), &format!("trusted.overlay.{word}"));
    assert_eq!(word("new", "opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(
        word("moved", "redirect").as_deref(),
        Some(&b"/usr/before"[..])
    );
    assert_eq!(word("moved", "impure"), None);
}

#[test]
fn odd_names_are_names_and_sockets_stay_behind() {
    if !is_root() {
        return;
    }
    let from = upper();
    let at = |name: &[u8]| from.path().join(OsStr::from_bytes(name));
    let names: [&[u8]; 6] = [
        b".wh.real",
        b".wh..wh..opq",
        b".wh..",
        b"\xff\n\x01",
        b"-rf *",
        b"...",
    ];
    for name in names {
        write(&at(name), name, 0);
    }
    let _listener = UnixListener::bind(at(b"socket")).unwrap();
    let (layer, _, _, skipped) = copy(from.path());
    for name in names {
        let path = layer.path().join(OsStr::from_bytes(name));
        assert_eq!(fs::read(path).unwrap(), name);
    }
    assert_eq!(skipped, 1);
    assert_eq!(fs::read_dir(layer.path()).unwrap().count(), names.len());
}

#[test]
fn deep_and_wide_trees_come_over_or_are_refused_with_a_word() {
    if !is_root() {
        return;
    }
    let from = upper();
    let deep = from.path().join("d/".repeat(1500));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f"), b"x").unwrap();
    for number in 0..3000 {
        fs::write(from.path().join(format!("wide{number}")), b"").unwrap();
    }
    let (layer, totals, ..) = copy(from.path());
    assert_eq!(totals.entries, 1 + 1500 + 1 + 3000);
    assert_eq!(
        fs::read(layer.path().join("d/".repeat(1500)).join("f")).unwrap(),
        b"x"
    );
    // Deeper than any path can be: only possible step by step.
    let mut folder = open(&deep);
    for _ in 0..1000 {
        rustix::fs::mkdirat(&folder, "d", Mode::RWXU).unwrap();
        folder = resolve(&folder, b"d").unwrap();
    }
    let error = copy_with(from.path(), Limits::default()).unwrap_err();
    assert!(error.to_string().contains("4096 bytes"), "{error}");
    for folder in [&from, &layer] {
        sys::tree::remove(open(folder.path()), c"d").unwrap();
    }
}

#[test]
fn holes_stay_holes_and_bytes_are_bounded() {
    if !is_root() {
        return;
    }
    let from = upper();
    let path = from.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    let (layer, totals, ..) = copy(from.path());
    let copied = fs::metadata(layer.path().join("sparse")).unwrap();
    assert_eq!((copied.len(), totals.bytes), (64 << 20, 64 << 20));
    assert!(copied.blocks() < 128, "{} blocks", copied.blocks());
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let error = copy_with(from.path(), limits).unwrap_err();
    let too_large = matches!(error, ImageError::SandboxTooLarge { what: "bytes", .. });
    assert!(too_large, "{error}");
}

#[test]
fn equal_layers_have_equal_digests_and_others_do_not() {
    if !is_root() {
        return;
    }
    let make = |content: &[u8]| {
        let from = upper();
        let path = from.path().join("f");
        write(&path, content, 0);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        let from_time = fs::File::open(from.path()).unwrap();
        from_time.set_modified(time).unwrap();
        copy(from.path()).2
    };
    assert_eq!(make(b"same"), make(b"same"));
    assert_ne!(make(b"same"), make(b"else"));
}
