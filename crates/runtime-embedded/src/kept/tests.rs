use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{MetadataExt as _, PermissionsExt, chown, symlink},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lgetxattr, llistxattr, lsetxattr,
    mknodat, utimensat,
};

use super::{Ids, pack, shift, unpack};
use crate::layout::open_folder;

const SLOT: u32 = 3;

fn id(inside: u32) -> u32 {
    Ids::of(SLOT).outside(inside)
}

/// A writable layer with everything that can be in one.
fn layer() -> tempfile::TempDir {
    let layer = tempfile::tempdir().unwrap();
    let at = |path: &str| layer.path().join(path);
    let own = |path: &str, user: u32| {
        rustix::fs::chownat(
            CWD,
            at(path),
            Some(rustix::fs::Uid::from_raw(id(user))),
            Some(rustix::fs::Gid::from_raw(id(user + 1))),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    };
    fs::create_dir_all(at("home/user/deep")).unwrap();
    own("home/user", 1000);
    fs::set_permissions(at("home/user"), PermissionsExt::from_mode(0o2750)).unwrap();
    lsetxattr(
        at("home"),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .unwrap();
    fs::write(at("home/user/file"), "content").unwrap();
    own("home/user/file", 1000);
    fs::set_permissions(at("home/user/file"), PermissionsExt::from_mode(0o4711)).unwrap();
    lsetxattr(
        at("home/user/file"),
        "user.note",
        b"a\0b=\n",
        XattrFlags::empty(),
    )
    .unwrap();
    fs::hard_link(at("home/user/file"), at("home/user/deep/same")).unwrap();
    symlink("/etc/passwd", at("home/user/link")).unwrap();
    own("home/user/link", 7);
    symlink("..", at("up")).unwrap();
    mknodat(
        CWD,
        at("hidden"),
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )
    .unwrap();
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    own("fifo", 5);
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let mut sparse = File::create(at("sparse")).unwrap();
    sparse.write_all(b"begin").unwrap();
    sparse.seek(SeekFrom::Start(1 << 30)).unwrap();
    sparse.write_all(b"middle").unwrap();
    sparse.set_len(3 << 40).unwrap();
    fs::write(at("empty"), "").unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"a\nb \xff");
    fs::write(layer.path().join(strange), "strange").unwrap();
    fs::create_dir(at("long")).unwrap();
    fs::write(at(&format!("long/{}", "n".repeat(255))), "long").unwrap();
    finish(layer.path());
    chown(layer.path(), Some(id(0)), Some(id(0))).unwrap();
    layer
}

/// Gives what is left to the sandbox's root, and sets times.
fn finish(layer: &Path) {
    let mut folders = vec![layer.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            if found.uid() == 0 && found.mode() & 0o170_000 != 0o020_000 {
                std::os::unix::fs::lchown(&path, Some(id(0)), Some(id(0))).unwrap();
            }
            if found.is_dir() {
                folders.push(path);
            }
        }
    }
    for path in ["home/user", "home/user/file", "sparse"] {
        let time = Timespec {
            tv_sec: 1_700_000_000,
            tv_nsec: 123_456_789,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(CWD, layer.join(path), &times, rustix::fs::AtFlags::empty()).unwrap();
    }
}

/// Everything about a tree but inodes and access times.
fn picture(root: &Path) -> Vec<String> {
    let mut picture = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let mut names: Vec<PathBuf> = vec![folder.clone()];
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                names.push(path);
            }
        }
        for name in names {
            let path = root.join(&name);
            let found = fs::symlink_metadata(&path).unwrap();
            let content = match found.is_file() && found.len() < 1 << 20 {
                true => String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
                false => fs::read_link(&path).map_or(String::new(), |to| format!("{to:?}")),
            };
            let links = if found.is_dir() { 0 } else { found.nlink() };
            // Nothing but its name matters about a whiteout.
            if found.mode() & 0o170_000 == 0o020_000 {
                picture.push(format!("{name:?} hides"));
                continue;
            }
            let owner = (found.uid(), found.gid());
            picture.push(format!(
                "{name:?} {:o} {owner:?} {} {links} {}.{} {content:?} {:?}",
                found.mode(),
                if found.is_dir() { 0 } else { found.len() },
                found.mtime(),
                found.mtime_nsec(),
                attributes(&path)
            ));
        }
    }
    picture.sort();
    picture
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut buffer = vec![0; 1 << 16];
    let length = llistxattr(path, &mut buffer[..]).unwrap_or(0);
    let names: Vec<String> = buffer[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security."))
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect();
    let read = |name: String| {
        let length = lgetxattr(path, &name, &mut buffer[..]).unwrap();
        let value = buffer[..length].to_vec();
        (name, value)
    };
    let mut found: Vec<_> = names.into_iter().map(read).collect();
    found.sort();
    found
}

fn open(path: &Path) -> OwnedFd {
    open_folder(path).unwrap().into()
}

fn packed(layer: &Path) -> tempfile::NamedTempFile {
    let target = tempfile::NamedTempFile::new().unwrap();
    pack(&open(layer), Ids::of(SLOT), target.reopen().unwrap()).unwrap();
    target
}

