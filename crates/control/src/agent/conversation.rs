//! Frames over one connection, in both directions at once, within bounds.
//!
//! Everything that is half read or half written is kept here and not in a
//! future, so that any wait on a conversation may be given up and begun again.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use agent_protocol::{
    Reply, Request,
    frame::{self, CHUNK_BYTES, FrameError, FrameKind, HEADER_BYTES, Header},
};
use bytes::{Buf, Bytes, BytesMut, buf::Chain};
use sandbox::AgentStream;
use tokio::{io::AsyncWrite, time::Instant};
use tokio_util::io::{poll_read_buf, poll_write_buf};

use super::{AgentError, CONTENT_TIME_MAX, bounds};
use crate::PieceStream;

/// First read of a conversation: most answers fit.
const FIRST_READ_BYTES: usize = 8 << 10;

/// Something from the agent.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Standard output, or content of a file.
    Output(Bytes),
    /// Standard error.
    Error(Bytes),
    /// A message.
    Reply(Reply),
}

/// What is sent to the agent while a request is under way.
#[derive(Default)]
pub(super) struct Input {
    source: Option<PieceStream<Bytes>>,
    /// The rest of a piece that is longer than a frame should be.
    rest: Bytes,
}

impl Input {
    /// No input at all, not even its end.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// All that comes from `source`, then the end of input.
    pub(super) fn from(source: PieceStream<Bytes>) -> Self {
        Self {
            source: Some(source),
            rest: Bytes::new(),
        }
    }

    /// Whether nothing more is to be sent.
    fn is_over(&self) -> bool {
        self.source.is_none() && self.rest.is_empty()
    }
}

/// One connection to an agent.
pub(super) struct Conversation {
    stream: AgentStream,
    incoming: BytesMut,
    outgoing: Chain<Bytes, Bytes>,
    /// The agent reads no more; what it says may still tell why.
    deaf: Option<std::io::Error>,
    /// When bytes last moved in either direction, to tell slow from stuck.
    last_moved: Instant,
    /// It is the caller's input that is waited for.
    waits_for_input: bool,
}

