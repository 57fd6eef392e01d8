//! Branches.

use axum::{Json, http::StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    command::{Git, line, name},
    status::PathQuery,
};
use crate::{
    error::ApiResult,
    extract::{JsonBody, QueryOf},
    target::Target,
    toolbox::success,
    version::SdkVersion,
};

#[derive(Debug, Serialize)]
pub(super) struct Branches {
    branches: Vec<String>,
    /// Empty when `HEAD` is on none.
    current: String,
}

/// `GET /git/branches`
pub(super) async fn list(
    target: Target,
    QueryOf(query): QueryOf<PathQuery>,
) -> ApiResult<Json<Branches>> {
    let git = || Git::at(&target, &query.path);
    let arguments = ["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads"];
    let branches = git()?.run(arguments).await?;
    let branches = String::from_utf8_lossy(&branches);
    Ok(Json(Branches {
        branches: branches.lines().map(str::to_owned).collect(),
        current: current(&target, &query.path).await?.unwrap_or_default(),
    }))
}

/// The branch that `HEAD` is on.
pub(super) async fn current(target: &Target, path: &str) -> ApiResult<Option<String>> {
    let arguments = ["symbolic-ref", "--short", "--quiet", "HEAD"];
    let said = Git::at(target, path)?.ask(arguments).await?;
    Ok((said.code == 0).then(|| line(&said.stdout)))
}

#[derive(Debug, Deserialize)]
pub(super) struct BranchBody {
    path: String,
    name: String,
}

/// `POST /git/branches`: makes a branch and changes to it.
pub(super) async fn create(
    target: Target,
    version: SdkVersion,
    JsonBody(body): JsonBody<BranchBody>,
) -> ApiResult<StatusCode> {
    let arguments = ["checkout", "-b", name("name", &body.name)?];
    Git::at(&target, &body.path)?.run(arguments).await?;
    Ok(success::created(version))
}

/// `DELETE /git/branches`
pub(super) async fn remove(
    target: Target,
    version: SdkVersion,
    JsonBody(body): JsonBody<BranchBody>,
) -> ApiResult<StatusCode> {
    let arguments = ["branch", "-D", "--", name("name", &body.name)?];
    Git::at(&target, &body.path)?.run(arguments).await?;
    Ok(success::removed(version))
}

#[derive(Debug, Deserialize)]
pub(super) struct CheckoutBody {
    path: String,
    branch: String,
}

/// `POST /git/checkout`: a branch, here or at a remote, or a commit.
pub(super) async fn checkout(
    target: Target,
    JsonBody(body): JsonBody<CheckoutBody>,
) -> ApiResult<()> {
    // Nothing after the dashes: it is no file.
    let arguments = ["checkout", name("branch", &body.branch)?, "--"];
    Git::at(&target, &body.path)?.run(arguments).await?;
    Ok(())
}