#[test]
fn a_layer_comes_back_as_it_was_under_the_ids_of_another_slot() {
    let layer = layer();
    let packed = packed(layer.path());
    assert!(packed.as_file().metadata().unwrap().len() < 10_000);
    let back = tempfile::tempdir().unwrap();
    let new = Ids::of(SLOT + 4);
    unpack(packed.reopen().unwrap(), &open(back.path()), new).unwrap();
    fs::remove_file(layer.path().join("socket")).unwrap();
    // The comparison needs the same ids; that is another function with a test here.
    shift(&open(back.path()), new, Ids::of(SLOT)).unwrap();
    let time = fs::metadata(back.path()).unwrap();
    let expected = picture(layer.path());
    let found = picture(back.path());
    for (expected, found) in expected.iter().zip(&found) {
        // Removing the socket changed the time of the root.
        if !expected.starts_with("\"\"") {
            assert_eq!(expected, found);
        }
    }
    assert_eq!(expected.len(), found.len());
    assert_eq!(time.uid(), id(0));
    let sparse = fs::metadata(back.path().join("sparse")).unwrap();
    assert!(sparse.blocks() < 100, "the holes are holes again");
}

#[test]
fn owners_are_shifted_also_when_it_was_interrupted() {
    let layer = layer();
    let (old, new) = (Ids::of(SLOT), Ids::of(SLOT + 1));
    chown(
        layer.path().join("home/user/file"),
        Some(new.outside(1000)),
        Some(new.outside(1001)),
    )
    .unwrap();
    fs::set_permissions(
        layer.path().join("home/user/file"),
        PermissionsExt::from_mode(0o4711),
    )
    .unwrap();
    for _ in 0..2 {
        shift(&open(layer.path()), old, new).unwrap();
        let of = |path: &str| fs::symlink_metadata(layer.path().join(path)).unwrap();
        for path in ["home/user", "home/user/file", "home/user/deep/same"] {
            let found = of(path);
            assert_eq!(
                (found.uid(), found.gid()),
                (new.outside(1000), new.outside(1001)),
                "{path}"
            );
        }
        assert_eq!(of("home/user/file").mode() & 0o7777, 0o4711);
        assert_eq!(of("home/user").mode() & 0o7777, 0o2750);
        assert_eq!(of("home/user/link").uid(), new.outside(7));
        // Nobody of the sandbox's: the kernel's own.
        assert_eq!(of("hidden").uid(), 0);
    }
}

#[test]
fn usual_tools_can_read_a_pack() {
    let layer = layer();
    let packed = packed(layer.path());
    let plain = zstd::decode_all(packed.reopen().unwrap()).unwrap();
    let mut archive = tar::Archive::new(plain.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        names.push(entry.path_bytes().into_owned());
        assert!(entry.header().uid().unwrap() < 65_536);
    }
    assert!(names.contains(&b"home/user/deep/same".to_vec()));
    assert!(names.contains(&b"a\nb \xff".to_vec()));
    assert!(!names.contains(&b"socket".to_vec()));
}

#[test]
fn a_damaged_pack_is_told_and_nothing_outside_is_written() {
    let layer = layer();
    let packed = packed(layer.path());
    let whole = fs::read(packed.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (number, damage) in [
        whole[..whole.len() / 2].to_vec(),
        {
            let mut damaged = whole.clone();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 0x55;
            damaged
        },
        b"no archive at all".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join("pack");
        fs::write(&path, damage).unwrap();
        let target = folder.path().join(number.to_string());
        fs::create_dir(&target).unwrap();
        let result = unpack(File::open(&path).unwrap(), &open(&target), Ids::of(SLOT));
        assert!(result.is_err(), "{number}");
    }
    for name in ["../outside", "a/../b", "/abs", "", "a//b", "a/."] {
        let text = tar_of(&[(name, "x")]);
        let path = folder.path().join("pack");
        fs::write(&path, zstd::encode_all(text.as_slice(), 1).unwrap()).unwrap();
        let target = tempfile::tempdir_in(folder.path()).unwrap();
        let result = unpack(
            File::open(&path).unwrap(),
            &open(target.path()),
            Ids::of(SLOT),
        );
        assert!(result.is_err(), "{name:?}");
    }
    assert!(!folder.path().join("outside").exists());
}

/// An archive of files in the form of a pack.
fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, content) in files {
        let mut records = Vec::new();
        super::pack::push(&mut records, b"path", name.as_bytes());
        super::pack::push(&mut records, b"mtime", b"1");
        for (kind, body) in [
            (tar::EntryType::XHeader, records.as_slice()),
            (tar::EntryType::Regular, content.as_bytes()),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(body.len() as u64);
            header.set_cksum();
            text.extend_from_slice(header.as_bytes());
            text.extend_from_slice(body);
            text.resize(text.len().next_multiple_of(super::pack::BLOCK), 0);
        }
    }
    text.resize(text.len() + 2 * super::pack::BLOCK, 0);
    text
}

#[test]
fn a_tree_that_is_too_deep_for_paths_is_refused() {
    let layer = tempfile::tempdir().unwrap();
    let mut folder = open(layer.path());
    let name = "d".repeat(255);
    for _ in 0..20 {
        rustix::fs::mkdirat(&folder, name.as_str(), Mode::RWXU).unwrap();
        folder = super::walk::open_below(&folder, name.as_bytes()).unwrap();
    }
    let target = tempfile::tempfile().unwrap();
    let error = pack(&open(layer.path()), Ids::of(SLOT), target).unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    sys::tree::remove(
        open(layer.path()),
        &std::ffi::CString::new(name.as_str()).unwrap(),
    )
    .unwrap();
}
