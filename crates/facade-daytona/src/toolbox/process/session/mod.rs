//! Shell sessions: shells that keep their state from command to command.

pub(super) mod command;
pub(super) mod entrypoint;
pub(super) mod log;
mod output;

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
};
use control::{ProcessInfo, SessionInfo};
use sandbox::Kind;
use serde::{Deserialize, Serialize};

use super::{execute::start_directory, or_not_found};
use crate::{
    error::{ApiError, ApiResult},
    extract::JsonBody,
    target::Target,
    version::SdkVersion,
};

/// Longest name of a session, bytes.
const SESSION_BYTES_MAX: usize = 256;

/// From this version on the SDKs know 201, 202 and 204 of the toolbox; before
/// it, every success is a 200.
const EXACT_STATUS_SINCE: SdkVersion = SdkVersion::new(0, 113);

/// The path of a session.
#[derive(Debug, Deserialize)]
pub(super) struct SessionPath {
    session: String,
}

/// The body of `POST /process/session`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateSession {
    session_id: String,
}

/// A session.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionBody {
    session_id: String,
    commands: Vec<CommandBody>,
}

/// A command of a session; without an exit code it still runs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CommandBody {
    id: String,
    command: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
}

impl From<SessionInfo> for SessionBody {
    fn from(session: SessionInfo) -> Self {
        Self {
            session_id: session.session,
            commands: session.commands.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<ProcessInfo> for CommandBody {
    fn from(process: ProcessInfo) -> Self {
        Self {
            id: process.process.to_string(),
            command: process.command,
            exit_code: process.exit.map(|exit| exit.code),
        }
    }
}

/// `POST /process/session`.
pub(super) async fn create(
    target: Target,
    version: SdkVersion,
    JsonBody(request): JsonBody<CreateSession>,
) -> ApiResult<StatusCode> {
    let session = request.session_id;
    if session.trim().is_empty() || session.len() > SESSION_BYTES_MAX {
        return Err(ApiError::bad_request(format!(
            "field `sessionId`: give a name of 1 to {SESSION_BYTES_MAX} bytes"
        )));
    }
    if session == entrypoint::SESSION {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "field `sessionId`: `entrypoint` is the session of the image's own program; take another name",
        ));
    }
    let cwd = start_directory(&target, version, None).await?;
    target
        .control
        .open_session(
            target.space(),
            target.name(),
            &session,
            cwd.as_deref(),
            BTreeMap::new(),
        )
        .await
        .map_err(|error| match error.kind {
            Kind::AlreadyExists => ApiError::new(
                StatusCode::CONFLICT,
                format!("session already exists: `{session}`; delete it first, or use it"),
            ),
            _ => error.into(),
        })?;
    Ok(exact(version, StatusCode::CREATED))
}

/// `GET /process/session`.
pub(super) async fn list(target: Target) -> ApiResult<Json<Vec<SessionBody>>> {
    let sessions = target
        .control
        .sessions(target.space(), target.name())
        .await?;
    Ok(Json(sessions.into_iter().map(Into::into).collect()))
}

/// `GET /process/session/{session}`.
pub(super) async fn get(
    target: Target,
    path: Result<Path<SessionPath>, PathRejection>,
) -> ApiResult<Json<SessionBody>> {
    let Path(path) = path.map_err(bad_path)?;
    Ok(Json(find(&target, &path.session).await?.into()))
}

/// `DELETE /process/session/{session}`: ends all its processes.
pub(super) async fn delete(
    target: Target,
    version: SdkVersion,
    path: Result<Path<SessionPath>, PathRejection>,
) -> ApiResult<StatusCode> {
    let Path(path) = path.map_err(bad_path)?;
    target
        .control
        .close_session(target.space(), target.name(), &path.session)
        .await
        .map_err(|error| or_not_found(error, || absent(&path.session)))?;
    Ok(exact(version, StatusCode::NO_CONTENT))
}

/// A session by its name.
async fn find(target: &Target, session: &str) -> ApiResult<SessionInfo> {
    let sessions = target
        .control
        .sessions(target.space(), target.name())
        .await?;
    let found = sessions.into_iter().find(|info| info.session == session);
    found.ok_or_else(|| absent(session))
}

/// Callers look for the words "session" and "not found".
fn absent(session: &str) -> ApiError {
    ApiError::not_found(format!(
        "session not found: `{session}`; sessions end with the sandbox's processes, create it again"
    ))
}

fn bad_path(rejection: PathRejection) -> ApiError {
    ApiError::bad_request(rejection.body_text())
}

/// The status as the caller's SDK expects it.
fn exact(version: SdkVersion, status: StatusCode) -> StatusCode {
    match version >= EXACT_STATUS_SINCE {
        true => status,
        false => StatusCode::OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_sdks_get_200() {
        let of = |minor| exact(SdkVersion::new(0, minor), StatusCode::NO_CONTENT);
        assert_eq!(of(21), StatusCode::OK);
        assert_eq!(of(112), StatusCode::OK);
        assert_eq!(of(115), StatusCode::NO_CONTENT);
        assert_eq!(
            exact(SdkVersion::NEWEST, StatusCode::ACCEPTED),
            StatusCode::ACCEPTED
        );
    }
}
