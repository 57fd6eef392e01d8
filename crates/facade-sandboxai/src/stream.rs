//! The tools, streaming: output as it comes, the result as the last event.

use axum::{Extension, extract::State, response::Response};

use crate::{
    Facade,
    error::ApiError,
    events::{self, Source},
    extract::{JsonBody, Target},
    openapi::JsonErrorAnswers,
    request_id::RequestId,
    tools::once,
    wire::{OutputEvent, RunIPythonCellRequest, RunShellCommandRequest, SandboxPath},
};

/// Run a command and stream its output
///
/// Server-sent events: `stdout` and `stderr` (all output is `stdout` unless
/// `split_output`), then `end` with the result without the output, or `error`.
/// Closing the connection kills the command.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:stream_shell_command",
    tag = "tools",
    params(SandboxPath),
    request_body = RunShellCommandRequest,
    responses(
        (status = 200, description = "Events; the data of `stdout` and `stderr` is shown", body = OutputEvent, content_type = "text/event-stream"),
        JsonErrorAnswers,
    )
)]
pub(crate) async fn stream_shell_command(
    State(facade): State<Facade>,
    Extension(id): Extension<RequestId>,
    target: Target,
    JsonBody(request): JsonBody<RunShellCommandRequest>,
) -> Result<Response, ApiError> {
    let run = request.into_run(&facade.config)?;
    let stdin = run.stdin.map(once);
    let pieces = facade
        .control
        .exec(&target.space, &target.name, run.exec, stdin)
        .await?;
    Ok(events::respond(pieces, Source::Shell, id))
}

/// Run a Python cell and stream its output
///
/// Server-sent events: `stdout`, `stderr` (all output is `stdout` unless
/// `split_output`) and `display` in order, then `end` with the result without
/// the output, or `error`. Closing the connection interrupts the cell.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:stream_ipython_cell",
    tag = "tools",
    params(SandboxPath),
    request_body = RunIPythonCellRequest,
    responses(
        (status = 200, description = "Events; the data of `stdout` and `stderr` is shown", body = OutputEvent, content_type = "text/event-stream"),
        JsonErrorAnswers,
    )
)]
pub(crate) async fn stream_ipython_cell(
    State(facade): State<Facade>,
    Extension(id): Extension<RequestId>,
    target: Target,
    JsonBody(request): JsonBody<RunIPythonCellRequest>,
) -> Result<Response, ApiError> {
    let run = request.into_run(&facade.config)?;
    let pieces = facade
        .control
        .cell(&target.space, &target.name, run.cell)
        .await?;
    Ok(events::respond(pieces, Source::Cell, id))
}
