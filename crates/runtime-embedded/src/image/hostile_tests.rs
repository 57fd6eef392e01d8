//! Archives that try to get out: nothing outside the root may change.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
};

use proptest::{prelude::*, test_runner::TestRunner};
use tar::EntryType;

use super::{
    ImageError,
    tar_stream::TarStream,
    test_archive::Archive,
    unpack::{Limits, Unpacker},
};

/// A folder to unpack into, and around it what must not change.
///
/// The root lies so deep that a broken unpacker that climbs out stays within
/// the temporary folder: no test may point at a real place of this machine.
struct Place {
    _folder: tempfile::TempDir,
    top: PathBuf,
    near: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

/// More than all attacks of one test can climb.
const DEPTH: usize = 40;

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        let near = top.join("d/".repeat(DEPTH));
        let outside = near.join("outside");
        fs::create_dir_all(outside.join("a")).unwrap();
        fs::create_dir(near.join("root")).unwrap();
        fs::write(outside.join("canary"), "sings").unwrap();
        fs::write(outside.join("b"), "secret").unwrap();
        let mut place = Self {
            _folder: folder,
            top,
            near,
            before: BTreeMap::new(),
        };
        place.before = place.listing();
        place
    }

    fn outside(&self) -> PathBuf {
        self.near.join("outside")
    }

    fn root(&self) -> PathBuf {
        self.near.join("root")
    }

    /// Begins anew, with everything around the root as it is.
    fn empty_root(&mut self) {
        let near = File::open(&self.near).unwrap();
        sys::tree::remove(&near, c"root").unwrap();
        fs::create_dir(self.root()).unwrap();
        self.before = self.listing();
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
        let after = self.listing();
        if after == self.before {
            return Ok(());
        }
        Err(format!("outside was {:?}, is {after:?}", self.before))
    }

    /// Everything but the root: type, mode, owner, links, times and content.
    fn listing(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut paths = vec![self.top.clone()];
        while let Some(path) = paths.pop() {
            if path == self.root() {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                fs::read_to_string(&path).unwrap()
            } else {
                String::new()
            };
            if metadata.is_dir() {
                paths.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
            // The change time tells what the rest does not, e.g. a new attribute.
            let facts = format!(
                "{:o} {} {} {}.{} {content}",
                metadata.mode(),
                metadata.uid(),
                metadata.nlink(),
                metadata.ctime(),
                metadata.ctime_nsec()
            );
            found.insert(path, facts);
        }
        found
    }
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
    for (target, file) in [
        ("..", "s/outside/canary"),
        ("../outside", "s/canary"),
        ("../..", "s/d/outside/canary"),
    ] {
        assert_refused(|_| Archive::default().symlink("s", target).file(file, b"x"));
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
    assert!(
        fs::symlink_metadata(place.root().join("s"))
            .unwrap()
            .is_file()
    );
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
    assert_refused(|outside| {
        Archive::default()
            .symlink("./", outside)
            .file("canary", b"x")
    });
    assert_refused(|outside| {
        Archive::default()
            .symlink("/", outside)
            .file("canary", b"x")
    });
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
    assert!(
        fs::symlink_metadata(place.root().join("l"))
            .unwrap()
            .is_symlink()
    );
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
    let place = Place::new();
    let outside = File::open(place.outside()).unwrap();
    let link = format!("/proc/self/fd/{}", outside.as_raw_fd());
    for archive in [
        Archive::default()
            .symlink("s", &link)
            .file("s/canary", b"x"),
        Archive::default().symlink("s", &link).folder("s/new"),
        Archive::default()
            .symlink("s", &link)
            .hard_link("l", "s/canary"),
    ] {
        assert!(place.unpack(archive).is_err());
        place.check().unwrap();
    }
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

impl Attack {
    fn archive(self, outside: &str) -> Archive {
        let path = self.path.replace("OUTSIDE", outside);
        let link = self.link.replace("OUTSIDE", outside);
        match self.kind {
            // A long name for an innocent file.
            b'L' => Archive::default()
                .entry(EntryType::GNULongName, "x", "", path.as_bytes())
                .file("innocent", b"x"),
            b'0' => Archive::default().file(&path, b"x"),
            kind => Archive::default().entry(EntryType::new(kind), &path, &link, b""),
        }
    }
}

fn attack() -> impl Strategy<Value = Attack> {
    let component = || {
        proptest::sample::select(vec![
            "a",
            "b",
            "s",
            "canary",
            "..",
            ".",
            "",
            "OUTSIDE",
            ".wh.a",
            ".wh.s",
            ".wh..wh..opq",
            ".wh..",
        ])
    };
    let path = || proptest::collection::vec(component(), 1..4).prop_map(|parts| parts.join("/"));
    let target = prop_oneof![
        path(),
        Just("..".to_owned()),
        Just("../outside".to_owned()),
        Just("OUTSIDE".to_owned()),
        Just("OUTSIDE/canary".to_owned()),
    ];
    // Links and folders more often than the rest: they set the traps.
    let kind = proptest::sample::select(b"0011222255536L".to_vec());
    (kind, path(), target).prop_map(|(kind, path, link)| Attack { kind, path, link })
}

#[test]
fn no_sequence_of_entries_changes_anything_outside() {
    let place = RefCell::new(Place::new());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 100,
        // Tests leave no files beside the sources.
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&proptest::collection::vec(attack(), 1..12), |attacks| {
            let mut place = place.borrow_mut();
            place.empty_root();
            for attack in attacks {
                // One archive per entry, so that a refusal does not end the attack.
                let _ = place.unpack(attack.archive(place.outside().to_str().unwrap()));
            }
            place.check().map_err(TestCaseError::fail)
        })
        .unwrap();
}
