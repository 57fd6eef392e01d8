//! Talking to other repositories: clone, push and pull.

use serde::Deserialize;

use super::{
    branch,
    command::{Git, given, line, name},
    credentials::{Access, Credentials},
    remote,
};
use crate::{
    error::{ApiError, ApiResult},
    extract::JsonBody,
    target::Target,
};

/// The remote that is meant when none is named.
const REMOTE_DEFAULT: &str = "origin";

#[derive(Deserialize)]
pub(super) struct CloneBody {
    url: String,
    path: String,
    #[serde(default)]
    branch: Option<String>,
    #[serde(default, alias = "commitId")]
    commit_id: Option<String>,
    #[serde(default)]
    depth: Option<i64>,
    #[serde(default)]
    insecure_skip_tls: Option<bool>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

/// `POST /git/clone`
pub(super) async fn clone(target: Target, JsonBody(body): JsonBody<CloneBody>) -> ApiResult<()> {
    let url = name("url", &body.url)?;
    if body.path.is_empty() {
        return Err(ApiError::bad_request("field `path` is empty"));
    }
    let credentials = Credentials::of(given(&body.username), given(&body.password))?;
    let access = credentials.and_then(|credentials| credentials.open(url));
    let commit = given(&body.commit_id)
        .map(|commit| name("commit_id", commit))
        .transpose()?;
    let arguments = body.arguments(url, commit)?;
    body.open(Git::new(&target), access.as_ref())
        .run(arguments)
        .await?;
    let Some(commit) = commit else {
        return Ok(());
    };
    let checkout = || async {
        let arguments = ["checkout", "--quiet", "--detach", commit, "--"];
        Git::at(&target, &body.path)?.run(arguments).await
    };
    let mut checked_out = checkout().await;
    if checked_out.is_err() {
        // It may be older than what was cloned, or on no branch.
        let arguments = ["fetch", "--quiet", "--depth=1", REMOTE_DEFAULT, commit];
        let git = body.open(Git::at(&target, &body.path)?, access.as_ref());
        if git.run(arguments).await.is_ok() {
            checked_out = checkout().await;
        }
    }
    if let Err(error) = checked_out {
        // As after any other clone that fails, nothing of it is left.
        let control = &target.control;
        let removed = control.remove_file(target.space(), target.name(), &body.path, true);
        if let Err(error) = removed.await {
            tracing::debug!(%error, "a half-made clone was not removed");
        }
        return Err(error);
    }
    Ok(())
}

impl CloneBody {
    /// Git for the other repository.
    fn open<'a>(&self, git: Git<'a>, access: Option<&Access>) -> Git<'a> {
        match self.insecure_skip_tls {
            Some(true) => git.option("http.sslVerify=false").transfer(access),
            _ => git.transfer(access),
        }
    }

    fn arguments(&self, url: &str, commit: Option<&str>) -> ApiResult<Vec<String>> {
        let mut arguments = vec!["clone".to_owned(), "--quiet".to_owned()];
        if let Some(branch) = given(&self.branch) {
            arguments.push(format!("--branch={}", name("branch", branch)?));
        }
        match self.depth {
            None | Some(0) => {}
            Some(depth) if depth > 0 => arguments.push(format!("--depth={depth}")),
            Some(_) => return Err(ApiError::bad_request("field `depth` must be positive")),
        }
        if commit.is_some() {
            arguments.push("--no-checkout".to_owned());
        }
        arguments.extend(["--".to_owned(), url.to_owned(), self.path.clone()]);
        Ok(arguments)
    }
}

#[derive(Deserialize)]
pub(super) struct TransferBody {
    path: String,
    #[serde(default)]
    branch: Option<String>,
    #[serde(default)]
    remote: Option<String>,
    #[serde(default)]
    set_upstream: Option<bool>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

impl TransferBody {
    /// What opens a remote.
    async fn access(&self, target: &Target, remote: &str) -> ApiResult<Option<Access>> {
        match Credentials::of(given(&self.username), given(&self.password))? {
            Some(credentials) => {
                // The remote may be given by its URL, too.
                let url = remote::url(target, &self.path, remote).await?;
                Ok(credentials.open(url.as_deref().unwrap_or(remote)))
            }
            None => Ok(None),
        }
    }

    fn remote(&self) -> ApiResult<Option<&str>> {
        given(&self.remote)
            .map(|text| name("remote", text))
            .transpose()
    }

    fn branch(&self) -> ApiResult<Option<&str>> {
        given(&self.branch)
            .map(|text| name("branch", text))
            .transpose()
    }
}

/// `POST /git/push`: the branch, or the current one, to the same name at the remote.
pub(super) async fn push(target: Target, JsonBody(body): JsonBody<TransferBody>) -> ApiResult<()> {
    let remote = body.remote()?.unwrap_or(REMOTE_DEFAULT);
    let branch = match body.branch()? {
        Some(branch) => format!("refs/heads/{branch}:refs/heads/{branch}"),
        None => "HEAD".to_owned(),
    };
    let access = body.access(&target, remote).await?;
    let mut arguments = vec!["push", "--quiet"];
    if body.set_upstream == Some(true) {
        arguments.push("--set-upstream");
    }
    arguments.extend(["--", remote, &branch]);
    Git::at(&target, &body.path)?
        .transfer(access.as_ref())
        .run(arguments)
        .await?;
    Ok(())
}

/// `POST /git/pull`: merges the branch, or what the current one follows.
pub(super) async fn pull(target: Target, JsonBody(body): JsonBody<TransferBody>) -> ApiResult<()> {
    let from = match (body.remote()?, body.branch()?) {
        (None, None) => upstream(&target, &body.path).await?,
        (remote, branch) => {
            let remote = remote.unwrap_or(REMOTE_DEFAULT).to_owned();
            let branch = match branch {
                Some(branch) => branch.to_owned(),
                None => current(&target, &body.path).await?,
            };
            (remote, branch)
        }
    };
    let access = body.access(&target, &from.0).await?;
    let arguments = [
        "pull",
        "--quiet",
        "--no-rebase",
        "--no-edit",
        "--",
        &from.0,
        &from.1,
    ];
    Git::at(&target, &body.path)?
        .transfer(access.as_ref())
        .run(arguments)
        .await?;
    Ok(())
}

/// The remote and the branch there that the current branch follows; its own
/// name at the default remote when it follows none.
async fn upstream(target: &Target, path: &str) -> ApiResult<(String, String)> {
    let current = current(target, path).await?;
    let configured = |what: &str| {
        let key = format!("branch.{current}.{what}");
        async move {
            let said = Git::at(target, path)?
                .ask(["config", "--get", &key])
                .await?;
            ApiResult::Ok((said.code == 0).then(|| line(&said.stdout)))
        }
    };
    match (configured("remote").await?, configured("merge").await?) {
        (Some(remote), Some(branch)) => Ok((remote, branch)),
        _ => Ok((REMOTE_DEFAULT.to_owned(), current)),
    }
}

async fn current(target: &Target, path: &str) -> ApiResult<String> {
    // Tells as well that there is no repository at all.
    Git::at(target, path)?
        .run(["rev-parse", "--git-dir"])
        .await?;
    branch::current(target, path).await?.ok_or_else(|| {
        ApiError::bad_request("HEAD is on no branch; name the `branch` that is meant")
            .with_code("GIT_BRANCH_NOT_FOUND")
    })
}
