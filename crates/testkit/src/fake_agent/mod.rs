//! An agent in memory that speaks the real protocol over any byte stream.
//!
//! Commands are a toy shell ([`shell`]), cells a toy Python ([`cells`]), files
//! live in a map ([`files`]), and ports lead to what a test lets listen there
//! ([`ports`]). All state belongs to the agent, none to a
//! connection, as with the real one.

mod cells;
mod files;
mod ports;
mod processes;
mod search;
mod sessions;
mod shell;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use agent_protocol::{
    Failure, FailureKind, Reply, Request, VERSION,
    frame::{self, FrameKind, HEADER_BYTES, Header},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot, watch},
};

/// The working directory and the home that the agent tells.
const WORKDIR: &str = "/work";
const HOME: &str = "/root";

/// The size of the file system that the agent tells, and its use.
const DISK_BYTES: (u64, u64) = (10 << 30, 1 << 30);

/// Frames read ahead of their use.
const FRAMES_AHEAD: usize = 8;

/// What the agent does instead of answering properly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Nothing: it answers properly.
    #[default]
    None,
    /// Reads and never answers.
    Silent,
    /// Closes the connection instead of answering.
    HangUp,
    /// Answers with a frame of an unknown kind.
    UnknownFrame,
    /// Announces a frame over the limit.
    HugeFrame,
    /// Answers with a message that is not one.
    NotJson,
    /// Answers with a message that does not fit the request.
    WrongReply,
    /// Says more after its final message.
    TalksOn,
    /// Answers with a message that is small as text and huge in memory.
    JsonBomb,
    /// Sends entries of a listing without end.
    EndlessListing,
    /// Sends matches of a search without end.
    EndlessMatches,
}

/// An agent; all clones are the same.
#[derive(Clone, Debug)]
pub struct FakeAgent {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// What makes every connection wait or end.
    life: watch::Sender<Life>,
    requests: AtomicU64,
    connections: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Awake,
    Frozen,
    Dead,
}

#[derive(Debug, Default)]
struct State {
    misbehaviour: Misbehaviour,
    files: files::Files,
    contexts: cells::Contexts,
    processes: processes::Processes,
    sessions: sessions::Sessions,
    kernels: sessions::Kernels,
    ports: ports::Ports,
    env: BTreeMap<String, String>,
}

impl FakeAgent {
    /// An agent of a sandbox with this environment.
    #[must_use]
    pub fn new(env: BTreeMap<String, String>) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    env,
                    ..State::default()
                }),
                life: watch::Sender::new(Life::Awake),
                requests: AtomicU64::new(0),
                connections: AtomicU64::new(0),
            }),
        }
    }

    /// The agent of a sandbox that is started again: with the files of the one
    /// before, and nothing else of it.
    pub(crate) fn with_files_of(before: Option<&Self>, env: BTreeMap<String, String>) -> Self {
        let agent = Self::new(env);
        if let Some(before) = before {
            agent.state().files = before.state().files.clone();
        }
        agent
    }

    /// What it does instead of answering properly, from the next request on.
    pub fn misbehave(&self, how: Misbehaviour) {
        self.state().misbehaviour = how;
    }

    /// How many requests it has read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Content of a file, if there is one.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        self.state().files.content(path)
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        if silent {
            self.misbehave(Misbehaviour::Silent);
        }
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.shared.life.send_if_modified(|life| {
            let changes = *life != Life::Dead;
            if changes {
                *life = if frozen { Life::Frozen } else { Life::Awake };
            }
            changes
        });
    }

    pub(crate) fn kill(&self) {
        self.shared.life.send_replace(Life::Dead);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection until either side closes it or the agent is killed.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + 'static) {
        let mut life = self.shared.life.subscribe();
        let _counted = Counted::new(&self.shared.connections);
        let (reader, writer) = tokio::io::split(stream);
        let (sender, frames) = mpsc::channel(FRAMES_AHEAD);
        let (hand_over, raw) = oneshot::channel();
        let mut connection = Connection {
            agent: self.clone(),
            frames,
            raw: Some(raw),
            writer,
        };
        tokio::select! {
            _ = life.wait_for(|life| *life == Life::Dead) => {}
            () = read_frames(reader, sender, hand_over) => {}
            _closed = connection.converse() => {}
        }
    }

    /// Waits while the sandbox is frozen.
    async fn awake(&self) {
        let mut life = self.shared.life.subscribe();
        let _alive = life.wait_for(|life| *life != Life::Frozen).await;
    }
}

/// Counts something while it exists.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A frame from the server.
type Frame = (FrameKind, Vec<u8>);

/// Why a conversation cannot go on: the other side is gone.
struct Closed;

/// Reads frames until the other side closes or sends what is not a frame. After
/// a request for a port the reader is handed over: raw bytes follow.
async fn read_frames<R: AsyncRead>(
    mut reader: ReadHalf<R>,
    frames: mpsc::Sender<Frame>,
    hand_over: oneshot::Sender<ReadHalf<R>>,
) {
    loop {
        let mut header = [0; HEADER_BYTES];
        if reader.read_exact(&mut header).await.is_err() {
            return;
        }
        let Ok(header) = Header::decode(header) else {
            return;
        };
        let mut payload = vec![0; header.payload_bytes];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        let request = frame::decode_message::<Request>(&payload);
        let is_last =
            header.kind == FrameKind::Message && matches!(request, Ok(Request::ConnectPort { .. }));
        if frames.send((header.kind, payload)).await.is_err() {
            return;
        }
        if is_last {
            drop(hand_over.send(reader));
            return std::future::pending().await;
        }
    }
}

