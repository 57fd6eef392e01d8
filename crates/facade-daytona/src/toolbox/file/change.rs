//! Making, removing, moving, and permissions.

use axum::http::StatusCode;
use control::EntryKind;
use sandbox::Kind;
use serde::Deserialize;

use super::{
    error::{file_error, mode, path},
    info::kind,
};
use crate::{
    error::{ApiError, ApiResult},
    extract::QueryOf,
    target::Target,
    toolbox::success,
    version::SdkVersion,
};

#[derive(Debug, Deserialize)]
pub(super) struct FolderQuery {
    path: String,
    mode: Option<String>,
}

/// `POST /files/folder`; one that exists is a success.
pub(super) async fn make_folder(
    target: Target,
    version: SdkVersion,
    QueryOf(query): QueryOf<FolderQuery>,
) -> ApiResult<StatusCode> {
    let path = path("path", &query.path)?;
    let mode = given(query.mode.as_deref()).map(mode).transpose()?;
    target
        .control
        .make_directory(target.space(), target.name(), path, mode)
        .await
        .map_err(file_error)?;
    Ok(success::created(version))
}

#[derive(Debug, Deserialize)]
pub(super) struct RemoveQuery {
    path: String,
    #[serde(default)]
    recursive: bool,
}

/// `DELETE /files`
pub(super) async fn remove(
    target: Target,
    version: SdkVersion,
    QueryOf(query): QueryOf<RemoveQuery>,
) -> ApiResult<StatusCode> {
    let path = path("path", &query.path)?;
    // An empty directory, too: that it is one is easily overlooked.
    if !query.recursive && kind(&target, path).await == Some(EntryKind::Directory) {
        return Err(ApiError::bad_request(format!(
            "{path}: is a directory; set `recursive` to delete it with all that is in it"
        ))
        .with_code("INVALID_FILE_PATH"));
    }
    target
        .control
        .remove_file(target.space(), target.name(), path, query.recursive)
        .await
        .map_err(file_error)?;
    Ok(success::removed(version))
}

#[derive(Debug, Deserialize)]
pub(super) struct MoveQuery {
    source: String,
    destination: String,
}

/// `POST /files/move`; a file takes the place of a file, and of nothing else.
pub(super) async fn rename(target: Target, QueryOf(query): QueryOf<MoveQuery>) -> ApiResult<()> {
    let source = path("source", &query.source)?;
    let destination = path("destination", &query.destination)?;
    let rename = |overwrite| {
        let control = &target.control;
        control.move_file(
            target.space(),
            target.name(),
            source,
            destination,
            overwrite,
        )
    };
    match rename(false).await {
        Ok(_) => return Ok(()),
        Err(error) if error.kind == Kind::AlreadyExists => {}
        Err(error) => return Err(file_error(error)),
    }
    let kinds = (
        kind(&target, source).await,
        kind(&target, destination).await,
    );
    if [kinds.0, kinds.1].contains(&Some(EntryKind::Directory)) {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("{destination}: exists already, and a directory takes no part in replacing"),
        ));
    }
    rename(true).await.map_err(file_error)?;
    Ok(())
}

#[derive(Debug, Deserialize)]
pub(super) struct PermissionsQuery {
    path: String,
    mode: Option<String>,
    owner: Option<String>,
    group: Option<String>,
}

/// `POST /files/permissions`
pub(super) async fn set_permissions(
    target: Target,
    QueryOf(query): QueryOf<PermissionsQuery>,
) -> ApiResult<()> {
    let path = path("path", &query.path)?;
    let mode = given(query.mode.as_deref()).map(mode).transpose()?;
    let (owner, group) = (given(query.owner.as_deref()), given(query.group.as_deref()));
    target
        .control
        .set_permissions(target.space(), target.name(), path, mode, owner, group)
        .await
        .map_err(file_error)?;
    Ok(())
}

/// Parameters that are empty count as absent.
fn given(parameter: Option<&str>) -> Option<&str> {
    parameter.filter(|text| !text.is_empty())
}
