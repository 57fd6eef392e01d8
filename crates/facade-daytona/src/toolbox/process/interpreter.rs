//! The code interpreter: Python cells in contexts that keep their state. Each
//! context is a kernel; the default one is started by its first cell. Cells of
//! a context are queued by the agent.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::{
        Path,
        rejection::PathRejection,
        ws::{Message, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::HeaderMap,
    response::Response,
};
use control::{Cell, CellEnd, CellStatus, KernelInfo, Piece, PieceStream};
use futures_util::StreamExt;
use jiff::Timestamp;
use sandbox::{Error, Id};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    execute::timeout_ms,
    or_not_found,
    text::{TextDecoder, without_colours},
    websocket::{self, Gone, Incoming, Outgoing, close_code, ping_times},
};
use crate::{
    error::{ApiError, ApiResult},
    extract::{self, JsonBody},
    target::Target,
};

/// The context of cells that name none.
const DEFAULT_CONTEXT: &str = "default";
/// The only language.
const LANGUAGE: &str = "python";
/// How long a cell may take when the request does not say.
const CELL_TIME_DEFAULT: Duration = Duration::from_secs(600);
/// How long a client may take from connecting to asking.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// The body of `POST /process/interpreter/context`.
#[derive(Debug, Deserialize)]
pub(super) struct CreateContext {
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    language: Option<String>,
}

/// A context. All fields are required.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContextBody {
    id: String,
    cwd: String,
    created_at: String,
    active: bool,
    language: &'static str,
}

impl From<KernelInfo> for ContextBody {
    fn from(kernel: KernelInfo) -> Self {
        let started_ms = i64::try_from(kernel.started_ms).unwrap_or(i64::MAX);
        Self {
            id: kernel.context,
            cwd: kernel.cwd,
            created_at: Timestamp::from_millisecond(started_ms)
                .unwrap_or(Timestamp::UNIX_EPOCH)
                .to_string(),
            active: kernel.alive,
            language: LANGUAGE,
        }
    }
}

/// The path of a context.
#[derive(Debug, Deserialize)]
pub(super) struct ContextPath {
    context: String,
}

/// What the client asks for, in its first message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecuteRequest {
    code: String,
    #[serde(default)]
    context_id: Option<String>,
    #[serde(default)]
    envs: Option<BTreeMap<String, String>>,
    /// Seconds; 0 is for ever.
    #[serde(default)]
    timeout: Option<f64>,
}

/// `POST /process/interpreter/context`.
pub(super) async fn create(
    target: Target,
    JsonBody(request): JsonBody<CreateContext>,
) -> ApiResult<Json<ContextBody>> {
    let language = request.language.filter(|language| !language.is_empty());
    if let Some(language) = language.filter(|language| language != LANGUAGE) {
        return Err(ApiError::bad_request(format!(
            "field `language`: the interpreter speaks {LANGUAGE} only, not {language:?}; run other languages by code_run"
        )));
    }
    let context = Id::random()?.to_string();
    let cwd = request.cwd.filter(|cwd| !cwd.is_empty());
    let (control, space, name) = (&target.control, target.space(), target.name());
    control
        .start_kernel(space, name, &context, cwd.as_deref())
        .await
        .map_err(|error| {
            let message = error.message.clone();
            or_not_found(error, || ApiError::bad_request(message))
        })?;
    Ok(Json(find(&target, &context).await?.into()))
}

/// `GET /process/interpreter/context`: all but the default one.
pub(super) async fn list(target: Target) -> ApiResult<Json<Value>> {
    let kernels = target
        .control
        .kernels(target.space(), target.name())
        .await?;
    let contexts: Vec<ContextBody> = kernels
        .into_iter()
        .filter(|kernel| kernel.context != DEFAULT_CONTEXT)
        .map(Into::into)
        .collect();
    Ok(Json(json!({ "contexts": contexts })))
}

