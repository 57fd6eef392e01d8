//! Images made by the program: of Dockerfiles, and from a registry.

#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::program::{IMAGE, Server, command, state_dir, told};

const DOCKERFILE: &str = r#"ARG BASE
FROM ${BASE} AS first
WORKDIR /work
COPY . .
RUN echo from-first > made && cat a.txt >> made
FROM ${BASE}
ENV GREETING="good day" PLACE=/out
COPY --from=first --chmod=750 /work/made $PLACE/
COPY <<EOF /etc/note
$GREETING
EOF
ARG WHO=nobody
RUN echo "for ${WHO}" >> /etc/note && /bin/busybox mv /root /home
RUN /bin/busybox test ! -e /root && cat /etc/note
LABEL a=b
CMD ["/bin/sh"]
"#;

fn run(arguments: &[&str]) -> (String, String, i32) {
    told(command(state_dir(), arguments).output().unwrap())
}

fn context(dockerfile: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
    fs::write(folder.path().join("a.txt"), "of the context\n").unwrap();
    fs::write(folder.path().join("ignored"), "secret").unwrap();
    fs::write(folder.path().join(".dockerignore"), "ignored\n").unwrap();
    folder
}

#[test]
fn a_dockerfile_is_built_found_again_and_run() {
    let folder = context(DOCKERFILE);
    let path = folder.path().to_str().unwrap();
    let base = format!("BASE={IMAGE}");
    let build = |who: &str| {
        let who = format!("WHO={who}");
        let arguments = [
            "image",
            "build",
            path,
            "--name",
            "test/built",
            "--build-arg",
            &base,
            "--build-arg",
            &who,
        ];
        let (stdout, stderr, code) = run(&arguments);
        assert_eq!(code, 0, "{stdout}{stderr}");
        stderr
    };
    let me = format!("me{}", std::process::id());
    let first = build(&me);
    assert!(first.contains("good day\nfor me"), "{first}");
    let again = build(&me);
    assert_eq!(again.matches("done before").count(), 7, "{again}");
    let other = build(&format!("you{}", std::process::id()));
    // Nothing changes before the argument.
    assert_eq!(other.matches("done before").count(), 5, "{other}");
    let server = Server::start("built", &["--delete-on-shutdown"]);
    server.ok(&["create", "box", "--image", "test/built"]);
    let said = server.ok(&[
        "exec",
        "box",
        "--",
        "/bin/sh",
        "-c",
        "cat /out/made /etc/note; echo $GREETING; ls /home /work 2>&1; true",
    ]);
    let wanted = "from-first\nof the context\ngood day\nfor you";
    assert!(said.starts_with(wanted), "{said}");
    assert!(
        said.contains("\ngood day\n") && said.contains("/work"),
        "{said}"
    );
    server.ok(&["rm", "box"]);
    server.stop();
    assert_eq!(run(&["image", "rm", "test/built"]).2, 0);
}

#[test]
fn a_build_that_fails_says_where_and_leaves_no_image() {
    let text = format!("FROM {IMAGE}\n\nRUN echo so far && exit 7\n");
    let folder = context(&text);
    let path = folder.path().to_str().unwrap();
    let (_, stderr, code) = run(&["image", "build", path, "--name", "test/fails"]);
    assert_ne!(code, 0);
    assert!(stderr.contains("so far"), "{stderr}");
    let why = "line 3: the command ended with exit code 7";
    assert!(stderr.contains(why), "{stderr}");
    let listed = run(&["image", "ls"]).0;
    assert!(!listed.contains("test/fails"), "{listed}");
    let folder = context("FROM a\nNONSENSE x\n");
    let path = folder.path().to_str().unwrap();
    let (_, stderr, _) = run(&["image", "build", path, "--name", "test/fails"]);
    let why = "line 2: there is no instruction NONSENSE";
    assert!(stderr.contains(why), "{stderr}");
}

/// Debian's registry, on loopback, with its data below a folder.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Registry {
    fn start(folder: &Path) -> (Self, String) {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let file = folder.join("config.yml");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            folder.join("data").display()
        );
        fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed by scripts/setup.sh --test");
        let registry = Self(child);
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < end, "the registry does not listen");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        (registry, address.to_string())
    }
}

fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{digits}")
}

/// Pushes an image of one layer.
async fn push(address: &str, repository: &str, layer: Vec<u8>) {
    let http = reqwest::Client::new();
    let base = format!("http://{address}/v2/{repository}");
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["OF=registry", "PATH=/bin"], "WorkingDir": "/tmp", "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let blob = async |bytes: Vec<u8>| -> Value {
        let (digest, size) = (digest(&bytes), bytes.len());
        let begun = http.post(format!("{base}/blobs/uploads/")).send().await;
        let headers = begun.unwrap().headers().clone();
        let place = headers["location"].to_str().unwrap();
        let sent = http.put(format!("{place}&digest={digest}")).body(bytes);
        assert_eq!(sent.send().await.unwrap().status(), 201);
        json!({"digest": digest, "size": size})
    };
    let mut config = blob(config.to_string().into_bytes()).await;
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let mut layer = blob(layer).await;
    layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
    let sent = http
        .put(format!("{base}/manifests/1"))
        .header("content-type", kind)
        .body(manifest.to_string());
    assert_eq!(sent.send().await.unwrap().status(), 201);
}

#[test]
fn an_image_is_pulled_and_a_sandbox_made_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (registry, address) = Registry::start(folder.path());
    let archive = state_dir().parent().unwrap().join("busybox.tar");
    let layer = fs::read(archive).unwrap();
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(push(&address, "far/box", layer));
    let image = format!("{address}/far/box:1");
    let (stdout, stderr, code) = run(&["image", "pull", &image]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let (_, stderr, code) = run(&["image", "pull", &format!("{address}/far/none:1")]);
    assert_ne!(code, 0);
    assert!(stderr.contains("has no image"), "{stderr}");
    drop(registry);
    let server = Server::start("pulled", &["--delete-on-shutdown"]);
    server.ok(&["create", "box", "--image", &image]);
    let said = server.ok(&["exec", "box", "--", "/bin/sh", "-c", "echo $OF; pwd"]);
    assert_eq!(said, "registry\n/tmp\n");
    server.ok(&["rm", "box"]);
    server.stop();
    assert_eq!(run(&["image", "rm", &image]).2, 0);
}
