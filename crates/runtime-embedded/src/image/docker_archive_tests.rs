use super::*;
use crate::image::{manifest::hexadecimal, test_archive::Archive};
use sha2::{Digest, Sha256};

fn members(archive: Archive) -> Result<Members, ImageError> {
    let bytes = archive.finish();
    let mut stream = TarStream::new(bytes.as_slice());
    let first = stream.next()?.unwrap();
    Members::read(&mut stream, first, tempfile::tempfile().unwrap())
}

fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn config(diff_ids: &[&str]) -> Vec<u8> {
    let ids: Vec<String> = diff_ids.iter().map(|id| format!("sha256:{id}")).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": host_architecture(),
        "config": {"Env": ["PATH=/bin", "EMPTY=", "broken"], "WorkingDir": "/app", "User": "1000:1000"},
        "rootfs": {"type": "layers", "diff_ids": ids},
    }))
    .unwrap()
}

fn docker_manifest(config: &str, layers: &[&str]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!([
        {"Config": config, "RepoTags": ["me/app:1"], "Layers": layers}
    ]))
    .unwrap()
}

fn read(members: &Members, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    members.open(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_container_image_is_known_by_its_first_entry() {
    let id = "0".repeat(64);
    for name in [
        "blobs/".to_owned(),
        "./blobs/sha256/x".to_owned(),
        "manifest.json".to_owned(),
        "oci-layout".to_owned(),
        format!("{id}/"),
        format!("{id}.json"),
        format!("{id}.tar"),
        format!("sha256:{id}"),
    ] {
        assert!(begins_with(name.as_bytes()), "{name}");
    }
    for name in ["./", "bin", "etc/passwd", "usr/", "blobs2", "0/", ""] {
        assert!(!begins_with(name.as_bytes()), "{name}");
    }
}

#[test]
fn an_archive_of_docker_save_is_described() {
    let id = digest(b"layer");
    let members = members(
        Archive::default()
            .folder("blobs/")
            .file("blobs/sha256/layer", b"layer")
            .file("blobs/sha256/config", &config(&[&id]))
            .file(
                "manifest.json",
                &docker_manifest("blobs/sha256/config", &["blobs/sha256/layer"]),
            ),
    )
    .unwrap();
    let found = members.describe().unwrap();
    assert_eq!(found.layers, ["blobs/sha256/layer"]);
    assert_eq!(found.diff_ids, [id]);
    assert_eq!(found.env["PATH"], "/bin");
    assert_eq!(found.env["EMPTY"], "");
    assert_eq!(found.env.len(), 2);
    assert_eq!(found.workdir, "/app");
    assert_eq!(found.user.as_deref(), Some("1000:1000"));
    assert_eq!(found.name.unwrap().as_str(), "me/app:1");
    assert_eq!(read(&members, "blobs/sha256/layer"), b"layer");
}

#[test]
fn links_between_layers_of_old_archives_are_followed_once() {
    let members = members(
        Archive::default()
            .file("one/layer.tar", b"layer")
            .symlink("two/layer.tar", "../one/layer.tar")
            .symlink("loop/a", "b")
            .symlink("loop/b", "a")
            .symlink("out/a", "../../../etc/passwd"),
    )
    .unwrap();
    assert_eq!(read(&members, "two/layer.tar"), b"layer");
    for name in ["loop/a", "out/a", "missing", "../one/layer.tar", "."] {
        assert!(members.open(name).is_err(), "{name}");
    }
}

#[test]
fn an_oci_layout_is_described() {
    let layer = digest(b"layer");
    let config = config(&[&layer]);
    let manifest = serde_json::to_vec(&serde_json::json!({
        "config": {"digest": format!("sha256:{}", digest(&config))},
        "layers": [{"digest": format!("sha256:{layer}")}],
    }))
    .unwrap();
    let platform = serde_json::json!({"architecture": host_architecture(), "os": "linux"});
    let index = serde_json::to_vec(&serde_json::json!({"manifests": [
        {"digest": format!("sha256:{}", digest(&manifest)), "platform": platform},
        {"digest": format!("sha256:{}", digest(b"other")),
         "platform": {"architecture": "unknown", "os": "unknown"}},
    ]}))
    .unwrap();
    let top = serde_json::to_vec(&serde_json::json!({"manifests": [
        {"digest": format!("sha256:{}", digest(&index)),
         "annotations": {"org.opencontainers.image.ref.name": "me/app:2"}},
    ]}))
    .unwrap();
    let members = [&b"layer"[..], &config, &manifest, &index]
        .iter()
        .fold(Archive::default(), |archive, blob| {
            archive.file(&format!("blobs/sha256/{}", digest(blob)), blob)
        })
        .file("index.json", &top);
    let found = self::members(members).unwrap().describe().unwrap();
    assert_eq!(found.layers, [format!("blobs/sha256/{layer}")]);
    assert_eq!(found.name.unwrap().as_str(), "me/app:2");
}

#[test]
fn an_index_that_leads_to_itself_ends() {
    let index = br#"{"manifests":[{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]}"#;
    let archive = Archive::default()
        .file(&format!("blobs/sha256/{}", "a".repeat(64)), index)
        .file("index.json", index);
    let message = members(archive)
        .unwrap()
        .describe()
        .unwrap_err()
        .to_string();
    assert!(message.contains("without an end"), "{message}");
}

#[test]
fn unusable_archives_are_told_why() {
    let wrong = |archive: Archive| {
        members(archive)
            .unwrap()
            .describe()
            .unwrap_err()
            .to_string()
    };
    let id = digest(b"x");
    let with = |config: &[u8], manifest: &[u8]| {
        wrong(
            Archive::default()
                .file("c", config)
                .file("manifest.json", manifest),
        )
    };
    assert!(wrong(Archive::default().file("x", b"")).contains("neither"));
    assert!(with(b"{", &docker_manifest("c", &[])).contains("\"c\""));
    assert!(with(b"{}", &docker_manifest("gone", &[])).contains("\"gone\""));
    assert!(with(&config(&[&id]), &docker_manifest("c", &[])).contains("0 layers"));
    assert!(with(b"{}", b"[]").contains("0 images"));
    assert!(with(&config(&["../../x"]), &docker_manifest("c", &["l"])).contains("not a sha256"));
    let other = br#"{"architecture":"mips","rootfs":{"diff_ids":[]}}"#;
    assert!(with(other, &docker_manifest("c", &[])).contains("mips"));
}
