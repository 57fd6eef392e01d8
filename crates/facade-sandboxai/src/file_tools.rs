//! Work on files as JSON tools, in the form that language models call.

use axum::{Json, extract::State, http::StatusCode};
use futures_util::StreamExt;

use crate::{
    Facade,
    error::ApiError,
    extract::{JsonBody, Target},
    openapi::JsonErrorAnswers,
    tools::once,
    wire::{
        EntryBody, FileList, ListFilesRequest, MakeDirectoryRequest, MoveFileRequest, PathRequest,
        ReadFileRequest, ReadFileResult, RemoveFileRequest, SandboxPath, SetPermissionsRequest,
        WriteFileRequest,
    },
};

/// List a directory
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:list_files",
    tag = "files",
    params(SandboxPath),
    request_body = ListFilesRequest,
    responses((status = 200, description = "Its entries", body = FileList), JsonErrorAnswers)
)]
pub(crate) async fn list_files(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<ListFilesRequest>,
) -> Result<Json<FileList>, ApiError> {
    let (path, depth, limit) = request.checked()?;
    let listing = facade
        .control
        .list_files(&target.space, &target.name, &path, depth, limit)
        .await?;
    Ok(Json(listing.into()))
}

/// Look at one file, directory or link
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:stat_file",
    tag = "files",
    params(SandboxPath),
    request_body = PathRequest,
    responses((status = 200, description = "What is there; a link is not followed", body = EntryBody), JsonErrorAnswers)
)]
pub(crate) async fn stat_file(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<PathRequest>,
) -> Result<Json<EntryBody>, ApiError> {
    let path = request.into_path()?;
    let control = &facade.control;
    let entry = control
        .stat_file(&target.space, &target.name, &path)
        .await?;
    Ok(Json(entry.into()))
}

/// Make a directory and its parents
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:make_directory",
    tag = "files",
    params(SandboxPath),
    request_body = MakeDirectoryRequest,
    responses((status = 200, description = "It is there", body = EntryBody), JsonErrorAnswers)
)]
pub(crate) async fn make_directory(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<MakeDirectoryRequest>,
) -> Result<Json<EntryBody>, ApiError> {
    let (path, mode) = request.checked()?;
    let entry = facade
        .control
        .make_directory(&target.space, &target.name, &path, mode)
        .await?;
    Ok(Json(entry.into()))
}

/// Rename a file or directory
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:move_file",
    tag = "files",
    params(SandboxPath),
    request_body = MoveFileRequest,
    responses((status = 200, description = "It is at its new place", body = EntryBody), JsonErrorAnswers)
)]
pub(crate) async fn move_file(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<MoveFileRequest>,
) -> Result<Json<EntryBody>, ApiError> {
    let (source, destination, overwrite) = request.checked()?;
    let entry = facade
        .control
        .move_file(
            &target.space,
            &target.name,
            &source,
            &destination,
            overwrite,
        )
        .await?;
    Ok(Json(entry.into()))
}

/// Remove a file, or a tree
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:remove_file",
    tag = "files",
    params(SandboxPath),
    request_body = RemoveFileRequest,
    responses((status = 204, description = "Removed"), JsonErrorAnswers)
)]
pub(crate) async fn remove_file(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<RemoveFileRequest>,
) -> Result<StatusCode, ApiError> {
    let (path, recursive) = request.checked()?;
    facade
        .control
        .remove_file(&target.space, &target.name, &path, recursive)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change permissions and owner
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:set_permissions",
    tag = "files",
    params(SandboxPath),
    request_body = SetPermissionsRequest,
    responses((status = 200, description = "Changed", body = EntryBody), JsonErrorAnswers)
)]
pub(crate) async fn set_permissions(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<SetPermissionsRequest>,
) -> Result<Json<EntryBody>, ApiError> {
    let (path, mode) = request.checked()?;
    let (owner, group) = (request.owner.as_deref(), request.group.as_deref());
    let entry = facade
        .control
        .set_permissions(&target.space, &target.name, &path, mode, owner, group)
        .await?;
    Ok(Json(entry.into()))
}

/// Read a small file
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:read_file",
    tag = "files",
    params(SandboxPath),
    request_body = ReadFileRequest,
    responses((status = 200, description = "Its content", body = ReadFileResult), JsonErrorAnswers)
)]
pub(crate) async fn read_small_file(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<ReadFileRequest>,
) -> Result<Json<ReadFileResult>, ApiError> {
    let (path, offset, length) = request.checked()?;
    // One more than wanted: whether it comes tells if the file goes on.
    let wanted = Some(length.saturating_add(1));
    let mut read = facade
        .control
        .read_file(&target.space, &target.name, &path, offset, wanted)
        .await?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut content = Vec::new();
    while content.len() <= length {
        let Some(piece) = read.content.next().await else {
            break;
        };
        content.extend_from_slice(&piece?);
    }
    let truncated = content.len() > length;
    content.truncate(length);
    Ok(Json(ReadFileResult::new(read.entry, content, truncated)))
}

/// Write a small file
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/tools:write_file",
    tag = "files",
    params(SandboxPath),
    request_body = WriteFileRequest,
    responses((status = 200, description = "Written", body = EntryBody), JsonErrorAnswers)
)]
pub(crate) async fn write_small_file(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<WriteFileRequest>,
) -> Result<Json<EntryBody>, ApiError> {
    let write = request.checked()?;
    let content = once(write.content);
    let entry = facade
        .control
        .write_file(
            &target.space,
            &target.name,
            &write.path,
            write.mode,
            write.append,
            content,
        )
        .await?;
    Ok(Json(entry.into()))
}