/// `DELETE /process/interpreter/context/{context}`.
pub(super) async fn delete(
    target: Target,
    path: Result<Path<ContextPath>, PathRejection>,
) -> ApiResult<Json<Value>> {
    let Path(ContextPath { context }) =
        path.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    if context == DEFAULT_CONTEXT {
        return Err(ApiError::bad_request(
            "the default context cannot be deleted",
        ));
    }
    target
        .control
        .end_kernel(target.space(), target.name(), &context)
        .await
        .map_err(|error| or_not_found(error, || absent(&context)))?;
    Ok(Json(json!({ "message": "context deleted" })))
}

/// A context that was made before.
async fn find(target: &Target, context: &str) -> ApiResult<KernelInfo> {
    let (control, space, name) = (&target.control, target.space(), target.name());
    let mut kernels = control.kernels(space, name).await?.into_iter();
    let found = kernels.find(|kernel| kernel.context == context);
    found.ok_or_else(|| absent(context))
}

fn absent(context: &str) -> ApiError {
    ApiError::not_found(format!(
        "context not found: `{context}`; it was deleted or never was, create it"
    ))
}

/// `GET /process/interpreter/execute`: one cell per websocket. Leaving it
/// interrupts the cell.
pub(super) async fn execute(
    target: Target,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::bad_request(format!(
            "cells are run by websocket: {}",
            rejection.body_text()
        ))
    })?;
    Ok(websocket::accept(
        upgrade,
        &headers,
        |mut outgoing, mut incoming| async move {
            let asked = tokio::time::timeout(REQUEST_TIME_MAX, incoming.receive());
            let Ok(Some(message)) = asked.await else {
                return;
            };
            let ended = tokio::select! {
                ended = answer(&target, &message, &mut outgoing) => ended,
                () = incoming.left() => return,
            };
            finish(ended, outgoing, &mut incoming).await;
        },
    ))
}

/// How a cell's conversation ends: the code and the reason of the close.
#[derive(Debug, PartialEq, Eq)]
struct Closing {
    code: u16,
    reason: String,
}

impl Closing {
    fn new(code: u16, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

impl From<Error> for Closing {
    fn from(error: Error) -> Self {
        Self::new(close_code::ERROR, error.message)
    }
}

async fn finish(ended: Result<Closing, Gone>, outgoing: Outgoing, incoming: &mut Incoming) {
    if let Ok(Closing { code, reason }) = ended {
        outgoing.close(incoming, code, &reason).await;
    }
}

/// Runs the cell that a message asks for.
async fn answer(
    target: &Target,
    message: &Message,
    outgoing: &mut Outgoing,
) -> Result<Closing, Gone> {
    let bytes = match message {
        Message::Text(text) => text.as_bytes(),
        Message::Binary(bytes) => bytes,
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => &[],
    };
    let cell = match extract::parse(bytes).and_then(cell) {
        Ok(cell) => cell,
        Err(error) => return Ok(Closing::new(close_code::POLICY, error.message)),
    };
    // A cell would start the kernel of a context that was never made.
    if cell.context != DEFAULT_CONTEXT
        && let Err(error) = find(target, &cell.context).await
    {
        return Ok(Closing::new(close_code::POLICY, error.message));
    }
    let (control, space, name) = (&target.control, target.space(), target.name());
    match control.cell(space, name, cell).await {
        Ok(pieces) => send_all(pieces, outgoing).await,
        Err(error) => Ok(error.into()),
    }
}

fn cell(request: ExecuteRequest) -> ApiResult<Cell> {
    let context = request.context_id.filter(|context| !context.is_empty());
    Ok(Cell {
        code: request.code,
        context: context.unwrap_or_else(|| DEFAULT_CONTEXT.to_owned()),
        timeout_ms: timeout_ms(request.timeout, CELL_TIME_DEFAULT)?,
        env: request.envs.unwrap_or_default(),
        // As Python's `exec` does: only what is printed is shown.
        hide_result: true,
        ..Cell::default()
    })
}

/// Sends what a cell says, until its end.
async fn send_all(
    mut pieces: PieceStream<Piece>,
    outgoing: &mut Outgoing,
) -> Result<Closing, Gone> {
    let (mut stdout, mut stderr) = (TextDecoder::default(), TextDecoder::default());
    let mut pings = ping_times();
    let end = loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            _ = pings.tick() => {
                outgoing.ping().await?;
                continue;
            }
        };
        match piece {
            Some(Ok(Piece::Stdout(bytes))) => say(outgoing, "stdout", stdout.push(&bytes)).await?,
            Some(Ok(Piece::Stderr(bytes))) => say(outgoing, "stderr", stderr.push(&bytes)).await?,
            // The protocol knows text only, and the kernel prints the text of displays.
            Some(Ok(Piece::Display { .. })) => {}
            Some(Ok(Piece::CellEnded(end))) => break end,
            Some(Ok(Piece::Exited(_) | Piece::Done)) | None => {
                return Ok(Closing::new(
                    close_code::ERROR,
                    "the cell ended without a result; the sandbox may have ended",
                ));
            }
            Some(Err(error)) => return Ok(error.into()),
        }
    };
    say(outgoing, "stdout", stdout.finish()).await?;
    say(outgoing, "stderr", stderr.finish()).await?;
    let (messages, closing) = last_words(end);
    for message in messages {
        outgoing.send(Message::text(message.to_string())).await?;
    }
    Ok(closing)
}

