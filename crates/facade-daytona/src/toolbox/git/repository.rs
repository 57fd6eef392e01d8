//! Work on one repository: adding, committing, and going back.

use axum::{Json, http::StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    command::{Git, given, line, name},
    status::PathQuery,
};
use crate::{
    error::{ApiError, ApiResult},
    extract::{JsonBody, QueryOf},
    target::Target,
    toolbox::success,
    version::SdkVersion,
};

/// Commits in one answer, the newest.
const COMMITS_MAX: &str = "10000";

#[derive(Debug, Deserialize)]
pub(super) struct InitBody {
    path: String,
    #[serde(default)]
    bare: Option<bool>,
    #[serde(default)]
    initial_branch: Option<String>,
}

/// `POST /git/init`
pub(super) async fn init(
    target: Target,
    version: SdkVersion,
    JsonBody(body): JsonBody<InitBody>,
) -> ApiResult<StatusCode> {
    let mut arguments = vec!["init".to_owned()];
    if body.bare == Some(true) {
        arguments.push("--bare".to_owned());
    }
    if let Some(branch) = given(&body.initial_branch) {
        arguments.push(format!(
            "--initial-branch={}",
            name("initial_branch", branch)?
        ));
    }
    if body.path.is_empty() {
        return Err(ApiError::bad_request("field `path` is empty"));
    }
    arguments.extend(["--".to_owned(), body.path]);
    Git::new(&target).run(arguments).await?;
    Ok(success::created(version))
}

#[derive(Debug, Deserialize)]
pub(super) struct AddBody {
    path: String,
    files: Vec<String>,
}

/// `POST /git/add`
pub(super) async fn add(target: Target, JsonBody(body): JsonBody<AddBody>) -> ApiResult<()> {
    let arguments = with_files(vec!["add".to_owned()], body.files)?;
    Git::at(&target, &body.path)?.run(arguments).await?;
    Ok(())
}