impl Conversation {
    pub(super) fn new(stream: AgentStream) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: Bytes::new().chain(Bytes::new()),
            deaf: None,
            last_moved: Instant::now(),
            waits_for_input: false,
        }
    }

    /// Takes a request to be sent by the next wait.
    ///
    /// # Errors
    /// When it is too large.
    pub(super) fn ask(&mut self, request: &Request) -> Result<(), AgentError> {
        let bytes = frame::encode_message(request).map_err(AgentError::Request)?;
        self.outgoing = Bytes::from(bytes).chain(Bytes::new());
        Ok(())
    }

    /// The next thing from the agent, while `input` is sent to it. Nothing is
    /// lost when this wait is given up.
    ///
    /// # Errors
    /// When the connection ends, the agent does not keep to the protocol, or
    /// nothing moves for as long as `silence_max`.
    pub(super) async fn next(
        &mut self,
        input: &mut Input,
        silence_max: Option<Duration>,
    ) -> Result<Incoming, AgentError> {
        let Some(silence_max) = silence_max else {
            return std::future::poll_fn(|cx| self.poll_next(input, cx)).await;
        };
        let began = Instant::now();
        loop {
            let patience = match self.waits_for_input {
                true => CONTENT_TIME_MAX,
                false => silence_max,
            };
            let deadline = began.max(self.last_moved) + patience;
            let next = std::future::poll_fn(|cx| self.poll_next(input, cx));
            match tokio::time::timeout_at(deadline, next).await {
                Ok(next) => return next,
                // Something moved meanwhile, or it began to wait for the caller.
                Err(_) if began.max(self.last_moved) + patience > deadline => {}
                Err(_) if self.waits_for_input && patience < CONTENT_TIME_MAX => {}
                Err(_) if self.waits_for_input => {
                    return Err(AgentError::InputSilent(patience));
                }
                Err(_) => return Err(AgentError::Silent(patience)),
            }
        }
    }

    /// The connection, if it can serve another conversation.
    pub(super) fn into_idle(self, input: &Input) -> Option<AgentStream> {
        let clean = self.incoming.is_empty()
            && !self.outgoing.has_remaining()
            && self.deaf.is_none()
            && input.is_over();
        clean.then_some(self.stream)
    }

    /// The connection as raw bytes, and what of them has come already.
    pub(super) fn into_raw(self) -> (AgentStream, Bytes) {
        (self.stream, self.incoming.freeze())
    }

    fn poll_next(
        &mut self,
        input: &mut Input,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Incoming, AgentError>> {
        if self.deaf.is_none()
            && let Poll::Ready(Err(error)) = self.poll_send(input, cx)
        {
            match error {
                AgentError::Broken(error) => self.deaf = Some(error),
                error => return Poll::Ready(Err(error)),
            }
        }
        self.poll_receive(cx)
    }

    /// Sends what there is to send; ready when nothing is left.
    fn poll_send(
        &mut self,
        input: &mut Input,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), AgentError>> {
        loop {
            self.waits_for_input = false;
            while self.outgoing.has_remaining() {
                let stream = Pin::new(&mut self.stream);
                let written = ready!(poll_write_buf(stream, cx, &mut self.outgoing))
                    .map_err(AgentError::Broken)?;
                self.last_moved = Instant::now();
                if written == 0 {
                    return Poll::Ready(Err(AgentError::Broken(
                        std::io::ErrorKind::WriteZero.into(),
                    )));
                }
            }
            if input.rest.is_empty() {
                let Some(source) = &mut input.source else {
                    return Pin::new(&mut self.stream)
                        .poll_flush(cx)
                        .map_err(AgentError::Broken);
                };
                self.waits_for_input = true;
                match ready!(source.as_mut().poll_next(cx)) {
                    Some(Ok(bytes)) => input.rest = bytes,
                    Some(Err(error)) => return Poll::Ready(Err(AgentError::Input(error))),
                    None => {
                        input.source = None;
                        self.outgoing = framed(FrameKind::InputEnd, Bytes::new());
                        continue;
                    }
                }
            }
            let chunk = input.rest.split_to(input.rest.len().min(CHUNK_BYTES));
            if !chunk.is_empty() {
                self.outgoing = framed(FrameKind::Input, chunk);
            }
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming, AgentError>> {
        loop {
            if let Some(incoming) = self.take_frame()? {
                return Poll::Ready(Ok(incoming));
            }
            let stream = Pin::new(&mut self.stream);
            match ready!(poll_read_buf(stream, cx, &mut self.incoming)) {
                Ok(0) => {
                    let error = self
                        .deaf
                        .take()
                        .map_or(AgentError::Closed, AgentError::Broken);
                    return Poll::Ready(Err(error));
                }
                Ok(_) => self.last_moved = Instant::now(),
                Err(error) => return Poll::Ready(Err(AgentError::Broken(error))),
            }
        }
    }

    /// Room for `more_bytes`, in a new buffer if need be. `BytesMut::reserve` would
    /// double a buffer whose front is still in use, and so reach the size of a
    /// whole file.
    fn make_room(&mut self, more_bytes: usize) {
        let length = self.incoming.len();
        if self.incoming.capacity() - length < more_bytes {
            let mut roomy = BytesMut::with_capacity(length + more_bytes);
            roomy.extend_from_slice(&self.incoming);
            self.incoming = roomy;
        }
    }

    /// Takes a whole frame out of what has come, or makes room for more of it.
    fn take_frame(&mut self) -> Result<Option<Incoming>, AgentError> {
        let Some(header) = self.incoming.first_chunk::<HEADER_BYTES>() else {
            self.make_room(FIRST_READ_BYTES);
            return Ok(None);
        };
        let header = Header::decode(*header).map_err(AgentError::Frame)?;
        let frame_bytes = HEADER_BYTES + header.payload_bytes;
        if self.incoming.len() < frame_bytes {
            // Room grows with what comes, not with what is announced.
            let missing_bytes = frame_bytes - self.incoming.len();
            self.make_room(missing_bytes.min(self.incoming.len().max(CHUNK_BYTES)));
            return Ok(None);
        }
        self.incoming.advance(HEADER_BYTES);
        let payload = self.incoming.split_to(header.payload_bytes);
        match header.kind {
            FrameKind::Output => Ok(Some(Incoming::Output(payload.freeze()))),
            FrameKind::Error => Ok(Some(Incoming::Error(payload.freeze()))),
            FrameKind::Message => {
                bounds::check(&payload).map_err(AgentError::Oversized)?;
                let reply = frame::decode_message(&payload).map_err(AgentError::Frame)?;
                Ok(Some(Incoming::Reply(reply)))
            }
            FrameKind::Input | FrameKind::InputEnd => Err(AgentError::Frame(
                FrameError::UnknownKind(header.kind as u8),
            )),
        }
    }
}

fn framed(kind: FrameKind, payload: Bytes) -> Chain<Bytes, Bytes> {
    let header = Header::encode(kind, payload.len());
    Bytes::copy_from_slice(&header).chain(payload)
}

#[cfg(test)]
mod tests;
