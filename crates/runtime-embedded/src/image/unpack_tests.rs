use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
};

use tar::EntryType;
use tempfile::TempDir;

use super::*;
use crate::image::{tar_stream::TarStream, test_archive::Archive};

/// Unpacks into a fresh folder.
fn unpacked(archive: Archive) -> (TempDir, Totals) {
    let folder = tempfile::tempdir().unwrap();
    let totals = unpack_into(folder.path(), archive, Limits::default()).unwrap();
    (folder, totals)
}

fn unpack_into(folder: &Path, archive: Archive, limits: Limits) -> Result<Totals, ImageError> {
    let root = OwnedFd::from(fs::File::open(folder).unwrap());
    let bytes = archive.finish();
    Unpacker::new(root, limits).unpack(&mut TarStream::new(bytes.as_slice()), None)
}

fn refusal(archive: Archive) -> String {
    let folder = tempfile::tempdir().unwrap();
    unpack_into(folder.path(), archive, Limits::default())
        .unwrap_err()
        .to_string()
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value[..])
        .is_ok_and(|length| &value[..length] == b"y")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_root_file_system_comes_out_as_it_went_in() {
    let (folder, totals) = unpacked(
        Archive::default()
            .folder("./")
            .folder("./bin")
            .custom(EntryType::Regular, "./bin/su", "", b"code", |header| {
                header.set_mode(0o4755);
            })
            .hard_link("bin/again", "./bin/su")
            .symlink("sh", "/nowhere/busybox")
            .entry(EntryType::Fifo, "fifo", "", b"")
            .file("deep/below/file", b"x"),
    );
    let at = |name: &str| folder.path().join(name);
    let program = fs::metadata(at("bin/su")).unwrap();
    assert_eq!(program.mode() & 0o7777, 0o4755);
    assert_eq!(program.mtime(), 1_600_000_000);
    assert_eq!(program.ino(), fs::metadata(at("bin/again")).unwrap().ino());
    assert_eq!(
        fs::read_link(at("sh")).unwrap(),
        Path::new("/nowhere/busybox")
    );
    assert!(
        fs::symlink_metadata(at("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert_eq!(fs::read(at("deep/below/file")).unwrap(), b"x");
    assert_eq!(fs::metadata(at("deep")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!((totals.entries, totals.bytes), (7, 5));
}

#[test]
fn owners_are_numbers_below_65536() {
    if !is_root() {
        return;
    }
    let (folder, totals) = unpacked(
        Archive::default()
            .custom(EntryType::Regular, "a", "", b"", |header| {
                header.set_uid(1000);
                header.set_gid(65_535);
            })
            .custom(EntryType::Symlink, "b", "a", b"", |header| {
                header.set_uid(70_000);
                header.set_gid(u64::from(u32::MAX));
            }),
    );
    let owner = |name: &str| {
        let metadata = fs::symlink_metadata(folder.path().join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner("a"), (1000, 65_535));
    assert_eq!(owner("b"), (65_534, 65_534));
    assert_eq!(totals.owners_replaced, 1);
}

#[test]
fn only_user_attributes_are_kept() {
    let (folder, totals) = unpacked(
        Archive::default()
            .extended(&[
                ("SCHILY.xattr.user.note", b"kept"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            ])
            .folder("d"),
    );
    let mut buffer = [0; 256];
    let path = folder.path().join("d");
    let length = rustix::fs::listxattr(&path, &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..length], b"user.note\0");
    assert_eq!(totals.attributes_dropped, 3);
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let (folder, _) = unpacked(
        Archive::default()
            .folder("d")
            .file("d/.wh.gone", b"")
            .file(".wh..wh.plnk", b"")
            .entry(EntryType::Char, "native", "", b""),
    );
    assert!(is_whiteout(&folder.path().join("d/gone")));
    assert!(is_whiteout(&folder.path().join("native")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_whiteout_hides_lower_layers_only() {
    if !is_root() {
        return;
    }
    for turned in [false, true] {
        let own = |archive: Archive| archive.folder("d").file("d/own", b"1").file("f", b"2");
        let hide = |archive: Archive| archive.file(".wh.d", b"").file(".wh.f", b"");
        let archive = Archive::default();
        let (folder, _) = unpacked(if turned {
            own(hide(archive))
        } else {
            hide(own(archive))
        });
        assert_eq!(fs::read(folder.path().join("d/own")).unwrap(), b"1");
        assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"2");
        assert!(is_opaque(&folder.path().join("d")), "turned: {turned}");
    }
}

#[test]
fn an_opaque_marker_marks_its_folder() {
    if !is_root() {
        return;
    }
    let (folder, _) = unpacked(Archive::default().folder("d").file("d/.wh..wh..opq", b""));
    assert!(is_opaque(&folder.path().join("d")));
    assert_eq!(fs::read_dir(folder.path().join("d")).unwrap().count(), 0);
}

#[test]
fn whiteouts_with_bad_names_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        let message = refusal(Archive::default().folder("d").file(name, b""));
        assert!(message.contains("hides nothing"), "{name}: {message}");
    }
}

#[test]
fn devices_are_left_out_and_counted() {
    let (folder, totals) = unpacked(
        Archive::default()
            .custom(EntryType::Char, "null", "", b"", |header| {
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
            })
            .entry(EntryType::Block, "disk", "", b""),
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(totals.devices_skipped, 2);
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let (folder, _) = unpacked(
        Archive::default()
            .file("f", b"first")
            .hard_link("twin", "f")
            .file("f", b"second")
            .folder("empty")
            .file("empty", b"now a file")
            .symlink("s", "f")
            .folder("s")
            .file("s/inside", b""),
    );
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("f"), b"second");
    assert_eq!(
        read("twin"),
        b"first",
        "the write must not go through the link"
    );
    assert_eq!(read("empty"), b"now a file");
    assert!(
        fs::symlink_metadata(folder.path().join("s"))
            .unwrap()
            .is_dir()
    );
}

#[test]
fn a_folder_named_twice_keeps_its_content() {
    let (folder, _) = unpacked(Archive::default().folder("d").file("d/f", b"1").custom(
        EntryType::Directory,
        "d",
        "",
        b"",
        |header| header.set_mode(0o700),
    ));
    assert_eq!(fs::read(folder.path().join("d/f")).unwrap(), b"1");
    let mode = fs::metadata(folder.path().join("d"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn a_full_folder_is_not_replaced() {
    let message = refusal(Archive::default().file("d/f", b"").file("d", b""));
    assert!(message.contains("not empty"), "{message}");
}

#[test]
fn hard_links_lead_only_to_files_of_the_layer() {
    for (target, why) in [
        ("missing", "find the target"),
        ("d", "neither a file"),
        ("../x", "`..`"),
        ("", "link to the root"),
        ("s/file", "symbolic link"),
    ] {
        let message = refusal(
            Archive::default()
                .file("d/file", b"")
                .symlink("s", "d")
                .hard_link("l", target),
        );
        assert!(message.contains(why), "{target}: {message}");
    }
}

#[test]
fn limits_hold() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        entries: 2,
        ..Limits::default()
    };
    let three = Archive::default().folder("a").folder("b").folder("c");
    let error = unpack_into(folder.path(), three, limits).unwrap_err();
    assert!(
        matches!(error, ImageError::TooLarge { limit: 2, .. }),
        "{error}"
    );
}

#[test]
fn very_deep_paths_are_written() {
    // 2000 folders fit into the longest path; each is opened in one call.
    let deep = "d/".repeat(2000) + "f";
    let (folder, _) = unpacked(Archive::default().file(&deep, b"x"));
    let mut path = folder.path().to_owned();
    path.push("d");
    assert!(path.is_dir());
    let parent = fs::File::open(folder.path()).unwrap();
    sys::tree::remove(&parent, c"d").unwrap();
}
