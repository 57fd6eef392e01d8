use std::{fs, os::unix::fs::chown};

use sandbox::ImageConfig;

use super::*;
use crate::image::{Silent, test_archive::Archive};

const UID_BASE: u32 = 500_000;

fn store() -> (tempfile::TempDir, Store, ImageRecord) {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let archive = Archive::default().folder("bin").file("bin/sh", b"shell");
    let name = "base".parse().unwrap();
    let base = store
        .import(&mut archive.finish().as_slice(), Some(&name), &Silent)
        .unwrap();
    (state, store, base)
}

fn new(name: Option<&str>, key: Option<&str>) -> NewImage {
    NewImage {
        name: name.map(|name| name.parse().unwrap()),
        config: ImageConfig {
            env: [("A".to_owned(), "b".to_owned())].into(),
            workdir: "/srv".to_owned(),
            user: Some("me".to_owned()),
            entrypoint: vec!["run".to_owned()],
            cmd: vec!["it".to_owned()],
            labels: [("l".to_owned(), "m".to_owned())].into(),
        },
        built_from: key.map(str::to_owned),
    }
}

fn upper(files: &[(&str, &str)]) -> (tempfile::TempDir, Writable) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        chown(&path, Some(UID_BASE), Some(UID_BASE)).unwrap();
    }
    let writable = Writable {
        upper: fs::File::open(folder.path()).unwrap().into(),
        uid_base: UID_BASE,
    };
    (folder, writable)
}

#[test]
fn a_derived_image_has_the_same_layers_and_other_words() {
    let (_state, store, base) = store();
    let made = store
        .derive(&"base".parse().unwrap(), &new(Some("other:1"), None))
        .unwrap();
    assert_eq!(made.layers, base.layers);
    assert_ne!(made.digest, base.digest);
    assert_eq!(made.name.as_ref().unwrap().as_str(), "other:1");
    let config = sandbox::FoundImage::from(made).config;
    assert_eq!(config, new(None, None).config);
}

#[test]
fn a_committed_sandbox_becomes_a_layer_above_those_it_was_made_from() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (_state, store, base) = store();
    let (_folder, writable) = upper(&[("file", "content")]);
    let made = store
        .commit(&base.layers, writable, &new(Some("mine"), None))
        .unwrap();
    assert_eq!(made.layers.len(), 2);
    assert_eq!(made.layers[0], base.layers[0]);
    assert_eq!(fs::read(made.layers[1].join("file")).unwrap(), b"content");
    assert_eq!(made.size_bytes, base.size_bytes + 7);
    // The base may go: the image keeps what it needs of it.
    store.remove(&"base".parse().unwrap()).unwrap();
    assert_eq!(store.resolve(&"mine".parse().unwrap()).unwrap(), made);
}

#[test]
fn nothing_changed_adds_no_layer() {
    let (_state, store, base) = store();
    let (_folder, writable) = upper(&[]);
    let made = store
        .commit(&base.layers, writable, &new(None, Some("key")))
        .unwrap();
    assert_eq!(made.layers, base.layers);
    assert_eq!(made.built_from.as_deref(), Some("key"));
    let found = store.resolve(&made.digest.parse().unwrap()).unwrap();
    assert_eq!(found, made);
    assert_eq!(store.find_built("key").unwrap().as_ref(), Some(&made));
    assert_eq!(store.find_built("other").unwrap(), None);
}
