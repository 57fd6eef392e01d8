//! Looking for files and texts in them, and replacing texts.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::error::{file_error, path};
use crate::{
    error::{ApiError, ApiResult},
    extract::{JsonBody, QueryOf},
    target::Target,
};

/// Lines in one answer.
const MATCHES_MAX: u64 = 10_000;
/// Files in one answer.
const FILES_MAX: u64 = 100_000;

#[derive(Debug, Deserialize)]
pub(super) struct SearchQuery {
    path: String,
    pattern: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Match {
    file: String,
    line: u64,
    content: String,
}

/// `GET /files/find`: lines that contain a text.
pub(super) async fn find(
    target: Target,
    QueryOf(query): QueryOf<SearchQuery>,
) -> ApiResult<Json<Vec<Match>>> {
    let (path, pattern) = query.checked()?;
    let matches = target
        .control
        .grep(target.space(), target.name(), path, pattern, MATCHES_MAX)
        .await
        .map_err(file_error)?;
    let matches = matches.into_iter().map(|found| Match {
        file: found.path,
        line: found.line,
        content: found.text,
    });
    Ok(Json(matches.collect()))
}

#[derive(Debug, Serialize)]
pub(super) struct Found {
    files: Vec<String>,
}

/// `GET /files/search`: files by their names.
pub(super) async fn search(
    target: Target,
    QueryOf(query): QueryOf<SearchQuery>,
) -> ApiResult<Json<Found>> {
    let (path, pattern) = query.checked()?;
    let entries = target
        .control
        .glob(target.space(), target.name(), path, pattern, FILES_MAX)
        .await
        .map_err(file_error)?;
    let files = entries.into_iter().map(|entry| entry.path).collect();
    Ok(Json(Found { files }))
}

impl SearchQuery {
    fn checked(&self) -> ApiResult<(&str, &str)> {
        if self.pattern.is_empty() {
            return Err(ApiError::bad_request("parameter `pattern` is empty"));
        }
        Ok((path("path", &self.path)?, &self.pattern))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReplaceBody {
    files: Vec<String>,
    pattern: String,
    new_value: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Replaced {
    file: String,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `POST /files/replace`
pub(super) async fn replace(
    target: Target,
    JsonBody(body): JsonBody<ReplaceBody>,
) -> ApiResult<Json<Vec<Replaced>>> {
    if body.pattern.is_empty() {
        return Err(ApiError::bad_request("field `pattern` is empty"));
    }
    let ReplaceBody {
        files,
        pattern,
        new_value,
    } = body;
    let outcomes = target
        .control
        .replace(target.space(), target.name(), files, &pattern, &new_value)
        .await
        .map_err(file_error)?;
    let outcomes = outcomes.into_iter().map(|outcome| Replaced {
        file: outcome.path,
        success: outcome.failure.is_none(),
        error: outcome.failure.map(|failure| failure.message),
    });
    Ok(Json(outcomes.collect()))
}
