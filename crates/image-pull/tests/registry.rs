//! Pulls from a real registry on loopback, by way of connections that break off.

#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use image_pull::{Credentials, FetchConfig, HttpFetch};
use sandbox::{Error, Fetch as _, Image, Kind};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// `me` with the password `secret`, as `htpasswd -B` writes it.
const PASSWORDS: &str = "me:$2b$04$doDNt8CtcHQIhv3askITNOfqaF2/RYx1mMYAkb2rCqXFcgRO5SPHC\n";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry that ends with this value.
struct Registry {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    async fn start(with_password: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let passwords = folder.path().join("passwords");
        std::fs::write(&passwords, PASSWORDS).unwrap();
        let auth = match with_password {
            true => format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                passwords.display()
            ),
            false => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n{auth}",
            folder.path().join("data").display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed by scripts/setup.sh --test");
        let registry = Self {
            child,
            address,
            _folder: folder,
        };
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < end, "the registry does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    fn request(&self, method: reqwest::Method, url: &str) -> reqwest::RequestBuilder {
        let url = match url.starts_with("http") {
            true => url.to_owned(),
            false => format!("http://{}{url}", self.address),
        };
        reqwest::Client::new()
            .request(method, url)
            .basic_auth("me", Some("secret"))
    }

    /// Uploads a blob and returns its descriptor.
    async fn blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.request(reqwest::Method::POST, &path).send().await;
        let place = begun.unwrap().headers()["location"]
            .to_str()
            .unwrap()
            .to_owned();
        let digest = digest(bytes);
        let sent = self
            .request(reqwest::Method::PUT, &format!("{place}&digest={digest}"))
            .header("content-type", "application/octet-stream")
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 201);
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    async fn manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        body: &serde_json::Value,
    ) -> serde_json::Value {
        let text = body.to_string();
        let sent = self
            .request(
                reqwest::Method::PUT,
                &format!("/v2/{repository}/manifests/{tag}"),
            )
            .header("content-type", kind)
            .body(text.clone())
            .send()
            .await
            .unwrap();
        let status = sent.status();
        assert_eq!(status, 201, "{}", sent.text().await.unwrap());
        serde_json::json!({"mediaType": kind, "digest": digest(text.as_bytes()), "size": text.len()})
    }

    /// Pushes an image of these layers; returns its manifest's descriptor.
    async fn push(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> serde_json::Value {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let config = self
            .blob(
                repository,
                "application/vnd.oci.image.config.v1+json",
                config.to_string().as_bytes(),
            )
            .await;
        let mut descriptors = Vec::new();
        for layer in layers {
            let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
            descriptors.push(self.blob(repository, kind, layer).await);
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": config, "layers": descriptors,
        });
        self.manifest(repository, tag, MANIFEST, &manifest).await
    }
}

fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{digits}")
}

/// Bytes that no two calls with different seeds have in common.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()[7]
        })
        .collect()
}

fn fetch(config: FetchConfig) -> HttpFetch {
    HttpFetch::new(config).unwrap()
}

async fn pull(fetch: &HttpFetch, image: &str) -> Result<(Vec<u8>, Vec<String>), Error> {
    let image: Image = image.parse().unwrap();
    let (lines, mut archive) = (Mutex::new(Vec::new()), Vec::new());
    let say = |line| lines.lock().unwrap().push(line);
    fetch.image(&image, &mut archive, &say).await?;
    Ok((archive, lines.into_inner().unwrap()))
}

/// Names and contents of an archive.
fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    use std::io::Read as _;
    let mut members = Vec::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.push((name, content));
    }
    members
}

/// Lets connections through to the registry and cuts each after so many bytes
/// of answers, `cuts` times.
async fn breaking(to: SocketAddr, after: usize, cuts: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let left = Arc::new(AtomicUsize::new(cuts));
    let counter = Arc::clone(&left);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let left = Arc::clone(&left);
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                });
                let (mut sent, mut buffer) = (0, vec![0; 4096]);
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    sent += count;
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                    let cut = |left: usize| left.checked_sub(1);
                    if sent > after
                        && left
                            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, cut)
                            .is_ok()
                    {
                        return;
                    }
                }
            });
        }
    });
    (address, counter)
}

