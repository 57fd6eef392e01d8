//! A client at a terminal, by websocket: terminal bytes both ways as binary
//! messages, and JSON texts that tell when it is connected and how it ended.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::Message;
use bytes::Bytes;
use control::{Exit, Piece, PieceStream};
use futures_util::{StreamExt, stream};
use sandbox::{Error, Result};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    prompt::{Prompt, Stage},
    registry::Details,
};
use crate::{
    target::Target,
    toolbox::process::websocket::{Gone, Incoming, Outgoing, close_code, ping_times},
};

/// How long a shell may take to its first prompt before it is taken for ready;
/// the SDKs wait for 10 s.
const PROMPT_TIME_MAX: Duration = Duration::from_secs(9);

/// How long after the mark the prompt may take: it follows at once, unless it is empty.
const PROMPT_AFTER_MARK_TIME_MAX: Duration = Duration::from_millis(250);

/// A client's connection to a terminal.
pub(super) struct Connection {
    pub(super) target: Target,
    pub(super) process: u64,
    pub(super) details: Arc<Details>,
    /// Whether the shell has been there for longer than one takes to start.
    pub(super) is_old: bool,
    /// Whether the client understands a message that tells the exit.
    pub(super) wants_exit_message: bool,
}

/// How the output of a terminal ended.
enum Ended {
    Exited(Exit),
    Failed(Error),
}

impl Connection {
    /// Serves the client until the shell ends or the client leaves.
    pub(super) async fn serve(self, mut outgoing: Outgoing, mut incoming: Incoming) {
        let (ready, is_ready) = watch::channel(false);
        let ended = tokio::select! {
            ended = self.show(&mut outgoing, &ready) => ended,
            () = self.type_in(&mut incoming, is_ready) => return,
        };
        let Ok(ended) = ended else { return };
        // Without a last word the client would take it for a lost connection.
        let _gone = self.finish(ended, outgoing, &mut incoming).await;
    }

    /// Sends the terminal's output; says that it is connected once the shell is
    /// at its prompt.
    async fn show(
        &self,
        outgoing: &mut Outgoing,
        ready: &watch::Sender<bool>,
    ) -> std::result::Result<Ended, Gone> {
        let mut pieces = match self.output().await {
            Ok(pieces) => pieces,
            Err(error) => return Ok(Ended::Failed(error)),
        };
        let mut prompt = Prompt::new(self.is_old);
        let mut deadline = Instant::now() + PROMPT_TIME_MAX;
        let mut pings = ping_times();
        if self.is_old {
            connected(outgoing, ready, Vec::new()).await?;
        }
        loop {
            let is_connected = *ready.borrow();
            tokio::select! {
                piece = pieces.next() => match told(piece) {
                    Ok(bytes) => {
                        let was_starting = prompt.stage() == Stage::Starting;
                        match prompt.push(&bytes) {
                            Some(shown) if is_connected => show_bytes(outgoing, shown).await?,
                            Some(shown) => connected(outgoing, ready, shown).await?,
                            None if was_starting && prompt.stage() == Stage::Due => {
                                deadline = Instant::now() + PROMPT_AFTER_MARK_TIME_MAX;
                            }
                            None => {}
                        }
                    }
                    Err(ended) => {
                        if !is_connected {
                            connected(outgoing, ready, prompt.give_up()).await?;
                        }
                        return Ok(ended);
                    }
                },
                () = sleep_until(deadline), if !is_connected => {
                    connected(outgoing, ready, prompt.give_up()).await?;
                }
                _ = pings.tick() => outgoing.ping().await?,
            }
        }
    }

    async fn output(&self) -> Result<PieceStream<Piece>> {
        let (space, name) = (self.target.space(), self.target.name());
        let control = &self.target.control;
        control
            .process_output(space, name, self.process, true)
            .await
    }

    /// Types what the client sends, from the moment the shell is ready, until
    /// the client leaves.
    async fn type_in(&self, incoming: &mut Incoming, mut is_ready: watch::Receiver<bool>) {
        if is_ready.wait_for(|is_ready| *is_ready).await.is_err() {
            return;
        }
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

/// Says that the terminal is connected, and shows what came before.
async fn connected(
    outgoing: &mut Outgoing,
    ready: &watch::Sender<bool>,
    shown: Vec<u8>,
) -> std::result::Result<(), Gone> {
    let told = json!({ "type": "control", "status": "connected" });
    outgoing.send(Message::text(told.to_string())).await?;
    show_bytes(outgoing, shown).await?;
    ready.send_replace(true);
    Ok(())
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