/// Sends a piece of output.
async fn say(outgoing: &mut Outgoing, kind: &str, text: String) -> Result<(), Gone> {
    if text.is_empty() {
        return Ok(());
    }
    let message = json!({ "type": kind, "text": text });
    outgoing.send(Message::text(message.to_string())).await
}

/// What is said at the end of a cell.
fn last_words(end: CellEnd) -> (Vec<Value>, Closing) {
    let completed = json!({ "type": "control", "text": "completed" });
    let normal = Closing::new(close_code::NORMAL, "");
    let failed = |end: CellEnd, name: &str| {
        let traceback = without_colours(&end.traceback.join("\n"));
        json!({
            "type": "error",
            "name": end.error_name.as_deref().unwrap_or(name),
            "value": end.error_value.unwrap_or_default(),
            "traceback": traceback,
        })
    };
    match end.status {
        CellStatus::Ok => (vec![completed], normal),
        CellStatus::Error => (vec![failed(end, "Error"), completed], normal),
        CellStatus::Interrupted => (vec![failed(end, "KeyboardInterrupt"), completed], normal),
        CellStatus::KernelDied => (vec![failed(end, "KernelDied"), completed], normal),
        CellStatus::TimedOut => (
            Vec::new(),
            Closing::new(close_code::TIMEOUT, "the time of the cell is over"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: CellStatus) -> CellEnd {
        CellEnd {
            status,
            error_name: None,
            error_value: None,
            traceback: Vec::new(),
        }
    }

    #[test]
    fn each_end_has_its_close_code() {
        let code = |status| last_words(end(status)).1.code;
        assert_eq!(code(CellStatus::Ok), 1000);
        assert_eq!(code(CellStatus::Error), 1000);
        assert_eq!(code(CellStatus::KernelDied), 1000);
        assert_eq!(code(CellStatus::TimedOut), 4008);
    }

    #[test]
    fn errors_come_without_colours() {
        let failed = CellEnd {
            error_name: Some("NameError".to_owned()),
            error_value: Some("x".to_owned()),
            traceback: vec!["\u{1b}[31mNameError\u{1b}[0m".to_owned(), "x".to_owned()],
            ..end(CellStatus::Error)
        };
        let (messages, _) = last_words(failed);
        assert_eq!(
            messages[0],
            json!({"type": "error", "name": "NameError", "value": "x", "traceback": "NameError\nx"})
        );
        assert_eq!(messages[1]["text"], "completed");
    }

    #[test]
    fn cells_get_ten_minutes_unless_told_otherwise() {
        let of = |json| cell(extract::parse(json).unwrap()).unwrap();
        let plain = of(br#"{"code":"1"}"#);
        assert_eq!(plain.timeout_ms, Some(600_000));
        assert_eq!(plain.context, "default");
        assert!(plain.hide_result);
        let told = of(br#"{"code":"1","contextId":"c","envs":{"A":"b"},"timeout":0}"#);
        assert_eq!(told.timeout_ms, None);
        assert_eq!(told.context, "c");
        assert_eq!(told.env["A"], "b");
    }
}
