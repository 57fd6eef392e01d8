//! Commands, cells and processes.

use std::time::Duration;

use agent_protocol::{Cell, Exec, ProcessInfo, Reply, Request};
use bytes::Bytes;
use sandbox::Result;

use super::{
    ANSWER_TIME_MAX, AgentError, STALL_TIME_MAX, Session,
    conversation::{Incoming, Input},
};
use crate::{Piece, PieceStream};

/// How long after its timeout a command may still be silent: it has to be killed.
const EXEC_GRACE: Duration = Duration::from_secs(10);
/// How long after its timeout a cell may still be silent: its kernel may have to
/// be started before and killed after it.
const CELL_GRACE: Duration = Duration::from_secs(60);

/// What a stream of pieces may consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Command,
    Cell,
    Output,
}

impl Session {
    /// Runs a command.
    ///
    /// # Errors
    /// `InvalidRequest` when it is too large to be sent.
    pub(crate) fn exec(
        mut self,
        mut exec: Exec,
        stdin: Option<PieceStream<Bytes>>,
    ) -> Result<PieceStream<Piece>> {
        exec.stdin = stdin.is_some();
        let silence_max = timeout(exec.timeout_ms, EXEC_GRACE);
        let input = stdin.map_or_else(Input::none, Input::from);
        self.ask(&Request::Exec(exec), input)?;
        Ok(self.pieces(Shape::Command, silence_max))
    }

    /// Runs a cell.
    ///
    /// # Errors
    /// `InvalidRequest` when it is too large to be sent.
    pub(crate) fn cell(mut self, cell: Cell) -> Result<PieceStream<Piece>> {
        let silence_max = timeout(cell.timeout_ms, CELL_GRACE);
        self.ask(&Request::Cell(cell), Input::none())?;
        Ok(self.pieces(Shape::Cell, silence_max))
    }

    /// Reads the output of a background process.
    ///
    /// # Errors
    /// None but a fault of ours: the request is small.
    pub(crate) fn output(
        mut self,
        process: u64,
        follow: bool,
        skip_kept: bool,
    ) -> Result<PieceStream<Piece>> {
        let request = Request::Output {
            process,
            follow,
            skip_kept,
        };
        self.ask(&request, Input::none())?;
        Ok(self.pieces(Shape::Output, (!follow).then_some(STALL_TIME_MAX)))
    }

    /// Starts a background process.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn start(mut self, exec: Exec) -> Result<ProcessInfo> {
        match self.answer(&Request::Start(exec)).await? {
            Reply::Started(process) => Ok(process),
            _ => Err(self.wrong("a start was not answered by a process").await),
        }
    }

    /// All background processes.
    ///
    /// # Errors
    /// `SandboxLost`.
    pub(crate) async fn processes(mut self) -> Result<Vec<ProcessInfo>> {
        match self.answer(&Request::Processes).await? {
            Reply::Processes { processes } => Ok(processes),
            _ => Err(self.wrong("the answer is no list of processes").await),
        }
    }

    /// Sends input to a background process.
    ///
    /// # Errors
    /// As the agent says, the error of the input, or `SandboxLost`.
    pub(crate) async fn input(
        mut self,
        process: u64,
        input: PieceStream<Bytes>,
        close: bool,
    ) -> Result<()> {
        self.ask(&Request::Input { process, close }, Input::from(input))?;
        let reply = self.reply(STALL_TIME_MAX).await?;
        self.done(&reply).await
    }

    /// A request that is answered by nothing but success.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn command(mut self, request: &Request) -> Result<()> {
        let reply = self.answer(request).await?;
        self.done(&reply).await
    }

    /// Starts the kernel of a context, which takes longer than other answers.
    ///
    /// # Errors
    /// As the agent says, or `SandboxLost`.
    pub(crate) async fn start_kernel(mut self, request: &Request) -> Result<()> {
        self.ask(request, Input::none())?;
        let reply = self.reply(CELL_GRACE).await?;
        self.done(&reply).await
    }

    async fn done(&mut self, reply: &Reply) -> Result<()> {
        match reply {
            Reply::Done { .. } => Ok(()),
            _ => Err(self.wrong("the answer is not that it is done").await),
        }
    }

    /// The one answer to a small request.
    pub(super) async fn answer(&mut self, request: &Request) -> Result<Reply> {
        self.ask(request, Input::none())?;
        self.reply(ANSWER_TIME_MAX).await
    }

    /// The one final reply to what was asked.
    pub(super) async fn reply(&mut self, silence_max: Duration) -> Result<Reply> {
        match self.next(Some(silence_max)).await? {
            Incoming::Reply(reply) if reply.is_final() => {
                self.finish();
                Ok(reply)
            }
            _ => Err(self.wrong("something came before the answer").await),
        }
    }

    pub(super) async fn wrong(&mut self, what: &'static str) -> sandbox::Error {
        self.fail(AgentError::Unexpected(what)).await
    }

    fn pieces(self, shape: Shape, silence_max: Option<Duration>) -> PieceStream<Piece> {
        let unfold = futures_util::stream::unfold(Some(self), move |session| async move {
            let mut session = session?;
            let piece = session.piece(shape, silence_max).await;
            let goes_on = matches!(
                piece,
                Ok(Piece::Stdout(_) | Piece::Stderr(_) | Piece::Display { .. })
            );
            Some((piece, goes_on.then_some(session)))
        });
        Box::pin(unfold)
    }

    async fn piece(&mut self, shape: Shape, silence_max: Option<Duration>) -> Result<Piece> {
        let reply = match self.next(silence_max).await? {
            Incoming::Output(bytes) => return Ok(Piece::Stdout(bytes)),
            Incoming::Error(bytes) => return Ok(Piece::Stderr(bytes)),
            Incoming::Reply(reply) => reply,
        };
        let piece = match (shape, reply) {
            (Shape::Cell, Reply::Display { data, is_result }) => {
                return Ok(Piece::Display { data, is_result });
            }
            (Shape::Command | Shape::Output, Reply::Exited(exit)) => Piece::Exited(exit),
            (Shape::Output, Reply::Done { .. }) => Piece::Done,
            (Shape::Cell, Reply::CellEnded(end)) => Piece::CellEnded(end),
            _ => return Err(self.wrong("the answer does not fit the request").await),
        };
        self.finish();
        Ok(piece)
    }
}

/// How long something with a timeout may be silent.
fn timeout(timeout_ms: Option<u64>, grace: Duration) -> Option<Duration> {
    timeout_ms.map(|ms| Duration::from_millis(ms).saturating_add(grace))
}
