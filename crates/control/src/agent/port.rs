//! A connection to a port inside a sandbox.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use agent_protocol::{Reply, Request};
use bytes::{Buf, Bytes};
use sandbox::{AgentStream, Result, State};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    ANSWER_TIME_MAX, Session,
    conversation::{Incoming, Input},
};
use crate::{
    PortStream,
    resident::{Operation, Resident},
};

impl Session {
    /// Connects to a port.
    ///
    /// # Errors
    /// `NotFound` when nothing listens there, as the agent says, or `SandboxLost`.
    pub(crate) async fn connect_port(mut self, port: u16) -> Result<PortStream> {
        self.ask(&Request::ConnectPort { port }, Input::none())?;
        let Incoming::Reply(Reply::Connected) = self.next(Some(ANSWER_TIME_MAX)).await? else {
            return Err(self.wrong("a connection was not answered by one").await);
        };
        let (operation, stream, beyond) = self.into_raw()?;
        Ok(Box::new(Port::new(operation, stream, beyond)))
    }
}

/// The raw bytes of a connection. An operation for as long as it lives; it ends
/// with the sandbox, and when that does not run any more.
struct Port {
    operation: Operation,
    stream: AgentStream,
    /// What came together with the agent's answer.
    beyond: Bytes,
    /// One for each direction, because these may be used by different tasks.
    reader: Ending,
    writer: Ending,
}

/// Ready when the sandbox does not run any more.
type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

fn ending(resident: &Arc<Resident>) -> Ending {
    let mut life = resident.watch();
    Box::pin(async move {
        // Without a resident there is no sandbox either.
        let _gone = life.wait_for(|life| life.state() != State::Running).await;
    })
}

impl Port {
    fn new(operation: Operation, stream: AgentStream, beyond: Bytes) -> Self {
        Self {
            reader: ending(&operation.0),
            writer: ending(&operation.0),
            operation,
            stream,
            beyond,
        }
    }

    fn over(&self) -> io::Error {
        let name = &self.operation.0.name;
        let state = self.operation.0.life().state();
        io::Error::new(
            io::ErrorKind::ConnectionAborted,
            format!("sandbox `{name}` is {state}"),
        )
    }

    /// Fails when the sandbox does not run; else `writer` is woken when it ends.
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.writer.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // Polled again for every further call.
                self.writer = ending(&self.operation.0);
                Err(self.over())
            }
        }
    }
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.beyond.has_remaining() {
            let count = self.beyond.len().min(buffer.remaining());
            buffer.put_slice(&self.beyond.split_to(count));
            return Poll::Ready(Ok(()));
        }
        // First what was said, then whether it has ended.
        if let ready @ Poll::Ready(_) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            return ready;
        }
        if self.reader.as_mut().poll(cx).is_ready() {
            self.reader = ending(&self.operation.0);
            return Poll::Ready(Err(self.over()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_alive(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_alive(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
