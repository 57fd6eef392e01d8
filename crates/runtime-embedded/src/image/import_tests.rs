use std::{fs, io::Write};

use sha2::{Digest, Sha256};

use super::*;
use crate::image::{Silent, manifest::hexadecimal, test_archive::Archive};

fn store() -> (tempfile::TempDir, Store) {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    (state, store)
}

fn import(store: &Store, bytes: &[u8], name: Option<&str>) -> Result<ImageRecord, ImageError> {
    let name = name.map(|name| name.parse().unwrap());
    store.import(&mut &bytes[..], name.as_ref(), &Silent)
}

fn small() -> Vec<u8> {
    Archive::default()
        .folder("bin")
        .file("bin/sh", b"#!")
        .finish()
}

/// Nothing is in work any more.
fn assert_clean(state: &tempfile::TempDir) {
    let left = fs::read_dir(state.path().join("images/tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_root_file_system_comes_in_by_any_compression() {
    let (state, store) = store();
    let plain = import(&store, &small(), Some("a")).unwrap();
    let zipped = import(&store, &gzip(&small()), Some("b")).unwrap();
    let zstd = zstd::encode_all(small().as_slice(), 1).unwrap();
    let zstd = import(&store, &zstd, Some("c:1")).unwrap();
    assert_eq!(plain.layers, zipped.layers);
    assert_eq!(plain.digest, zstd.digest);
    assert_eq!(zstd.name.unwrap().as_str(), "c:1");
    let layer = plain.layers[0].file_name().unwrap().to_str().unwrap();
    assert_eq!(layer, hexadecimal(&Sha256::digest(small())));
    assert_eq!(fs::read(plain.layers[0].join("bin/sh")).unwrap(), b"#!");
    assert_eq!((plain.size_bytes, plain.workdir.as_str()), (2, "/"));
    assert_clean(&state);
}

#[test]
fn a_gzip_file_of_several_parts_is_read_whole() {
    let (_state, store) = store();
    let whole = small();
    let (first, second) = whole.split_at(700);
    let zipped = [gzip(first), gzip(second)].concat();
    let plain = import(&store, &small(), Some("a")).unwrap();
    assert_eq!(
        import(&store, &zipped, Some("b")).unwrap().digest,
        plain.digest
    );
}

#[test]
fn a_failed_import_leaves_nothing() {
    let (state, store) = store();
    for (bytes, why) in [
        (small()[..600].to_vec(), "truncated"),
        (gzip(&small())[..60].to_vec(), "truncated"),
        (b"\xfd7zXZ\0rest".to_vec(), "xz -dc"),
        (b"BZh91AY".to_vec(), "bzip2 -dc"),
        (
            b"just some text, far from an archive".repeat(30),
            "not a valid tar",
        ),
        (Vec::new(), "truncated"),
        (vec![0; 1024], "before its first entry"),
        (
            Archive::default()
                .file("ok", b"")
                .file("../bad", b"")
                .finish(),
            "../bad",
        ),
    ] {
        let error = import(&store, &bytes, Some("a")).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    assert!(store.list().unwrap().is_empty());
    assert_eq!(
        fs::read_dir(state.path().join("images/layers"))
            .unwrap()
            .count(),
        0
    );
    assert_clean(&state);
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let (state, mut store) = store();
    store.limits.bytes = 1 << 20;
    // 200 MB of zeros in a few hundred kilobytes.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let head = Archive::default().custom(tar::EntryType::Regular, "zeros", "", b"", |header| {
        header.set_size(200 << 20)
    });
    encoder.write_all(&head.finish()[..512]).unwrap();
    for _ in 0..200 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let error = import(&store, &bomb, None).unwrap_err();
    assert!(
        matches!(error, ImageError::TooLarge { what: "bytes", .. }),
        "{error}"
    );
    assert_clean(&state);
}

fn saved(layers: &[Vec<u8>], diff_ids: &[String]) -> Vec<u8> {
    let ids: Vec<String> = diff_ids.iter().map(|id| format!("sha256:{id}")).collect();
    let config = serde_json::json!({
        "config": {"Env": ["A=b"], "WorkingDir": "/srv"},
        "rootfs": {"diff_ids": ids},
    });
    let names: Vec<String> = (0..layers.len())
        .map(|i| format!("blobs/sha256/{i}"))
        .collect();
    let manifest = serde_json::json!([
        {"Config": "blobs/sha256/c", "RepoTags": ["saved/app:3"], "Layers": names}
    ]);
    names
        .iter()
        .zip(layers)
        .fold(
            Archive::default().folder("blobs/"),
            |archive, (name, layer)| archive.file(name, layer),
        )
        .file("blobs/sha256/c", config.to_string().as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes())
        .finish()
}

#[test]
fn a_saved_container_image_keeps_its_layers_and_words() {
    let (state, store) = store();
    let upper = Archive::default().file("bin/.wh.sh", b"").finish();
    let ids = [&small(), &upper].map(|layer| hexadecimal(&Sha256::digest(layer)));
    let archive = saved(&[small(), gzip(&upper)], &ids);
    let record = import(&store, &archive, None).unwrap();
    assert_eq!(record.name.as_ref().unwrap().as_str(), "saved/app:3");
    let names: Vec<_> = record
        .layers
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ids, "bottom first");
    assert_eq!(
        (record.env["A"].as_str(), record.workdir.as_str()),
        ("b", "/srv")
    );
    assert!(fs::symlink_metadata(record.layers[1].join("bin/sh")).is_ok());
    let again = import(&store, &gzip(&archive), Some("other")).unwrap();
    assert_eq!(again.digest, record.digest);
    assert_clean(&state);
}

#[test]
fn a_layer_that_is_not_what_the_image_says_is_refused() {
    let (state, store) = store();
    let ids = ["1".repeat(64)];
    let error = import(&store, &saved(&[small()], &ids), None).unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(store.list().unwrap().is_empty());
    assert_clean(&state);
}

#[test]
fn a_layer_that_comes_twice_is_stacked_once_where_it_lies_highest() {
    let (state, store) = store();
    let other = Archive::default().file("bin/sh", b"other").finish();
    let digest = |layer: &Vec<u8>| hexadecimal(&Sha256::digest(layer));
    let ids = [&small(), &other, &small()].map(digest);
    let record = import(&store, &saved(&[small(), other, small()], &ids), None).unwrap();
    let names: Vec<_> = record
        .layers
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ids[1..]);
    assert_eq!(
        fs::read_dir(state.path().join("images/layers"))
            .unwrap()
            .count(),
        2
    );
}
