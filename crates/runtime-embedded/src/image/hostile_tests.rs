//! Archives that try to get out: nothing outside the root may change.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tar::EntryType;

use super::{
    ImageError,
    tar_stream::TarStream,
    test_archive::Archive,
    unpack::{Limits, Unpacker},
};

/// A folder to unpack into, and beside it what must not change.
struct Place {
    folder: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::create_dir(outside.join("a")).unwrap();
        fs::write(outside.join("canary"), "sings").unwrap();
        fs::write(outside.join("b"), "secret").unwrap();
        let before = listing(&outside);
        Self { folder, before }
    }

    fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn unpack(&self, archive: Archive) -> Result<(), ImageError> {
        let root = OwnedFd::from(File::open(self.root()).unwrap());
        let bytes = archive.finish();
        Unpacker::new(root, Limits::default())
            .unpack(&mut TarStream::new(bytes.as_slice()), None)
            .map(drop)
    }

    /// Nothing is changed, made, removed or linked outside.
    fn check(&self) -> Result<(), String> {
        let after = listing(&self.outside());
        if after != self.before {
            return Err(format!("outside was {:?}, is {after:?}", self.before));
        }
        let beside = fs::read_dir(self.folder.path()).unwrap().count();
        if beside != 2 {
            return Err(format!("{beside} entries beside the root"));
        }
        Ok(())
    }
}

/// Everything below the folder: type, mode, owner, links, time and content.
fn listing(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut paths = vec![folder.to_owned()];
    while let Some(path) = paths.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() {
            fs::read_to_string(&path).unwrap()
        } else {
            String::new()
        };
        if metadata.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(
            path,
            format!(
                "{:o} {} {} {} {} {content}",
                metadata.mode(),
                metadata.uid(),
                metadata.nlink(),
                metadata.mtime(),
                metadata.mtime_nsec()
            ),
        );
    }
    found
}

/// The archive must be refused and must not have changed anything outside.
fn assert_refused(build: impl FnOnce(&str) -> Archive) {
    let place = Place::new();
    let result = place.unpack(build(place.outside().to_str().unwrap()));
    place.check().unwrap();
    assert!(result.is_err(), "accepted");
}

/// The archive may be accepted, but stays inside.
fn assert_contained(build: impl FnOnce(&str) -> Archive) {
    let place = Place::new();
    let _ = place.unpack(build(place.outside().to_str().unwrap()));
    place.check().unwrap();
}

#[test]
fn parent_folders_in_names() {
    for name in ["../outside/canary", "a/../../outside/canary", "..", "a/.."] {
        assert_refused(|_| Archive::default().folder("a").file(name, b"x"));
        assert_refused(|_| Archive::default().folder("a").folder(name));
        assert_refused(|_| Archive::default().folder("a").symlink(name, "x"));
    }
}

#[test]
fn absolute_names_stay_inside() {
    let place = Place::new();
    let canary = place.outside().join("canary");
    let name = canary.to_str().unwrap();
    place.unpack(Archive::default().file(name, b"x")).unwrap();
    place.check().unwrap();
    let inside = place.root().join(name.trim_start_matches('/'));
    assert_eq!(fs::read(inside).unwrap(), b"x");
}

#[test]
fn symlink_then_file_through_it() {
    for target in ["/", "..", "../outside", "../../../../../.."] {
        assert_refused(|_| {
            Archive::default()
                .symlink("s", target)
                .file("s/outside/canary", b"x")
        });
    }
    assert_refused(|outside| {
        Archive::default()
            .symlink("s", outside)
            .file("s/canary", b"x")
    });
    assert_refused(|outside| {
        Archive::default()
            .symlink("a", "b")
            .symlink("b", outside)
            .folder("a/new")
    });
}

#[test]
fn symlink_then_file_of_the_same_name() {
    let place = Place::new();
    let canary = place.outside().join("canary");
    let archive = Archive::default()
        .symlink("s", canary.to_str().unwrap())
        .file("s", b"x");
    place.unpack(archive).unwrap();
    place.check().unwrap();
    assert!(fs::symlink_metadata(place.root().join("s")).unwrap().is_file());
}

#[test]
fn symlink_then_folder_of_the_same_name() {
    let place = Place::new();
    let archive = Archive::default()
        .symlink("s", place.outside().to_str().unwrap())
        .folder("s")
        .file("s/canary", b"x");
    place.unpack(archive).unwrap();
    place.check().unwrap();
    assert_eq!(fs::read(place.root().join("s/canary")).unwrap(), b"x");
}

#[test]
fn symlink_in_place_of_the_root() {
    assert_refused(|outside| Archive::default().symlink("./", outside).file("canary", b"x"));
    assert_refused(|outside| Archive::default().symlink("/", outside).file("canary", b"x"));
}

#[test]
fn hard_links_out() {
    assert_refused(|_| Archive::default().hard_link("l", "../outside/canary"));
    // By its absolute name the file is looked for inside, where it is not.
    assert_refused(|outside| Archive::default().hard_link("l", &format!("{outside}/canary")));
    assert_refused(|outside| {
        Archive::default()
            .symlink("s", outside)
            .hard_link("l", "s/canary")
            .file("l", b"x")
    });
}

