//! An agent that runs as an ordinary process, and a blocking client for it.

use std::{
    collections::BTreeMap,
    ffi::CString,
    io::{Read, Write},
    net::Shutdown,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use agent_protocol::{
    Cell, CellEnd, CellStatus, MimeBundle, Reply, Request,
    frame::{FrameKind, HEADER_BYTES, Header, decode_message, encode_message},
};
use rustix::process::{Pid, Signal, kill_process};
use sys::process::Program;

/// How long one answer may take on a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// The Python that has IPython, numpy, pandas and matplotlib.
pub(crate) fn python() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv-test/bin/python3");
    let python = std::env::var_os("SANDBOXAI_TEST_PYTHON").map_or(default, PathBuf::from);
    assert!(
        python.exists(),
        "{} does not exist: run scripts/test.sh, which makes it, or name a Python with ipython, numpy, pandas and matplotlib in SANDBOXAI_TEST_PYTHON",
        python.display()
    );
    python
}

/// A running agent; ended when dropped.
pub(crate) struct Agent {
    pid: Pid,
    directory: tempfile::TempDir,
}

impl Agent {
    /// With the tests' Python in its `PATH`.
    pub(crate) fn start() -> Self {
        let python = python();
        let bin = python.parent().unwrap().display().to_string();
        Self::start_with(&format!("{bin}:/usr/bin:/bin"), &[], |_| {})
    }

    /// With this `PATH` and more arguments, after `prepare` was called with its working directory.
    pub(crate) fn start_with(
        path: &str,
        more: &[(&str, std::os::fd::BorrowedFd<'_>)],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let program = CString::new(env!("CARGO_BIN_EXE_sandboxai-agent")).unwrap();
        let workdir = directory.path().to_str().unwrap().to_owned();
        let mut arguments = ["agent", "--listen-fd", "3", "--workdir", &workdir]
            .map(str::to_owned)
            .to_vec();
        let mut descriptors = vec![(listener.as_fd(), 3)];
        for ((name, file), number) in more.iter().zip(10..) {
            arguments.extend([(*name).to_owned(), number.to_string()]);
            descriptors.push((*file, number));
        }
        let environment = [
            format!("PATH={path}"),
            format!("HOME={workdir}"),
            "LANG=C.UTF-8".to_owned(),
            "MY_TEST_VAR=from-spec".to_owned(),
        ];
        let arguments = arguments.map_c();
        let environment = environment.to_vec().map_c();
        let pid = sys::process::spawn(&Program {
            candidates: &[program.as_c_str()],
            arguments: &arguments.iter().map(CString::as_c_str).collect::<Vec<_>>(),
            environment: &environment
                .iter()
                .map(CString::as_c_str)
                .collect::<Vec<_>>(),
            directory: None,
            descriptors: &descriptors,
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
        Self { pid, directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.directory.path().join("s")).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        Client { stream }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Kernels end when their channel is closed.
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = sys::process::reap(self.pid);
    }
}

trait MapC {
    fn map_c(self) -> Vec<CString>;
}

impl MapC for Vec<String> {
    fn map_c(self) -> Vec<CString> {
        self.into_iter()
            .map(|text| CString::new(text).unwrap())
            .collect()
    }
}

/// A frame from the agent.
#[derive(Debug)]
pub(crate) enum Frame {
    Output(String),
    Error(String),
    Reply(Reply),
}

/// A connection.
pub(crate) struct Client {
    stream: UnixStream,
}

/// All that came of a cell.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// With the length of `stdout` before each.
    pub(crate) displays: Vec<(bool, MimeBundle, usize)>,
    pub(crate) end: Option<Reply>,
}

impl Ran {
    pub(crate) fn ended(&self) -> &CellEnd {
        match &self.end {
            Some(Reply::CellEnded(end)) => end,
            other => panic!("the cell did not end: {other:?}"),
        }
    }

    pub(crate) fn status(&self) -> CellStatus {
        self.ended().status
    }

    pub(crate) fn error(&self) -> &str {
        self.ended().error_value.as_deref().unwrap_or_default()
    }

    pub(crate) fn failure(&self) -> &agent_protocol::Failure {
        match &self.end {
            Some(Reply::Failed(failure)) => failure,
            other => panic!("not a failure: {other:?}"),
        }
    }
}

/// A cell with defaults.
pub(crate) fn cell(code: &str) -> Cell {
    Cell {
        code: code.to_owned(),
        context: "default".to_owned(),
        timeout_ms: None,
        merge_output: false,
        env: BTreeMap::new(),
        ..Cell::default()
    }
}

/// A cell with a timeout in milliseconds.
pub(crate) fn timed(code: &str, timeout_ms: u64) -> Cell {
    Cell {
        timeout_ms: Some(timeout_ms),
        ..cell(code)
    }
}

impl Client {
    pub(crate) fn send(&mut self, request: &Request) {
        self.stream
            .write_all(&encode_message(request).unwrap())
            .unwrap();
    }

    pub(crate) fn receive(&mut self) -> Frame {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).unwrap();
        let header = Header::decode(header).unwrap();
        let mut payload = vec![0; header.payload_bytes];
        self.stream.read_exact(&mut payload).unwrap();
        let text = |payload| String::from_utf8(payload).unwrap();
        match header.kind {
            FrameKind::Message => Frame::Reply(decode_message(&payload).unwrap()),
            FrameKind::Output => Frame::Output(text(payload)),
            FrameKind::Error => Frame::Error(text(payload)),
            kind => panic!("unexpected {kind:?}"),
        }
    }

    /// Sends a cell and waits until `text` is on its standard output.
    pub(crate) fn start(&mut self, cell: Cell, text: &str) {
        self.send(&Request::Cell(cell));
        let mut stdout = String::new();
        while !stdout.contains(text) {
            match self.receive() {
                Frame::Output(bytes) => stdout.push_str(&bytes),
                other => panic!("{other:?} before {text:?}"),
            }
        }
    }

    pub(crate) fn finish(&mut self) -> Ran {
        let mut ran = Ran::default();
        loop {
            match self.receive() {
                Frame::Output(bytes) => ran.stdout.push_str(&bytes),
                Frame::Error(bytes) => ran.stderr.push_str(&bytes),
                Frame::Reply(Reply::Display { data, is_result }) => {
                    ran.displays.push((is_result, data, ran.stdout.len()));
                }
                Frame::Reply(reply) => {
                    ran.end = Some(reply);
                    return ran;
                }
            }
        }
    }

    pub(crate) fn run(&mut self, cell: Cell) -> Ran {
        self.send(&Request::Cell(cell));
        self.finish()
    }

    /// Runs code that must succeed; its standard output.
    pub(crate) fn prints(&mut self, code: &str) -> String {
        let ran = self.run(cell(code));
        assert_eq!(ran.status(), CellStatus::Ok, "{ran:?}");
        ran.stdout
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Reply {
        self.send(request);
        match self.receive() {
            Frame::Reply(reply) => reply,
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(crate) fn close(self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
    }
}
