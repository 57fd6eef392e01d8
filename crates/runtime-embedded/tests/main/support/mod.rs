//! A server in the test's own process, with folders, image and network namespace
//! of its own, and a count of everything that it could leave behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use runtime_embedded::{
    Config, Embedded, Spawner, SpawnerProgram,
    image::{Silent, Store},
    network::NetworkConfig,
};
use sandbox::{Id, Limits, NetworkMode, Runtime as _, Spec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub(crate) const SPAWNER: &str = env!("CARGO_BIN_EXE_runtime-embedded-test-spawner");
pub(crate) const INIT: &str = env!("CARGO_BIN_EXE_runtime-embedded-test-init");
pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_runtime-embedded-test-server");

/// How long what ends by itself may take.
const SETTLE: Duration = Duration::from_secs(10);

/// Folders of one server; removed at the end.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    /// Folders with the test image in them.
    pub(crate) fn new() -> Self {
        let place = Self {
            folder: tempfile::Builder::new()
                .prefix("sbx")
                .tempdir_in("/tmp")
                .unwrap(),
        };
        place.import("test/box", |_| {});
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Imports an image made of busybox, the C library and what `add` adds.
    pub(crate) fn import(&self, name: &str, add: impl FnOnce(&mut tar::Builder<Vec<u8>>)) {
        let mut archive = tar::Builder::new(Vec::new());
        add(&mut archive);
        for folder in ["bin", "lib", "lib64", "tmp", "root", "lib/x86_64-linux-gnu"] {
            append_folder(&mut archive, folder);
        }
        let libraries = "/lib/x86_64-linux-gnu";
        for (source, target) in [
            ("/bin/busybox".to_owned(), "bin/busybox".to_owned()),
            (
                "/lib64/ld-linux-x86-64.so.2".to_owned(),
                "lib64/ld-linux-x86-64.so.2".to_owned(),
            ),
            (
                format!("{libraries}/libc.so.6"),
                "lib/x86_64-linux-gnu/libc.so.6".to_owned(),
            ),
            (
                format!("{libraries}/libgcc_s.so.1"),
                "lib/x86_64-linux-gnu/libgcc_s.so.1".to_owned(),
            ),
        ] {
            let content = fs::read(fs::canonicalize(source).unwrap()).unwrap();
            let mut header = header();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            archive
                .append_data(&mut header, target, &content[..])
                .unwrap();
        }
        append_link(&mut archive, "bin/sh", "busybox");
        // Left by the image; must not be seen, because /tmp is made fresh.
        append_folder(&mut archive, "tmp/old");
        let bytes = archive.into_inner().unwrap();
        Store::open(&self.state())
            .unwrap()
            .import(&mut bytes.as_slice(), Some(&name.parse().unwrap()), &Silent)
            .unwrap();
    }

    pub(crate) fn config(&self, ephemeral: bool) -> Config {
        Config {
            state_dir: self.state(),
            run_dir: self.path().join("run"),
            scope: "test".into(),
            ephemeral,
            json_log: false,
            server_uid: 0,
            server_gid: 0,
            network: NetworkConfig {
                lock_dir: self.path().join("host"),
                ..NetworkConfig::default()
            },
            ca_certificates: None,
            agent: Vec::leak(fs::read(INIT).unwrap()),
            // Firewall and links of tests stay away from those of the host.
            spawner: SpawnerProgram {
                program: "unshare".into(),
                args: vec!["--net".into(), "--".into(), SPAWNER.into()],
            },
        }
    }

    pub(crate) async fn start(&self) -> Embedded {
        self.start_with(self.config(false)).await
    }

    pub(crate) async fn start_with(&self, config: Config) -> Embedded {
        let spawner = Spawner::launch(&config).unwrap();
        Embedded::start(config, spawner).await.unwrap()
    }

    /// The control groups of this place's sandboxes.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let host = self.path().join("host");
        let digest = sha2_of(host.to_str().unwrap());
        let name = format!("sandboxai-{digest}");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .map(|line| Path::new(line.split(' ').nth(4).unwrap()).join(&name))
            .filter(|path| path.exists())
            .collect()
    }

    /// Everything that belongs to sandboxes of this place, as lines.
    pub(crate) fn remains(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for group in self.cgroups() {
            for entry in fs::read_dir(&group).unwrap().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.insert(format!("control group {}", entry.path().display()));
                }
            }
        }
        for folder in ["state/sandboxes", "state/trash", "run/agents", "host/slots"] {
            for entry in fs::read_dir(self.path().join(folder))
                .into_iter()
                .flatten()
                .flatten()
            {
                if entry.file_name() != "lock" {
                    found.insert(format!("file {}", entry.path().display()));
                }
            }
        }
        for process in processes() {
            if let Ok(table) = fs::read_to_string(format!("/proc/{process}/mountinfo"))
                && table.contains(self.path().to_str().unwrap())
            {
                found.insert(format!("mount in process {process}"));
            }
            let inside =
                fs::read_to_string(format!("/proc/{process}/cgroup")).is_ok_and(|groups| {
                    groups.contains(&sha2_of(self.path().join("host").to_str().unwrap()))
                });
            if inside {
                found.insert(format!("process {process}"));
            }
        }
        found
    }

    /// Waits until nothing is left, and fails with what is.
    pub(crate) fn assert_nothing_left(&self) {
        self.assert_nothing_left_after(SETTLE);
    }

    pub(crate) fn assert_nothing_left_after(&self, patience: Duration) {
        let end = Instant::now() + patience;
        loop {
            let remains = self.remains();
            if remains.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left behind: {remains:#?}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for group in self.cgroups() {
            // Empty by now, or the test has failed and shows what is in it.
            let _ = fs::remove_dir(group);
        }
    }
}

fn sha2_of(text: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(text.as_bytes());
    digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// All processes of the host.
pub(crate) fn processes() -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn header() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

pub(crate) fn append_folder(archive: &mut tar::Builder<Vec<u8>>, path: &str) {
    let mut header = header();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o755);
    archive.append_data(&mut header, path, io::empty()).unwrap();
}

pub(crate) fn append_link(archive: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = header();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    archive.append_link(&mut header, path, target).unwrap();
}

pub(crate) fn spec() -> Spec {
    Spec {
        image: "test/box".parse().unwrap(),
        env: BTreeMap::from([("GREETING".to_owned(), "hello world".to_owned())]),
        limits: Limits {
            memory_bytes: 64 << 20,
            cpu_millis: 1000,
            pids: 32,
        },
        network: NetworkMode::None,
        lease: Default::default(),
        runtime_class: None,
    }
}

/// Runs a script in the sandbox and returns what it printed.
pub(crate) async fn shell(embedded: &Embedded, id: &Id, script: &str) -> String {
    let mut stream = embedded.connect(id).await.unwrap();
    stream.write_all(script.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut output))
        .await
        .expect("the script must end")
        .unwrap();
    String::from_utf8_lossy(&output).into_owned()
}

/// Kills a process that this test has started.
pub(crate) fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.unwrap().success());
}
