//! Commands of shell sessions.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use control::{PieceStream, ProcessInfo};
use futures_util::stream;
use serde::{Deserialize, Serialize};

use super::{
    CommandBody, SessionPath, absent, bad_path, exact,
    output::{Form, Log, Stream, text},
};
use crate::{
    Facade,
    error::{ApiError, ApiResult},
    extract::JsonBody,
    target::Target,
    toolbox::process::or_not_found,
    version::SdkVersion,
};

/// The path of a command.
#[derive(Debug, Deserialize)]
pub(crate) struct CommandPath {
    session: String,
    command: String,
}

/// The body of `POST …/exec`. `suppressInputEcho` is not read: input is never
/// echoed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecuteRequest {
    command: String,
    #[serde(default)]
    run_async: Option<bool>,
    /// The old name of `runAsync`.
    #[serde(default)]
    r#async: Option<bool>,
}

/// The answer; only `cmdId` while the command runs.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecuteResponse {
    cmd_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
}

/// The body of `POST …/input`.
#[derive(Debug, Deserialize)]
pub(crate) struct InputRequest {
    data: String,
}

/// `POST /process/session/{session}/exec`: a command, waited for unless it is
/// to run on by itself. It runs on too when the caller leaves.
pub(crate) async fn execute(
    State(facade): State<Facade>,
    target: Target,
    version: SdkVersion,
    path: Result<Path<SessionPath>, PathRejection>,
    JsonBody(request): JsonBody<ExecuteRequest>,
) -> ApiResult<Response> {
    let Path(SessionPath { session }) = path.map_err(bad_path)?;
    if request.command.trim().is_empty() {
        return Err(ApiError::bad_request(
            "field `command` is empty; give the command to run",
        ));
    }
    let (control, space, name) = (&target.control, target.space(), target.name());
    let process = control
        .run_in_session(space, name, &session, &request.command)
        .await
        .map_err(|error| or_not_found(error, || absent(&session)))?
        .process;
    let cmd_id = process.to_string();
    if request.run_async.or(request.r#async).unwrap_or(false) {
        let answer = ExecuteResponse {
            cmd_id,
            ..ExecuteResponse::default()
        };
        return Ok((exact(version, StatusCode::ACCEPTED), Json(answer)).into_response());
    }
    // Nobody can type while the caller waits: who reads gets the end at once. A
    // command that has ended already needs none.
    let _ended = control
        .process_input(space, name, process, Box::pin(stream::empty()), true)
        .await;
    let pieces = control.process_output(space, name, process, true).await?;
    let mut log = Log::new(facade.config.output_bytes_max);
    let exit = log.read(pieces).await?;
    let form = Form::of(version);
    let of_stream = |stream| (form == Form::Split).then(|| text(&log.only(stream)));
    Ok(Json(ExecuteResponse {
        cmd_id,
        output: Some(text(&log.in_form(form))),
        stdout: of_stream(Stream::Stdout),
        stderr: of_stream(Stream::Stderr),
        exit_code: exit.map(|exit| exit.code),
    })
    .into_response())
}

/// `GET /process/session/{session}/command/{command}`.
pub(crate) async fn get(
    target: Target,
    path: Result<Path<CommandPath>, PathRejection>,
) -> ApiResult<Json<CommandBody>> {
    let Path(path) = path.map_err(bad_path)?;
    Ok(Json(find(&target, &path).await?.into()))
}

/// `POST /process/session/{session}/command/{command}/input`: a line for its
/// standard input.
pub(crate) async fn input(
    target: Target,
    version: SdkVersion,
    path: Result<Path<CommandPath>, PathRejection>,
    JsonBody(request): JsonBody<InputRequest>,
) -> ApiResult<StatusCode> {
    let Path(path) = path.map_err(bad_path)?;
    let process = find(&target, &path).await?;
    if process.exit.is_some() {
        return Err(completed(&path));
    }
    let mut line = request.data;
    if !line.ends_with('\n') {
        line.push('\n');
    }
    let (control, space, name) = (&target.control, target.space(), target.name());
    let sent = control
        .process_input(space, name, process.process, once(line), false)
        .await;
    if let Err(error) = sent {
        // It may have ended meanwhile.
        let has_ended = find(&target, &path).await?.exit.is_some();
        return Err(match has_ended {
            true => completed(&path),
            false => error.into(),
        });
    }
    Ok(exact(version, StatusCode::NO_CONTENT))
}

/// A command by its session and its id.
pub(super) async fn find(target: &Target, path: &CommandPath) -> ApiResult<ProcessInfo> {
    let session = super::find(target, &path.session).await?;
    let found = session
        .commands
        .into_iter()
        .find(|process| process.process.to_string() == path.command);
    found.ok_or_else(|| {
        ApiError::not_found(format!(
            "command not found: session `{}` has no command `{}`; the oldest are forgotten",
            path.session, path.command
        ))
        .with_code("PROCESS_NOT_FOUND")
    })
}

fn completed(path: &CommandPath) -> ApiError {
    let message = format!(
        "command `{}` of session `{}` has already completed",
        path.command, path.session
    );
    ApiError::new(StatusCode::GONE, message).with_code("COMMAND_ALREADY_COMPLETED")
}

/// A text as a stream of one piece.
fn once(text: String) -> PieceStream<Bytes> {
    Box::pin(stream::iter([Ok(text.into())]))
}
