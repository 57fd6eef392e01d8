//! The outputs of commands, as they are or as they come.

use axum::{
    Json,
    body::Body,
    extract::{
        Path, State,
        rejection::PathRejection,
        ws::{Message, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use control::{Piece, PieceStream};
use futures_util::StreamExt;

use serde::{Deserialize, Serialize};

use super::{
    bad_path,
    command::{self, CommandPath},
    output::{Form, Log, Stream, piece_in_form, text},
};
use crate::{
    Facade,
    error::ApiResult,
    extract::QueryOf,
    target::Target,
    toolbox::process::websocket::{self, Gone, Incoming, Outgoing, close_code, ping_times},
    version::SdkVersion,
};

/// The query of `GET …/logs`.
#[derive(Debug, Deserialize)]
pub(crate) struct LogQuery {
    #[serde(default)]
    follow: bool,
}

/// A log whose outputs are told apart. All fields are required.
#[derive(Debug, Serialize)]
struct LogBody {
    output: String,
    stdout: String,
    stderr: String,
}

/// `GET /process/session/{session}/command/{command}/logs`: what the command
/// has said, and with `follow` what it says until it ends: by websocket, or for
/// old SDKs in a chunked body.
pub(crate) async fn read(
    State(facade): State<Facade>,
    target: Target,
    version: SdkVersion,
    path: Result<Path<CommandPath>, PathRejection>,
    QueryOf(query): QueryOf<LogQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let Path(path) = path.map_err(bad_path)?;
    let process = command::find(&target, &path).await?.process;
    let is_followed = query.follow || upgrade.is_ok();
    let pieces = target
        .control
        .process_output(target.space(), target.name(), process, is_followed)
        .await?;
    let form = Form::of(version);
    match upgrade {
        Ok(upgrade) => Ok(follow(upgrade, &headers, pieces)),
        Err(_) if is_followed => Ok(plain(Body::from_stream(bytes_of(pieces, form)))),
        Err(_) => {
            let mut log = Log::new(facade.config.output_bytes_max);
            log.read(pieces).await?;
            Ok(answer(form, &log))
        }
    }
}

/// A log as it is.
pub(crate) fn answer(form: Form, log: &Log) -> Response {
    match form {
        Form::Merged | Form::Marked => plain(Body::from(log.in_form(form))),
        Form::Split => Json(LogBody {
            output: text(&log.in_form(form)),
            stdout: text(&log.only(Stream::Stdout)),
            stderr: text(&log.only(Stream::Stderr)),
        })
        .into_response(),
    }
}

fn plain(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

/// The outputs alone, in a form.
fn bytes_of(pieces: PieceStream<Piece>, form: Form) -> PieceStream<Bytes> {
    Box::pin(pieces.filter_map(move |piece| async move {
        match piece {
            Ok(piece) => piece_in_form(&piece, form).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }))
}

/// Sends a log by websocket until the command ends or the client leaves.
pub(crate) fn follow(
    upgrade: WebSocketUpgrade,
    headers: &HeaderMap,
    pieces: PieceStream<Piece>,
) -> Response {
    websocket::accept(upgrade, headers, |mut outgoing, mut incoming| async move {
        let ended = tokio::select! {
            ended = send_all(pieces, &mut outgoing) => ended,
            () = incoming.left() => return,
        };
        finish(ended, outgoing, &mut incoming).await;
    })
}

/// The pieces with their marks, each in a message of its own.
async fn send_all(
    mut pieces: PieceStream<Piece>,
    outgoing: &mut Outgoing,
) -> Result<sandbox::Result<()>, Gone> {
    let mut pings = ping_times();
    loop {
        tokio::select! {
            piece = pieces.next() => match piece {
                Some(Ok(Piece::Exited(_) | Piece::Done)) | None => return Ok(Ok(())),
                Some(Ok(piece)) => if let Some(bytes) = piece_in_form(&piece, Form::Marked) {
                    outgoing.send(Message::Binary(bytes)).await?;
                },
                Some(Err(error)) => return Ok(Err(error)),
            },
            _ = pings.tick() => outgoing.ping().await?,
        }
    }
}

async fn finish(
    ended: Result<sandbox::Result<()>, Gone>,
    outgoing: Outgoing,
    incoming: &mut Incoming,
) {
    match ended {
        Ok(Ok(())) => outgoing.close(incoming, close_code::NORMAL, "").await,
        Ok(Err(error)) => {
            outgoing
                .close(incoming, close_code::ERROR, &error.message)
                .await;
        }
        Err(Gone) => {}
    }
}