#[tokio::test]
async fn an_image_arrives_whole_over_connections_that_break_off() {
    let registry = Registry::start(false).await;
    let layers = [noise(1, 700_000), noise(2, 10)];
    let manifest = registry.push("me/app", "1", &layers).await;
    let (address, left) = breaking(registry.address, 200_000, 3).await;
    let image = format!("{address}/me/app:1");
    let (archive, lines) = pull(&fetch(FetchConfig::default()), &image).await.unwrap();
    assert_eq!(
        left.load(Ordering::SeqCst),
        0,
        "it was cut as often as meant"
    );
    let members = members(&archive);
    assert_eq!(members[0].0, "oci-layout");
    for layer in &layers {
        let name = digest(layer).replace("sha256:", "blobs/sha256/");
        let found = members.iter().find(|(member, _)| *member == name);
        assert!(found.unwrap().1 == *layer, "{name}");
    }
    let (name, index) = members.last().unwrap();
    assert_eq!(name, "index.json");
    let index: serde_json::Value = serde_json::from_slice(index).unwrap();
    assert_eq!(index["manifests"][0]["digest"], manifest["digest"]);
    assert!(
        lines.iter().any(|line| line.contains("layer 2 of 2")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn of_an_index_the_image_of_this_machine_is_taken() {
    let registry = Registry::start(false).await;
    let mut entries = Vec::new();
    for (number, architecture) in ["s390x", "amd64", "arm64"].into_iter().enumerate() {
        let layers = [noise(u8::try_from(number).unwrap(), 100)];
        let mut entry = registry.push("many", architecture, &layers).await;
        entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let index = |entries: &[serde_json::Value]| serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    registry
        .manifest("many", "all", INDEX, &index(&entries))
        .await;
    registry
        .manifest("many", "other", INDEX, &index(&entries[..1]))
        .await;
    let fetch = fetch(FetchConfig::default());
    let (archive, _) = pull(&fetch, &format!("{}/many:all", registry.address))
        .await
        .unwrap();
    let own = match std::env::consts::ARCH {
        "aarch64" => 2,
        _ => 1,
    };
    let wanted = digest(&noise(own, 100)).replace("sha256:", "blobs/sha256/");
    assert!(members(&archive).iter().any(|(name, _)| *name == wanted));
    let error = pull(&fetch, &format!("{}/many:other", registry.address))
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::InvalidRequest);
    assert!(error.message.contains("exists for linux/s390x"), "{error}");
}

#[tokio::test]
async fn errors_say_what_the_registry_wants() {
    let registry = Registry::start(true).await;
    registry.push("private", "1", &[noise(1, 100)]).await;
    let image = format!("{}/private:1", registry.address);
    let without = fetch(FetchConfig::default());
    let error = pull(&without, &image).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated);
    assert!(error.message.contains("images.credentials"), "{error}");
    let with = |password: &str| {
        let credentials = Credentials {
            username: "me".to_owned(),
            password: password.to_owned(),
        };
        fetch(FetchConfig {
            credentials: [(registry.address.to_string(), credentials)].into(),
            ..FetchConfig::default()
        })
    };
    pull(&with("secret"), &image).await.unwrap();
    let error = pull(&with("wrong"), &image).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unauthenticated);
    assert!(!error.message.contains("wrong"), "{error}");
    let missing = format!("{}/private:2", registry.address);
    let error = pull(&with("secret"), &missing).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    drop(registry);
    let error = pull(&without, &image).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("cannot reach registry"), "{error}");
}

#[tokio::test]
async fn other_bytes_than_those_named_are_refused() {
    let registry = Registry::start(false).await;
    registry.push("app", "1", &[noise(1, 100)]).await;
    // The registry's own files are changed behind its back.
    let digits = digest(&noise(1, 100)).replace("sha256:", "");
    let folder = registry._folder.path().join(format!(
        "data/docker/registry/v2/blobs/sha256/{}/{digits}/data",
        &digits[..2]
    ));
    std::fs::write(folder, noise(2, 100)).unwrap();
    let error = pull(
        &fetch(FetchConfig::default()),
        &format!("{}/app:1", registry.address),
    )
    .await
    .unwrap_err();
    assert!(error.message.contains("answers strangely"), "{error}");
}

#[tokio::test]
async fn a_file_arrives_up_to_its_bound() {
    let registry = Registry::start(false).await;
    registry.push("app", "1", &[noise(1, 5000)]).await;
    let url = format!(
        "http://{}/v2/app/blobs/{}",
        registry.address,
        digest(&noise(1, 5000))
    );
    let fetch = fetch(FetchConfig {
        private_addresses: true,
        ..FetchConfig::default()
    });
    let mut content = Vec::new();
    fetch.file(&url, 5000, &mut content).await.unwrap();
    assert_eq!(content, noise(1, 5000));
    let error = fetch.file(&url, 4999, &mut tokio::io::sink()).await;
    assert_eq!(error.unwrap_err().kind, Kind::LimitReached);
    let missing = url.replace(&digest(&noise(1, 5000)), &digest(b"missing"));
    let error = fetch.file(&missing, 10, &mut tokio::io::sink()).await;
    assert_eq!(error.unwrap_err().kind, Kind::NotFound);
}
