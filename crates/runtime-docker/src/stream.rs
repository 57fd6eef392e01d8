//! A byte stream to the agent, over an `exec` in the container.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bollard::{container::LogOutput, errors::Error as EngineError};
use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio_util::{bytes::Bytes, io::StreamReader};

/// What a relay says first, once it has reached the agent.
const READY: u8 = 6;
/// How much of an engine's complaint is read, bytes.
const COMPLAINT_BYTES_MAX: u64 = 1000;

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, EngineError>> + Send>>;
type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Both directions of one relay.
pub(crate) struct ExecStream {
    output: StreamReader<Pieces, Bytes>,
    input: Pin<Box<dyn AsyncWrite + Send>>,
}

impl ExecStream {
    pub(crate) fn new(output: Output, input: Pin<Box<dyn AsyncWrite + Send>>) -> Self {
        let pieces = output.map(|piece| match piece {
            Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => Ok(message),
            // The relay says there why it cannot go on; the stream ends after it.
            Ok(LogOutput::StdErr { message }) => Err(io::Error::other(
                String::from_utf8_lossy(&message).trim().to_owned(),
            )),
            Ok(LogOutput::StdIn { .. }) => Ok(Bytes::new()),
            Err(error) => Err(io::Error::other(error)),
        });
        Self {
            output: StreamReader::new(Box::pin(pieces)),
            input,
        }
    }

    /// Waits until the relay has reached the agent.
    ///
    /// # Errors
    /// What the engine or the relay says instead.
    pub(crate) async fn ready(mut self) -> io::Result<Self> {
        if self.output.read_u8().await? == READY {
            return Ok(self);
        }
        let mut complaint = Vec::new();
        let mut rest = (&mut self.output).take(COMPLAINT_BYTES_MAX);
        rest.read_to_end(&mut complaint).await?;
        // Its first letter is gone, which hurts no reader.
        let complaint = String::from_utf8_lossy(&complaint);
        Err(io::Error::other(complaint.trim().to_owned()))
    }
}

impl AsyncRead for ExecStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ExecStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.input.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().poll_shutdown(cx)
    }
}
