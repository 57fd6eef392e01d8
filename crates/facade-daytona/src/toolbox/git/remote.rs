//! Remote repositories that a repository knows.

use axum::{Json, http::StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    command::{Git, line, name},
    error,
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
pub(super) struct Remotes {
    remotes: Vec<Remote>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Remote {
    name: String,
    url: String,
}

/// `GET /git/remotes`
pub(super) async fn list(
    target: Target,
    QueryOf(query): QueryOf<PathQuery>,
) -> ApiResult<Json<Remotes>> {
    let git = || Git::at(&target, &query.path);
    // The configuration of the user could be read outside of a repository, too.
    git()?.run(["rev-parse", "--git-dir"]).await?;
    let arguments = ["config", "-z", "--get-regexp", r"^remote\..*\.url$"];
    let said = git()?.ask(arguments).await?;
    match said.code {
        0 | 1 => Ok(Json(Remotes {
            remotes: remotes(&said.stdout),
        })),
        _ => Err(error::failed(&said)),
    }
}

/// Reads `remote.NAME.url`, a line end and the URL, each ended by a NUL. Of
/// several URLs of one remote the first counts.
fn remotes(output: &[u8]) -> Vec<Remote> {
    let text = String::from_utf8_lossy(output);
    let mut remotes: Vec<Remote> = Vec::new();
    for record in text.split('\0') {
        let Some((key, url)) = record.split_once('\n') else {
            continue;
        };
        let name = key
            .strip_prefix("remote.")
            .and_then(|key| key.strip_suffix(".url"));
        if let Some(name) = name
            && remotes.iter().all(|remote| remote.name != name)
        {
            remotes.push(Remote {
                name: name.to_owned(),
                url: url.to_owned(),
            });
        }
    }
    remotes
}

/// The URL of a remote, by its name.
pub(super) async fn url(target: &Target, path: &str, remote: &str) -> ApiResult<Option<String>> {
    let arguments = ["remote", "get-url", "--", remote];
    let said = Git::at(target, path)?.ask(arguments).await?;
    Ok((said.code == 0).then(|| line(&said.stdout)))
}

#[derive(Debug, Deserialize)]
pub(super) struct RemoteBody {
    path: String,
    name: String,
    url: String,
    #[serde(default)]
    fetch: Option<bool>,
    #[serde(default)]
    overwrite: Option<bool>,
}

/// `POST /git/remotes`
pub(super) async fn add(
    target: Target,
    version: SdkVersion,
    JsonBody(body): JsonBody<RemoteBody>,
) -> ApiResult<StatusCode> {
    let (remote, url) = (name("name", &body.name)?, name("url", &body.url)?);
    let git = || Git::at(&target, &body.path);
    let exists = self::url(&target, &body.path, remote).await?.is_some();
    let command = match exists && body.overwrite == Some(true) {
        true => "set-url",
        false => "add",
    };
    git()?.run(["remote", command, "--", remote, url]).await?;
    if body.fetch == Some(true) {
        git()?.transfer(None).run(["fetch", "--", remote]).await?;
    }
    Ok(success::created(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_read_from_the_configuration() {
        let output = b"remote.origin.url\n/srv/a.git\0remote.a.b.url\nhttps://h/\xc3\xbc\0remote.origin.url\nsecond\0";
        let remotes = remotes(output);
        assert_eq!(remotes.len(), 2);
        assert_eq!(
            (remotes[0].name.as_str(), remotes[0].url.as_str()),
            ("origin", "/srv/a.git")
        );
        assert_eq!(
            (remotes[1].name.as_str(), remotes[1].url.as_str()),
            ("a.b", "https://h/ü")
        );
    }
}
