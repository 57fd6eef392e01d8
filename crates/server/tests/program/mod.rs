//! The real program, started on a state folder of its own.

#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_sandboxai");
/// A static program that is a shell and all usual tools.
const BUSYBOX: &str = "/bin/busybox";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// The image of the tests.
pub(crate) const IMAGE: &str = "test/busybox";

/// A state folder with the test image, shared by all tests.
pub(crate) fn state_dir() -> &'static Path {
    static STATE: OnceLock<PathBuf> = OnceLock::new();
    STATE.get_or_init(|| {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make sandboxes: run them as root"
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state");
        fs::create_dir_all(&folder).unwrap();
        // Each test may run in a process of its own.
        let lock = fs::File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        let archive = folder.join("busybox.tar");
        root_file_system(&folder.join("rootfs"), &archive);
        let state = folder.join("state");
        let imported = command(&state, &["image", "import", "--name", IMAGE])
            .arg(&archive)
            .output()
            .unwrap();
        assert!(imported.status.success(), "{}", text(&imported.stderr));
        state
    })
}

/// A root file system of one static program under many names, as an archive.
fn root_file_system(folder: &Path, archive: &Path) {
    assert!(
        Path::new(BUSYBOX).exists(),
        "the tests need {BUSYBOX}: apt-get install busybox-static"
    );
    for below in ["bin", "etc", "root", "tmp", "usr"] {
        fs::create_dir_all(folder.join(below)).unwrap();
    }
    fs::copy(BUSYBOX, folder.join("bin/busybox")).unwrap();
    for name in [
        "sh",
        "cat",
        "echo",
        "ls",
        "sleep",
        "id",
        "kill",
        "head",
        "wc",
        "sha256sum",
        "mkdir",
        "env",
        "pwd",
        "nohup",
    ] {
        let link = folder.join("bin").join(name);
        if link.symlink_metadata().is_err() {
            symlink("busybox", link).unwrap();
        }
    }
    fs::write(folder.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    let status = Command::new("tar")
        .args(["--create", "--file"])
        .arg(archive)
        .args(["--owner=0", "--group=0", "--directory"])
        .arg(folder)
        .arg(".")
        .status()
        .unwrap();
    assert!(status.success());
}

/// The program with its state in `state` and nothing of this machine's settings.
pub(crate) fn command(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("SANDBOXAI_CONFIG", "/dev/null")
        .env("SANDBOXAI_STATE_DIR", state)
        .env("SANDBOXAI_SANDBOX_IMAGE", IMAGE)
        .env("SANDBOXAI_SANDBOX_NETWORK", "none")
        .env("SANDBOXAI_SANDBOX_MEMORY", "256MiB")
        .stdin(Stdio::null());
    command
}

/// A scope that no other run of the tests has.
pub(crate) fn unique(scope: &str) -> String {
    format!("{scope}-{}", std::process::id())
}

/// A running server.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) stdout: Option<BufReader<ChildStdout>>,
    pub(crate) port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts one on a free port.
    pub(crate) fn start(scope: &str, more: &[&str]) -> Self {
        let scope = &unique(scope);
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{scope}.log"));
        let errors = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut child = command(state_dir(), &["serve", "--port", "0", "--scope", scope])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let log_text = fs::read_to_string(&log).unwrap();
        let address: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("said {line:?}\n{log_text}"));
        assert_eq!(address["host"], "127.0.0.1");
        let port = address["port"]
            .as_u64()
            .and_then(|port| port.try_into().ok())
            .unwrap();
        // Exactly this form: others parse it with less than a JSON parser.
        assert_eq!(
            line,
            format!("{{\"host\":\"127.0.0.1\",\"port\":{port}}}\n")
        );
        Self {
            child,
            stdout: Some(stdout),
            port,
            log,
        }
    }

    /// A client command against it.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = command(state_dir(), arguments);
        command.env("SANDBOXAI_URL", format!("http://127.0.0.1:{}", self.port));
        command
    }

    /// Runs a client command; its output and exit code.
    pub(crate) fn run(&self, arguments: &[&str]) -> (String, String, i32) {
        told(self.client(arguments).output().unwrap())
    }

    /// Runs a client command that must succeed; its output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let (stdout, stderr, code) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
        stdout
    }

    /// The id of a sandbox.
    pub(crate) fn uid(&self, name: &str) -> String {
        let listed: Value = serde_json::from_str(&self.ok(&["ls", "--json"])).unwrap();
        let sandboxes = listed.as_array().unwrap();
        let found = sandboxes.iter().find(|sandbox| sandbox["name"] == name);
        found.unwrap()["uid"].as_str().unwrap().to_owned()
    }

    /// Runs a client command with `input`.
    pub(crate) fn with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .client(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writing = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap().unwrap();
        output
    }

    /// Sends one raw request and returns everything that is answered.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// SIGTERM, and the end that must follow.
    pub(crate) fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert!(
            self.wait(),
            "the server ended with a failure: {}",
            self.log()
        );
        self.check_log();
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.check_log();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end; whether it was a success.
    pub(crate) fn wait(&mut self) -> bool {
        let mut ended = None;
        eventually("the server ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.is_some_and(|status| status.success())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Nothing that these tests do is worth a warning.
    pub(crate) fn check_log(&self) {
        let log = self.log();
        let bad: Vec<_> = log
            .lines()
            .filter(|line| {
                [" WARN ", " ERROR ", "panicked"]
                    .iter()
                    .any(|word| line.contains(word))
            })
            .collect();
        assert!(bad.is_empty(), "unexpected in the server's log: {bad:#?}");
        drop(fs::remove_file(&self.log));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves its server; one that passed has stopped it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Output and exit code as texts and a number.
pub(crate) fn told(output: Output) -> (String, String, i32) {
    (
        text(&output.stdout),
        text(&output.stderr),
        output.status.code().unwrap_or(-1),
    )
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something is true, and fails when it never is.
#[expect(
    clippy::disallowed_methods,
    reason = "what is waited for is in other processes and tells nobody"
)]
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where the files of a sandbox are.
pub(crate) fn sandbox_folder(uid: &str) -> PathBuf {
    state_dir().join("sandboxes").join(uid)
}
