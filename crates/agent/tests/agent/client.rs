//! The agent as an ordinary process, and a small blocking client for it.

use std::{
    ffi::{CStr, CString},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_protocol::{
    Command, Exec, Exit, Failure, Reply, Request,
    frame::{FrameKind, HEADER_BYTES, Header, decode_message, encode_message},
};
use rustix::process::{Pid, Signal, kill_process};
use sys::process::{Program, reap, spawn};

/// No answer takes longer, or the test fails.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A running agent; ended with all it started when dropped.
pub(crate) struct Agent {
    pub(crate) pid: Pid,
    pub(crate) folder: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// With more arguments, whose descriptors are numbered from 4.
    pub(crate) fn start_with(arguments: &[&CStr], descriptors: &[BorrowedFd<'_>]) -> Self {
        Self::launch(&[], arguments, descriptors)
    }

    /// As the first process of a namespace of its own, as in a sandbox; `pid` is
    /// then the process that waits for it. Needs root.
    pub(crate) fn start_first(arguments: &[&CStr], descriptors: &[BorrowedFd<'_>]) -> Self {
        let launcher = [
            c"/usr/bin/unshare",
            c"--pid",
            c"--fork",
            c"--kill-child",
            c"--mount-proc",
        ];
        Self::launch(&launcher, arguments, descriptors)
    }

    fn launch(launcher: &[&CStr], arguments: &[&CStr], descriptors: &[BorrowedFd<'_>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let workdir = folder.path().join("work");
        std::fs::create_dir(&workdir).unwrap();
        let workdir = CString::new(workdir.to_str().unwrap()).unwrap();
        let program = CString::new(env!("CARGO_BIN_EXE_sandboxai-agent")).unwrap();
        let mut all = launcher.to_vec();
        all.extend([&*program, c"--listen-fd", c"3", c"--workdir", &*workdir]);
        all.extend(arguments);
        let mut passed = vec![(listener.as_fd(), 3)];
        passed.extend(descriptors.iter().copied().zip(4..));
        let path = CString::new(format!("PATH={}", env!("PATH"))).unwrap();
        let pid = spawn(&Program {
            candidates: &all[..1],
            arguments: &all,
            environment: &[&path, c"FROM_IMAGE=image"],
            directory: Some(c"/"),
            descriptors: &passed,
            cgroups: &[],
            oom_score_adj: None,
            open_files: None,
            new_session: true,
            sibling: false,
            user: None,
            terminal: false,
            announce: None,
        })
        .unwrap();
        Self { pid, folder }
    }

    pub(crate) fn workdir(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.folder.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        Client { stream }
    }

    /// Runs a shell command and asserts nothing.
    pub(crate) fn shell(&self, line: &str) -> Ran {
        self.connect().run(&shell(line)).unwrap()
    }

    /// Process ids of the children of the agent, zombies included.
    pub(crate) fn children(&self) -> Vec<i32> {
        let parent = self.pid.as_raw_nonzero().to_string();
        let is_child = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(") ").next().unwrap_or_default();
            fields.split(' ').nth(1) == Some(&parent)
        };
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_child).collect()
    }

    /// Processor time that it has used.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// A number from `/proc/PID/status`, e.g. `VmRSS` in KiB.
    pub(crate) fn status(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // What it started has no other parent: ended first, children before parents' end is seen.
        for child in self.children() {
            if let Some(child) = Pid::from_raw(child) {
                let _ = rustix::process::kill_process_group(child, Signal::KILL);
            }
        }
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = reap(self.pid);
    }
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
}

/// What a command did.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Exit,
}

impl Ran {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

/// A frame from the agent.
#[derive(Debug)]
pub(crate) enum Frame {
    Output(Vec<u8>),
    Error(Vec<u8>),
    Reply(Reply),
}

pub(crate) fn shell(line: &str) -> Exec {
    Exec {
        command: Command::Shell(line.to_owned()),
        env: Default::default(),
        cwd: None,
        timeout_ms: None,
        merge_output: false,
        stdin: false,
        ..Exec::default()
    }
}

pub(crate) fn argv(words: &[&str]) -> Exec {
    Exec {
        command: Command::Argv(words.iter().map(|word| (*word).to_owned()).collect()),
        ..shell("")
    }
}

impl Client {
    pub(crate) fn send(&mut self, request: &Request) {
        let bytes = encode_message(request).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    pub(crate) fn send_frame(&mut self, kind: FrameKind, payload: &[u8]) -> io::Result<()> {
        self.stream
            .write_all(&Header::encode(kind, payload.len()))?;
        self.stream.write_all(payload)
    }

    pub(crate) fn send_input(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(256 << 10) {
            self.send_frame(FrameKind::Input, chunk).unwrap();
        }
        self.send_frame(FrameKind::InputEnd, b"").unwrap();
    }

    pub(crate) fn try_receive(&mut self) -> io::Result<Frame> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let header = Header::decode(header).unwrap();
        let mut payload = vec![0; header.payload_bytes];
        self.stream.read_exact(&mut payload)?;
        Ok(match header.kind {
            FrameKind::Output => Frame::Output(payload),
            FrameKind::Error => Frame::Error(payload),
            FrameKind::Message => Frame::Reply(decode_message(&payload).unwrap()),
            kind => panic!("unexpected {kind:?}"),
        })
    }

    pub(crate) fn receive(&mut self) -> Frame {
        self.try_receive().unwrap()
    }

    /// All frames until the final reply.
    pub(crate) fn receive_all(&mut self) -> (Vec<u8>, Vec<u8>, Vec<Reply>) {
        let (mut stdout, mut stderr, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            match self.receive() {
                Frame::Output(bytes) => stdout.extend(bytes),
                Frame::Error(bytes) => stderr.extend(bytes),
                Frame::Reply(reply) => {
                    let is_final = reply.is_final();
                    replies.push(reply);
                    if is_final {
                        return (stdout, stderr, replies);
                    }
                }
            }
        }
    }

    /// Sends a request without data and returns its final reply.
    pub(crate) fn ask(&mut self, request: &Request) -> Reply {
        self.send(request);
        self.receive_all().2.pop().unwrap()
    }

    pub(crate) fn ask_failing(&mut self, request: &Request) -> Failure {
        match self.ask(request) {
            Reply::Failed(failure) => failure,
            other => panic!("{request:?} gave {other:?}"),
        }
    }

    pub(crate) fn run(&mut self, exec: &Exec) -> Result<Ran, Failure> {
        self.send(&Request::Exec(exec.clone()));
        self.finish_run()
    }

    pub(crate) fn finish_run(&mut self) -> Result<Ran, Failure> {
        let (stdout, stderr, mut replies) = self.receive_all();
        match replies.pop().unwrap() {
            Reply::Exited(exit) => Ok(Ran {
                stdout,
                stderr,
                exit,
            }),
            Reply::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until a condition holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        let (_, receiver) = std::sync::mpsc::channel::<()>();
        let _ = receiver.recv_timeout(Duration::from_millis(5));
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_running(pid: &str) -> bool {
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    std::fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z "))
}
