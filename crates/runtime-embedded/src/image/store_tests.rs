use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::image::{Silent, test_archive::Archive};

fn store() -> (tempfile::TempDir, Store) {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    (state, store)
}

fn image(name: &str) -> Image {
    name.parse().unwrap()
}

/// Imports an image with one file of this content.
fn add(store: &Store, name: Option<&str>, content: &str) -> ImageRecord {
    let archive = Archive::default()
        .folder("bin")
        .file("bin/f", content.as_bytes())
        .finish();
    let name = name.map(image);
    store
        .import(&mut archive.as_slice(), name.as_ref(), &Silent)
        .unwrap()
}

fn layers(state: &tempfile::TempDir) -> usize {
    fs::read_dir(state.path().join("images/layers"))
        .unwrap()
        .count()
}

#[test]
fn images_are_found_by_name_tag_and_digest() {
    let (_state, store) = store();
    let added = add(&store, Some("box"), "1");
    assert_eq!(added.name.as_ref().unwrap().as_str(), "box:latest");
    for name in ["box", "box:latest"] {
        assert_eq!(store.resolve(&image(name)).unwrap(), added);
    }
    let digits = added.digest.strip_prefix("sha256:").unwrap();
    for name in [digits, &digits[..12], &added.digest] {
        let found = store.resolve(&image(name)).unwrap();
        assert_eq!((found.name, found.digest), (None, added.digest.clone()));
    }
    assert!(store.resolve(&image(&digits[..11])).is_err());
    assert_eq!(store.list().unwrap(), [added]);
}

#[test]
fn a_missing_image_is_told_with_what_exists() {
    let (_state, store) = store();
    let message = |store: &Store| store.resolve(&image("gone:1")).unwrap_err().to_string();
    assert!(message(&store).contains("sandboxai image build"));
    add(&store, Some("mine/box"), "1");
    let message = message(&store);
    for part in ["gone:1", "mine/box:latest", "sandboxai image ls"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn layers_go_with_their_last_image() {
    let (state, store) = store();
    add(&store, Some("a"), "same");
    add(&store, Some("b"), "same");
    add(&store, Some("c"), "other");
    assert_eq!(layers(&state), 2);
    store.remove(&image("a")).unwrap();
    assert_eq!(layers(&state), 2);
    store.remove(&image("b")).unwrap();
    assert_eq!(layers(&state), 1);
    assert!(store.remove(&image("b")).is_err());
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(
        fs::read_dir(state.path().join("images/tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_name_given_anew_leaves_the_old_image_behind() {
    let (state, store) = store();
    let old = add(&store, Some("a"), "old");
    let new = add(&store, Some("a"), "new");
    assert_ne!(old.digest, new.digest);
    assert_eq!(store.resolve(&image("a")).unwrap().digest, new.digest);
    assert_eq!(layers(&state), 1);
}

#[test]
fn an_unnamed_image_stays_until_removed_by_digest() {
    let (state, store) = store();
    let unnamed = add(&store, None, "x");
    add(&store, Some("a"), "y");
    assert_eq!(store.list().unwrap().last().unwrap(), &unnamed);
    store.remove(&image(&unnamed.digest)).unwrap();
    assert_eq!((store.list().unwrap().len(), layers(&state)), (1, 1));
}

#[test]
fn layers_of_sandboxes_are_kept() {
    let (state, store) = store();
    let record = add(&store, Some("a"), "used");
    let sandbox = state.path().join("sandboxes/one");
    fs::create_dir_all(&sandbox).unwrap();
    let text = serde_json::to_string(&record.layers).unwrap();
    fs::write(sandbox.join("record.json"), text).unwrap();
    store.remove(&image("a")).unwrap();
    assert_eq!(layers(&state), 1);
    // The next change after the sandbox has gone collects the layer.
    fs::remove_file(sandbox.join("record.json")).unwrap();
    add(&store, Some("b"), "other");
    assert_eq!(
        layers(&state),
        2,
        "a sandbox without a record may use any layer"
    );
    fs::remove_dir(&sandbox).unwrap();
    add(&store, Some("b"), "third");
    assert_eq!(layers(&state), 1);
}

#[test]
fn a_hold_keeps_layers_in_place() {
    let (state, store) = store();
    add(&store, Some("a"), "x");
    let hold = store.hold().unwrap();
    let second = store.hold().unwrap();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| store.remove(&image("a")));
        pause(Duration::from_millis(100));
        assert_eq!(layers(&state), 1);
        drop((hold, second));
        removal.join().unwrap().unwrap();
    });
    assert_eq!(layers(&state), 0);
}

#[test]
fn leftovers_of_killed_processes_are_swept_and_work_is_not() {
    let (state, store) = store();
    let tmp = state.path().join("images/tmp");
    fs::create_dir_all(tmp.join("killed-early")).unwrap();
    fs::create_dir_all(tmp.join("killed/layer-0/deep")).unwrap();
    fs::write(tmp.join("killed/lock"), "").unwrap();
    let working = store.workspace().unwrap();
    fs::write(working.path("file"), "x").unwrap();
    let another = store.workspace().unwrap();
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 2);
    assert!(working.path("file").exists());
    drop((working, another));
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
}

#[test]
fn a_workspace_is_in_use_while_a_child_holds_its_lock() {
    let (state, store) = store();
    let tmp = state.path().join("images/tmp");
    let working = store.workspace().unwrap();
    let kept = working.lock().unwrap();
    // Moved away and back, so that dropping it is like being killed.
    let folder = fs::read_dir(&tmp).unwrap().next().unwrap().unwrap().path();
    let aside = state.path().join("aside");
    fs::rename(&folder, &aside).unwrap();
    drop(working);
    fs::rename(&aside, &folder).unwrap();
    drop(store.workspace().unwrap());
    assert!(folder.exists(), "the child still works in it");
    drop(kept);
    drop(store.workspace().unwrap());
    assert!(!folder.exists());
}

#[test]
fn the_store_is_closed_to_other_users() {
    let (state, _store) = store();
    let path = state.path().join("images");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Store::open(state.path()).unwrap();
    let mode = fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn damaged_files_are_told() {
    let (state, store) = store();
    let record = add(&store, Some("a"), "x");
    let digest = record.digest.strip_prefix("sha256:").unwrap();
    let path = state.path().join(format!("images/manifests/{digest}.json"));
    fs::write(&path, "{").unwrap();
    let message = store.resolve(&image("a")).unwrap_err().to_string();
    assert!(message.contains("damaged"), "{message}");
}

#[test]
fn a_missing_layer_is_told() {
    let (_state, store) = store();
    let record = add(&store, Some("a"), "x");
    let folder = &record.layers[0];
    fs::rename(folder, folder.with_extension("gone")).unwrap();
    let error = store.resolve(&image("a")).unwrap_err();
    assert!(matches!(error, ImageError::LayerGone { .. }), "{error}");
}

#[test]
fn many_imports_at_once_end_well() {
    let (state, store) = store();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..5 {
                    add(
                        store,
                        Some(&format!("i{thread}")),
                        &format!("{}", round % 2),
                    );
                }
            });
        }
    });
    assert_eq!(store.list().unwrap().len(), 6);
    assert_eq!(layers(&state), 1);
    assert_eq!(
        fs::read_dir(state.path().join("images/tmp"))
            .unwrap()
            .count(),
        0
    );
}