#[derive(Debug, Deserialize)]
pub(super) struct CommitBody {
    path: String,
    message: String,
    author: String,
    email: String,
    #[serde(default)]
    allow_empty: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct Committed {
    hash: String,
}

/// `POST /git/commit`
pub(super) async fn commit(
    target: Target,
    JsonBody(body): JsonBody<CommitBody>,
) -> ApiResult<Json<Committed>> {
    for (field, text) in [
        ("message", &body.message),
        ("author", &body.author),
        ("email", &body.email),
    ] {
        if text.trim().is_empty() {
            return Err(ApiError::bad_request(format!("field `{field}` is empty")));
        }
    }
    let mut arguments = vec!["commit", "--quiet", "--file=-"];
    if body.allow_empty == Some(true) {
        arguments.push("--allow-empty");
    }
    Git::at(&target, &body.path)?
        .env("GIT_AUTHOR_NAME", &body.author)
        .env("GIT_AUTHOR_EMAIL", &body.email)
        .env("GIT_COMMITTER_NAME", &body.author)
        .env("GIT_COMMITTER_EMAIL", &body.email)
        .input(body.message)
        .run(arguments)
        .await?;
    let hash = Git::at(&target, &body.path)?
        .run(["rev-parse", "HEAD"])
        .await?;
    Ok(Json(Committed { hash: line(&hash) }))
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Commit {
    hash: String,
    author: String,
    email: String,
    message: String,
    timestamp: String,
}

/// `GET /git/history`
pub(super) async fn history(
    target: Target,
    QueryOf(query): QueryOf<PathQuery>,
) -> ApiResult<Json<Vec<Commit>>> {
    let git = || Git::at(&target, &query.path);
    // A repository without a commit has an empty history.
    let head = git()?
        .ask(["rev-parse", "--quiet", "--verify", "HEAD"])
        .await?;
    if head.code == 1 {
        return Ok(Json(Vec::new()));
    }
    let format = "--format=%H%x00%an%x00%ae%x00%aI%x00%B";
    let output = git()?.run(["log", "-z", "-n", COMMITS_MAX, format]).await?;
    Ok(Json(commits(&output)))
}

/// Reads a log of which everything ends with a NUL.
fn commits(log: &[u8]) -> Vec<Commit> {
    let text = String::from_utf8_lossy(log);
    let fields: Vec<&str> = text
        .strip_suffix('\0')
        .unwrap_or(&text)
        .split('\0')
        .collect();
    let commits = fields.chunks_exact(5).map(|commit| Commit {
        hash: commit[0].to_owned(),
        author: commit[1].to_owned(),
        email: commit[2].to_owned(),
        timestamp: commit[3].to_owned(),
        message: commit[4].trim_end().to_owned(),
    });
    commits.collect()
}

#[derive(Debug, Deserialize)]
pub(super) struct ResetBody {
    path: String,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    files: Option<Vec<String>>,
}

/// `POST /git/reset`
pub(super) async fn reset(target: Target, JsonBody(body): JsonBody<ResetBody>) -> ApiResult<()> {
    let files = body.files.unwrap_or_default();
    let revision = given(&body.target)
        .map(|text| name("target", text))
        .transpose()?;
    let mode = given(&body.mode);
    let mut arguments = vec!["reset".to_owned(), "--quiet".to_owned()];
    match mode {
        Some("soft" | "hard" | "merge" | "keep") if !files.is_empty() => {
            return Err(ApiError::bad_request(
                "field `mode`: single `files` can only be reset by the mode \"mixed\"",
            ));
        }
        Some(mode @ ("soft" | "mixed" | "hard" | "merge" | "keep")) if files.is_empty() => {
            arguments.push(format!("--{mode}"));
        }
        None | Some("mixed") => {}
        Some(mode) => {
            return Err(ApiError::bad_request(format!(
                "field `mode`: {mode:?} is none of soft, mixed, hard, merge and keep"
            )));
        }
    }
    arguments.extend(revision.map(str::to_owned));
    match files.is_empty() {
        true => arguments.push("--".to_owned()),
        false => arguments = with_files(arguments, files)?,
    }
    Git::at(&target, &body.path)?.run(arguments).await?;
    Ok(())
}

#[derive(Debug, Deserialize)]
pub(super) struct RestoreBody {
    path: String,
    files: Vec<String>,
    #[serde(default)]
    staged: Option<bool>,
    #[serde(default)]
    worktree: Option<bool>,
    #[serde(default)]
    source: Option<String>,
}

/// `POST /git/restore`
pub(super) async fn restore(
    target: Target,
    JsonBody(body): JsonBody<RestoreBody>,
) -> ApiResult<()> {
    let mut arguments = vec!["restore".to_owned()];
    let wanted = [("--staged", body.staged), ("--worktree", body.worktree)];
    if wanted.iter().all(|(_, is)| *is == Some(false)) {
        return Err(ApiError::bad_request(
            "fields `staged` and `worktree` are both false: there is nothing to restore",
        ));
    }
    let wanted = wanted.iter().filter(|(_, is)| *is == Some(true));
    arguments.extend(wanted.map(|(option, _)| (*option).to_owned()));
    if let Some(source) = given(&body.source) {
        arguments.push(format!("--source={}", name("source", source)?));
    }
    let arguments = with_files(arguments, body.files)?;
    Git::at(&target, &body.path)?.run(arguments).await?;
    Ok(())
}

/// A command for these files, whatever they are called.
fn with_files(mut arguments: Vec<String>, files: Vec<String>) -> ApiResult<Vec<String>> {
    if files.is_empty() || files.iter().any(String::is_empty) {
        return Err(ApiError::bad_request(
            "field `files` must have at least one file, and no empty one",
        ));
    }
    arguments.push("--".to_owned());
    arguments.extend(files);
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_commit_by_commit() {
        let log = "h2|A|a@b|2026-01-02T00:00:00Z|two\n\nlines\n|h1|B|b@c|2026-01-01T00:00:00Z|one|"
            .replace('|', "\0");
        let commits = commits(log.as_bytes());
        assert_eq!(commits.len(), 2);
        assert_eq!(commits[0].message, "two\n\nlines");
        assert_eq!(
            (commits[1].hash.as_str(), commits[1].author.as_str()),
            ("h1", "B")
        );
        assert_eq!(super::commits(b""), []);
    }
}
