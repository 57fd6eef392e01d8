//! The two tools of the original protocol, and the kernels behind one of them.

use axum::{Json, extract::State, http::StatusCode};
use bytes::Bytes;
use control::PieceStream;

use crate::{
    Facade,
    error::ApiError,
    extract::{JsonBody, Target},
    openapi::JsonErrorAnswers,
    wire::{
        KernelRequest, RunIPythonCellRequest, RunIPythonCellResult, RunShellCommandRequest,
        RunShellCommandResult, SandboxPath,
    },
};

/// Run a command and wait for it
///
/// A command that fails is a 200 with its `exit_code`; one whose time is over
/// is a 200 with `timed_out`, exit code 124 and the output so far.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:run_shell_command",
    tag = "tools",
    params(SandboxPath),
    request_body = RunShellCommandRequest,
    responses((status = 200, description = "It ended", body = RunShellCommandResult), JsonErrorAnswers)
)]
pub(crate) async fn run_shell_command(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<RunShellCommandRequest>,
) -> Result<Json<RunShellCommandResult>, ApiError> {
    let run = request.into_run(&facade.config)?;
    let split = !run.exec.merge_output;
    let stdin = run.stdin.map(once);
    let pieces = facade
        .control
        .exec(&target.space, &target.name, run.exec, stdin)
        .await?;
    let collected = control::collect(pieces, run.output_bytes_max).await?;
    Ok(Json(RunShellCommandResult::collected(split, collected)?))
}

/// Run a Python cell and wait for it
///
/// State is kept from cell to cell. A cell that fails, is interrupted or loses
/// its kernel is a 200 with `status`, `error` and the output so far.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:run_ipython_cell",
    tag = "tools",
    params(SandboxPath),
    request_body = RunIPythonCellRequest,
    responses((status = 200, description = "It ended", body = RunIPythonCellResult), JsonErrorAnswers)
)]
pub(crate) async fn run_ipython_cell(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<RunIPythonCellRequest>,
) -> Result<Json<RunIPythonCellResult>, ApiError> {
    let run = request.into_run(&facade.config)?;
    let split = !run.cell.merge_output;
    let pieces = facade
        .control
        .cell(&target.space, &target.name, run.cell)
        .await?;
    let collected = control::collect(pieces, run.output_bytes_max).await?;
    Ok(Json(RunIPythonCellResult::collected(split, collected)?))
}

/// Interrupt the running cell, as Ctrl-C does
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:interrupt_kernel",
    tag = "tools",
    params(SandboxPath),
    request_body = KernelRequest,
    responses((status = 204, description = "The kernel was told"), JsonErrorAnswers)
)]
pub(crate) async fn interrupt_kernel(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<KernelRequest>,
) -> Result<StatusCode, ApiError> {
    let context = request.into_context()?;
    let control = &facade.control;
    control
        .interrupt_kernel(&target.space, &target.name, &context)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forget the state of a kernel; the next cell starts a new one
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:restart_kernel",
    tag = "tools",
    params(SandboxPath),
    request_body = KernelRequest,
    responses((status = 204, description = "Its state is gone"), JsonErrorAnswers)
)]
pub(crate) async fn restart_kernel(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<KernelRequest>,
) -> Result<StatusCode, ApiError> {
    let context = request.into_context()?;
    let control = &facade.control;
    control
        .restart_kernel(&target.space, &target.name, &context)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A text as a stream of one piece.
pub(crate) fn once(text: impl Into<Bytes>) -> PieceStream<Bytes> {
    Box::pin(futures_util::stream::iter([Ok(text.into())]))
}