struct Connection<W> {
    agent: FakeAgent,
    frames: mpsc::Receiver<Frame>,
    /// Gets the reader when frames are over.
    raw: Option<oneshot::Receiver<ReadHalf<W>>>,
    writer: WriteHalf<W>,
}

impl<W: AsyncRead + AsyncWrite> Connection<W> {
    /// One request after the other.
    async fn converse(&mut self) -> Result<(), Closed> {
        loop {
            let (kind, payload) = self.frames.recv().await.ok_or(Closed)?;
            self.agent.awake().await;
            let request = match (kind, frame::decode_message::<Request>(&payload)) {
                (FrameKind::Message, Ok(request)) => request,
                (kind, message) => {
                    let text = format!("expected a request, got {kind:?}: {message:?}");
                    self.fail(FailureKind::InvalidRequest, text).await?;
                    return Err(Closed);
                }
            };
            self.agent.shared.requests.fetch_add(1, Ordering::Relaxed);
            let how = self.agent.state().misbehaviour;
            if how == Misbehaviour::None {
                self.answer(request).await?;
            } else {
                self.misbehave(how).await?;
            }
        }
    }

    async fn answer(&mut self, request: Request) -> Result<(), Closed> {
        match request {
            Request::Ping => self.reply(&pong()).await,
            Request::Exec(exec) => self.exec(exec).await,
            Request::Start(exec) => self.start(exec).await,
            Request::Processes => self.processes().await,
            Request::Output {
                process,
                follow,
                skip_kept,
            } => self.output(process, follow, skip_kept).await,
            Request::ResizeTty { process, size } => self.resize(process, size).await,
            Request::OpenSession { session, cwd, env } => {
                self.open_session(session, cwd, env).await
            }
            Request::RunInSession { session, command } => {
                self.run_in_session(&session, command).await
            }
            Request::Sessions => self.list_sessions().await,
            Request::CloseSession { session } => self.close_session(&session).await,
            Request::ConnectPort { port } => self.connect_port(port).await,
            Request::SetEnvironment { set, unset } => {
                {
                    let env = &mut self.agent.state().env;
                    env.retain(|name, _| !unset.contains(name));
                    env.extend(set);
                }
                self.reply(&Reply::Done { truncated: false }).await
            }
            Request::Disk => {
                let (total_bytes, used_bytes) = DISK_BYTES;
                let disk = Reply::Disk {
                    total_bytes,
                    used_bytes,
                };
                self.reply(&disk).await
            }
            Request::StartKernel { context, cwd } => self.start_kernel(context, cwd).await,
            Request::EndKernel { context } => self.end_kernel(&context).await,
            Request::Kernels => self.list_kernels().await,
            Request::Input { process, close } => self.input(process, close).await,
            Request::Signal { process, signal } => self.signal(process, signal).await,
            Request::Cell(cell) => self.cell(cell).await,
            Request::InterruptKernel { .. } => self.reply(&Reply::Done { truncated: false }).await,
            Request::RestartKernel { context } => {
                self.agent.state().contexts.forget(&context);
                self.reply(&Reply::Done { truncated: false }).await
            }
            Request::File(request) => self.file(request).await,
        }
    }
}

impl<W: AsyncWrite> Connection<W> {
    async fn misbehave(&mut self, how: Misbehaviour) -> Result<(), Closed> {
        match how {
            Misbehaviour::None => Ok(()),
            Misbehaviour::Silent => std::future::pending().await,
            Misbehaviour::HangUp => Err(Closed),
            Misbehaviour::UnknownFrame => self.write(&[0, 0, 0, 0, 99]).await,
            Misbehaviour::HugeFrame => self.write(&[255, 255, 255, 255, 1]).await,
            Misbehaviour::NotJson => self.send(FrameKind::Message, b"{\"reply\":").await,
            Misbehaviour::WrongReply => {
                self.reply(&Reply::Processes { processes: vec![] }).await?;
                self.reply(&pong()).await
            }
            Misbehaviour::TalksOn => {
                self.reply(&pong()).await?;
                self.send(FrameKind::Output, b"and one more thing").await
            }
            Misbehaviour::JsonBomb => {
                let mut bomb = br#"{"reply":"display","data":{"a":["#.to_vec();
                bomb.extend(br#"{"":0},"#.repeat(1_000_000));
                bomb.extend(br#"0]}}"#);
                self.send(FrameKind::Message, &bomb).await
            }
            Misbehaviour::EndlessListing => loop {
                let entries = (0..200).map(|n| files::entry(&format!("/{n}"), 0, 0o644));
                let entries = entries.collect();
                self.reply(&Reply::Entries { entries }).await?;
            },
            Misbehaviour::EndlessMatches => loop {
                let matches = vec![search::found("/a", 1, "text"); 200];
                self.reply(&Reply::Matches { matches }).await?;
            },
        }
    }

    async fn reply(&mut self, reply: &Reply) -> Result<(), Closed> {
        let frame = frame::encode_message(reply).map_err(|_| Closed)?;
        self.agent.awake().await;
        self.write(&frame).await
    }

    async fn fail(&mut self, kind: FailureKind, message: impl Into<String>) -> Result<(), Closed> {
        let message = message.into();
        self.reply(&Reply::Failed(Failure { kind, message })).await
    }

    async fn send(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), Closed> {
        self.agent.awake().await;
        self.write(&Header::encode(kind, payload.len())).await?;
        self.write(payload).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        self.writer.write_all(bytes).await.map_err(|_| Closed)?;
        self.writer.flush().await.map_err(|_| Closed)
    }
}

fn pong() -> Reply {
    Reply::Pong {
        version: VERSION,
        workdir: WORKDIR.to_owned(),
        home: HOME.to_owned(),
    }
}

/// The time of a request's timeout, or never.
async fn time_over(timeout_ms: Option<u64>) {
    match timeout_ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}