#[test]
fn hard_link_to_a_symlink_is_not_followed() {
    let place = Place::new();
    let canary = place.outside().join("canary");
    let archive = Archive::default()
        .symlink("s", canary.to_str().unwrap())
        .hard_link("l", "s");
    place.unpack(archive).unwrap();
    // Checked before the next write removes the link again.
    place.check().unwrap();
    assert!(fs::symlink_metadata(place.root().join("l")).unwrap().is_symlink());
    place.unpack(Archive::default().file("l", b"x")).unwrap();
    place.check().unwrap();
}

#[test]
fn whiteouts_do_not_reach_out() {
    for name in ["s/.wh.canary", "s/.wh..wh..opq", "s/a/.wh..wh..opq"] {
        assert_refused(|outside| Archive::default().symlink("s", outside).file(name, b""));
    }
    assert_refused(|_| Archive::default().file("../outside/.wh.canary", b""));
    // As a hard link, a folder or a symbolic link a whiteout is a whiteout too.
    for kind in [EntryType::Link, EntryType::Symlink, EntryType::Directory] {
        assert_contained(|outside| {
            Archive::default()
                .symlink("s", outside)
                .entry(kind, ".wh.s", outside, b"")
                .file("s/canary", b"x")
        });
    }
}

#[test]
fn whiteout_of_a_symlink_is_about_the_link() {
    let place = Place::new();
    let archive = Archive::default()
        .symlink("s", place.outside().to_str().unwrap())
        .file(".wh.s", b"");
    place.unpack(archive).unwrap();
    place.check().unwrap();
}

#[test]
fn extended_headers_do_not_smuggle_names() {
    for name in ["../outside/canary", "a\0/../../outside/canary"] {
        assert_refused(|_| {
            Archive::default()
                .extended(&[("path", name.as_bytes())])
                .file("innocent", b"x")
        });
    }
    assert_refused(|_| {
        Archive::default()
            .extended(&[("linkpath", b"../outside/canary")])
            .hard_link("l", "innocent")
    });
    assert_refused(|_| {
        Archive::default()
            .entry(EntryType::GNULongName, "x", "", b"../outside/canary\0")
            .file("innocent", b"x")
    });
}

#[test]
fn magic_links_are_no_way_out() {
    assert_refused(|_| {
        Archive::default()
            .symlink("s", "/proc/self/root")
            .file("s/x", b"x")
    });
    assert_refused(|_| {
        Archive::default()
            .symlink("s", "/proc/self/cwd")
            .folder("s/x")
    });
}

#[test]
fn modes_and_times_do_not_go_through_links() {
    let place = Place::new();
    let canary = place.outside().join("canary");
    let name = canary.to_str().unwrap();
    let archive = Archive::default().custom(EntryType::Symlink, "s", name, b"", |header| {
        header.set_mode(0o4777);
        header.set_mtime(1);
    });
    place.unpack(archive).unwrap();
    place.check().unwrap();
}

/// One step of an attack: what kind of entry, where, leading where.
#[derive(Clone, Debug)]
struct Attack {
    kind: u8,
    path: String,
    link: String,
}

fn attack() -> impl Strategy<Value = Attack> {
    let component = || {
        proptest::sample::select(vec![
            "a", "b", "s", "canary", "..", ".", "", "OUTSIDE", ".wh.a", ".wh.s", ".wh..wh..opq",
            ".wh..",
        ])
    };
    let path = || proptest::collection::vec(component(), 1..4).prop_map(|parts| parts.join("/"));
    let target = prop_oneof![
        path(),
        Just("/".to_owned()),
        Just("..".to_owned()),
        Just("../outside".to_owned()),
        Just("OUTSIDE".to_owned()),
        Just("OUTSIDE/canary".to_owned()),
    ];
    // Links and folders more often than the rest: they set the traps.
    let kind = proptest::sample::select(b"0011222255536L".to_vec());
    (kind, path(), target).prop_map(|(kind, path, link)| Attack { kind, path, link })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_sequence_of_entries_changes_anything_outside(
        attacks in proptest::collection::vec(attack(), 1..12),
    ) {
        let place = Place::new();
        let outside = place.outside();
        let outside = outside.to_str().unwrap();
        for Attack { kind, path, link } in attacks {
            let path = path.replace("OUTSIDE", outside);
            let link = link.replace("OUTSIDE", outside);
            let archive = match kind {
                // A long name for an innocent file.
                b'L' => Archive::default()
                    .entry(EntryType::GNULongName, "x", "", path.as_bytes())
                    .file("innocent", b"x"),
                b'0' => Archive::default().file(&path, b"x"),
                kind => Archive::default().entry(EntryType::new(kind), &path, &link, b""),
            };
            // One archive per entry, so that a refusal does not end the attack.
            let _ = place.unpack(archive);
        }
        if let Err(change) = place.check() {
            prop_assert!(false, "{}", change);
        }
    }
}
