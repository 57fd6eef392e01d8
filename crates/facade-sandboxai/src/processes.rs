//! Background processes: they outlive the request that started them.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use control::{Piece, PieceStream, ProcessInfo, Signal};
use futures_util::StreamExt;
use sandbox::Error;

use crate::{
    Facade,
    error::ApiError,
    events::{self, Source},
    extract::{JsonBody, QueryOf, RawBody, Target, TargetProcess},
    openapi::{ErrorAnswers, JsonErrorAnswers},
    request_id::RequestId,
    wire::{
        InputQuery, Octets, OutputEvent, OutputQuery, ProcessBody, ProcessList, ProcessPath,
        SandboxPath, SignalRequest, StartProcessRequest,
    },
};

/// Start a process in the background
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/processes",
    tag = "processes",
    params(SandboxPath),
    request_body = StartProcessRequest,
    responses((status = 201, description = "It runs", body = ProcessBody), JsonErrorAnswers)
)]
pub(crate) async fn start_process(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<StartProcessRequest>,
) -> Result<(StatusCode, Json<ProcessBody>), ApiError> {
    let exec = request.into_exec()?;
    let control = &facade.control;
    let process = control
        .start_process(&target.space, &target.name, exec)
        .await?;
    Ok((StatusCode::CREATED, Json(process.into())))
}

/// List the background processes, running and ended
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/sandboxes/{name}/processes",
    tag = "processes",
    params(SandboxPath),
    responses((status = 200, description = "In order of their ids", body = ProcessList), ErrorAnswers)
)]
pub(crate) async fn list_processes(
    State(facade): State<Facade>,
    target: Target,
) -> Result<Json<ProcessList>, ApiError> {
    let control = &facade.control;
    let processes = control.processes(&target.space, &target.name).await?;
    Ok(Json(ProcessList {
        processes: processes.into_iter().map(ProcessBody::from).collect(),
    }))
}

/// Look at a background process
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/sandboxes/{name}/processes/{process}",
    tag = "processes",
    params(ProcessPath),
    responses((status = 200, description = "The process", body = ProcessBody), ErrorAnswers)
)]
pub(crate) async fn get_process(
    State(facade): State<Facade>,
    target: TargetProcess,
) -> Result<Json<ProcessBody>, ApiError> {
    Ok(Json(find(&facade, &target).await?.into()))
}

async fn find(facade: &Facade, target: &TargetProcess) -> Result<ProcessInfo, ApiError> {
    let sandbox = &target.sandbox;
    let processes = facade.control.processes(&sandbox.space, &sandbox.name);
    let found = processes
        .await?
        .into_iter()
        .find(|process| process.process == target.process);
    found.ok_or_else(|| {
        Error::not_found(format!(
            "there is no process {} in sandbox `{}`; GET …/processes lists those there are",
            target.process, sandbox.name
        ))
        .into()
    })
}

/// Read the output of a background process
///
/// Server-sent events `stdout`, `stderr` and `end`, or with `Accept:
/// application/octet-stream` both outputs as raw bytes in the order they came.
/// Only the last part of a long output is kept.
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/sandboxes/{name}/processes/{process}/output",
    tag = "processes",
    params(ProcessPath, OutputQuery),
    responses(
        (status = 200, description = "Its output", content(
            (OutputEvent = "text/event-stream"),
            (Octets = "application/octet-stream"),
        )),
        ErrorAnswers,
    )
)]
pub(crate) async fn read_process_output(
    State(facade): State<Facade>,
    Extension(id): Extension<RequestId>,
    target: TargetProcess,
    QueryOf(query): QueryOf<OutputQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let sandbox = &target.sandbox;
    // Looked up first: once the stream has begun it is too late for a 404.
    find(&facade, &target).await?;
    let pieces = facade
        .control
        .process_output(&sandbox.space, &sandbox.name, target.process, query.follow)
        .await?;
    if wants_raw(&headers) {
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        return Ok((headers, Body::from_stream(raw(pieces))).into_response());
    }
    Ok(events::respond(pieces, Source::Process, id))
}

fn wants_raw(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|kind| {
            let essence = kind.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/octet-stream")
        })
}

/// The bytes of the outputs alone.
fn raw(pieces: PieceStream<Piece>) -> PieceStream<Bytes> {
    Box::pin(pieces.filter_map(|piece| async move {
        match piece {
            Ok(Piece::Stdout(bytes) | Piece::Stderr(bytes)) => Some(Ok(bytes)),
            Ok(Piece::Display { .. } | Piece::Exited(_) | Piece::CellEnded(_) | Piece::Done) => {
                None
            }
            Err(error) => Some(Err(error)),
        }
    }))
}

/// Write to the standard input of a background process
///
/// The body is what to write. The process must have been started with `stdin`.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/processes/{process}/input",
    tag = "processes",
    params(ProcessPath, InputQuery),
    request_body(content = Octets, content_type = "application/octet-stream"),
    responses((status = 204, description = "Written"), ErrorAnswers)
)]
pub(crate) async fn write_process_input(
    State(facade): State<Facade>,
    target: TargetProcess,
    QueryOf(query): QueryOf<InputQuery>,
    RawBody(input): RawBody,
) -> Result<StatusCode, ApiError> {
    let sandbox = &target.sandbox;
    facade
        .control
        .process_input(
            &sandbox.space,
            &sandbox.name,
            target.process,
            input,
            query.close,
        )
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send a signal to a background process and its children
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/processes/{process}/signal",
    tag = "processes",
    params(ProcessPath),
    request_body = SignalRequest,
    responses((status = 204, description = "Sent"), JsonErrorAnswers)
)]
pub(crate) async fn signal_process(
    State(facade): State<Facade>,
    target: TargetProcess,
    JsonBody(request): JsonBody<SignalRequest>,
) -> Result<StatusCode, ApiError> {
    send(&facade, &target, request.signal()?).await
}

/// Kill a background process and its children
#[utoipa::path(
    delete,
    path = "/v1/spaces/{space}/sandboxes/{name}/processes/{process}",
    tag = "processes",
    params(ProcessPath),
    responses((status = 204, description = "Sent SIGKILL"), ErrorAnswers)
)]
pub(crate) async fn kill_process(
    State(facade): State<Facade>,
    target: TargetProcess,
) -> Result<StatusCode, ApiError> {
    send(&facade, &target, Signal::Sigkill).await
}

async fn send(
    facade: &Facade,
    target: &TargetProcess,
    signal: Signal,
) -> Result<StatusCode, ApiError> {
    let sandbox = &target.sandbox;
    facade
        .control
        .signal_process(&sandbox.space, &sandbox.name, target.process, signal)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_output_is_for_those_who_ask_for_it() {
        let wants = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, header::HeaderValue::from_static(accept));
            wants_raw(&headers)
        };
        assert!(wants("application/octet-stream"));
        assert!(wants("text/html, Application/Octet-Stream;q=0.9"));
        assert!(!wants("*/*"));
        assert!(!wants("text/event-stream"));
        assert!(!wants_raw(&HeaderMap::new()));
    }
}
