//! A client at a terminal, by websocket: terminal bytes both ways as binary
//! messages, and JSON texts that tell when it is connected and how it ended.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::Message;
use bytes::Bytes;
use control::{Exit, Piece, PieceStream};
use futures_util::{StreamExt, stream};
use sandbox::{Error, Result};
use serde_json::json;
use tokio::time::Instant;

use super::{
    prompt::{Prompt, Stage},
    registry::Details,
};
use crate::{
    target::Target,
    toolbox::process::websocket::{Gone, Incoming, Outgoing, close_code, ping_times},
};

/// How long a shell may take to its first prompt before it is taken for ready;
/// some SDKs wait 10 s for the answer to their handshake.
const PROMPT_TIME_MAX: Duration = Duration::from_secs(8);

/// How long after the mark the prompt may take: it follows at once, unless it is empty.
const PROMPT_AFTER_MARK_TIME_MAX: Duration = Duration::from_millis(250);

/// The output of a terminal from its beginning, as far as it is kept.
pub(super) struct Screen {
    pieces: PieceStream<Piece>,
    prompt: Prompt,
    /// What came until the shell was ready.
    shown: Vec<u8>,
    /// How it ended, if it did not even get that far.
    ended: Option<Ended>,
}

/// How the output of a terminal ended.
#[derive(Debug)]
enum Ended {
    Exited(Exit),
    Failed(Error),
}

impl Screen {
    /// Waits until the shell is at its first prompt. Before the handshake is
    /// answered: some SDKs give up when the first message does not follow the
    /// answer within 0.1 s.
    ///
    /// # Errors
    /// When the sandbox or the way to it fails.
    pub(super) async fn open(target: &Target, process: u64, is_old: bool) -> Result<Self> {
        let (control, space, name) = (&target.control, target.space(), target.name());
        let mut screen = Self {
            pieces: control.process_output(space, name, process, true).await?,
            prompt: Prompt::new(is_old),
            shown: Vec::new(),
            ended: None,
        };
        let mut deadline = Instant::now() + PROMPT_TIME_MAX;
        while screen.prompt.stage() != Stage::Ready {
            let piece = tokio::time::timeout_at(deadline, screen.pieces.next()).await;
            match piece.map(told) {
                Ok(Ok(bytes)) => {
                    let before = screen.prompt.stage();
                    screen.shown = screen.prompt.push(&bytes).unwrap_or_default();
                    if before == Stage::Starting && screen.prompt.stage() == Stage::Due {
                        deadline = Instant::now() + PROMPT_AFTER_MARK_TIME_MAX;
                    }
                }
                Ok(Err(ended)) => {
                    screen.ended = Some(ended);
                    screen.shown = screen.prompt.give_up();
                }
                Err(_late) => screen.shown = screen.prompt.give_up(),
            }
        }
        Ok(screen)
    }

    /// Shows it to a client until the shell ends: says first that it is connected.
    async fn show(mut self, outgoing: &mut Outgoing) -> std::result::Result<Ended, Gone> {
        let told_connected = json!({ "type": "control", "status": "connected" });
        outgoing
            .send(Message::text(told_connected.to_string()))
            .await?;
        show_bytes(outgoing, self.shown).await?;
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let mut pings = ping_times();
        loop {
            tokio::select! {
                piece = self.pieces.next() => match told(piece) {
                    Ok(bytes) => {
                        let shown = self.prompt.push(&bytes).unwrap_or_default();
                        show_bytes(outgoing, shown).await?;
                    }
                    Err(ended) => return Ok(ended),
                },
                _ = pings.tick() => outgoing.ping().await?,
            }
        }
    }
}

/// A client's connection to a terminal.
pub(super) struct Connection {
    pub(super) target: Target,
    pub(super) process: u64,
    pub(super) details: Arc<Details>,
    /// Whether the client understands a message that tells the exit.
    pub(super) wants_exit_message: bool,
}

impl Connection {
    /// Serves the client until the shell ends or the client leaves.
    pub(super) async fn serve(
        self,
        screen: Screen,
        mut outgoing: Outgoing,
        mut incoming: Incoming,
    ) {
        let ended = tokio::select! {
            ended = screen.show(&mut outgoing) => ended,
            () = self.type_in(&mut incoming) => return,
        };
        if let Ok(ended) = ended {
            // Who is gone does not hear the last word.
            let _gone = self.finish(ended, outgoing, &mut incoming).await;
        }
    }

    /// Types what the client sends until it leaves.
    async fn type_in(&self, incoming: &mut Incoming) {
        while let Some(message) = incoming.receive().await {
            let bytes = message.into_data();
            if bytes.is_empty() {
                continue;
            }
            let _typing = self.details.typing.lock().await;
            let input: PieceStream<Bytes> = Box::pin(stream::iter([Ok(bytes)]));
            let (space, name) = (self.target.space(), self.target.name());
            let control = &self.target.control;
            let typed = control
                .process_input(space, name, self.process, input, false)
                .await;
            if let Err(error) = typed {
                // Most likely the shell has ended, which its output tells as well.
                tracing::debug!(%error, "input for a terminal was lost");
            }
        }
    }

    async fn finish(
        &self,
        ended: Ended,
        mut outgoing: Outgoing,
        incoming: &mut Incoming,
    ) -> std::result::Result<(), Gone> {
        match ended {
            Ended::Exited(exit) => {
                let mut told = json!({ "exitCode": exit.code });
                if let Some(reason) = reason(&exit) {
                    told["exitReason"] = reason.into();
                }
                let code = match exit.code {
                    0 => close_code::NORMAL,
                    _ => close_code::ERROR,
                };
                let close_reason = told.to_string();
                if self.wants_exit_message {
                    told["type"] = "control".into();
                    told["status"] = "exited".into();
                    outgoing.send(Message::text(told.to_string())).await?;
                }
                outgoing.close(incoming, code, &close_reason).await;
            }
            Ended::Failed(error) => {
                let told = json!({ "type": "control", "status": "error", "error": error.message });
                outgoing.send(Message::text(told.to_string())).await?;
                outgoing
                    .close(incoming, close_code::ERROR, &error.message)
                    .await;
            }
        }
        Ok(())
    }
}

/// The terminal bytes of a piece, or how the output ended.
fn told(piece: Option<Result<Piece>>) -> std::result::Result<Bytes, Ended> {
    let lost = "the terminal ended without an exit code; the sandbox may have ended";
    match piece {
        Some(Ok(Piece::Stdout(bytes) | Piece::Stderr(bytes))) => Ok(bytes),
        Some(Ok(Piece::Exited(exit))) => Err(Ended::Exited(exit)),
        Some(Err(error)) => Err(Ended::Failed(error)),
        Some(Ok(Piece::Display { .. } | Piece::CellEnded(_) | Piece::Done)) | None => {
            Err(Ended::Failed(Error::lost(lost)))
        }
    }
}

async fn show_bytes(outgoing: &mut Outgoing, shown: Vec<u8>) -> std::result::Result<(), Gone> {
    match shown.is_empty() {
        true => Ok(()),
        false => outgoing.send(Message::Binary(shown.into())).await,
    }
}

/// Why a shell ended, when it did not end by itself.
fn reason(exit: &Exit) -> Option<String> {
    match exit.signal {
        _ if exit.out_of_memory => Some("the sandbox ran out of memory".to_owned()),
        Some(signal) => Some(format!("killed by signal {signal}")),
        None => None,
    }
}
