//! Git's configuration, and credentials kept for later.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::{
    command::{Git, given, line, name},
    credentials::Credentials,
    error,
};
use crate::{
    error::{ApiError, ApiResult},
    extract::{JsonBody, QueryOf},
    target::Target,
};

/// Which configuration: that of the user, of a repository or of the whole sandbox.
#[derive(Debug, Deserialize)]
pub(super) struct Scope {
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    path: Option<String>,
}

impl Scope {
    /// Git with the option that selects it.
    fn git<'a>(&self, target: &'a Target) -> ApiResult<(Git<'a>, &'static str)> {
        match (given(&self.scope).unwrap_or("global"), given(&self.path)) {
            ("global", _) => Ok((Git::new(target), "--global")),
            ("system", _) => Ok((Git::new(target), "--system")),
            ("local", Some(path)) => Ok((Git::at(target, path)?, "--local")),
            ("local", None) => Err(ApiError::bad_request(
                "field `path`: the scope \"local\" needs the path of a repository",
            )),
            (scope, _) => Err(ApiError::bad_request(format!(
                "field `scope`: {scope:?} is none of global, local and system"
            ))),
        }
    }

    async fn set(&self, target: &Target, key: &str, value: &str) -> ApiResult<()> {
        let (git, scope) = self.git(target)?;
        git.run(["config", scope, "--replace-all", name("key", key)?, value])
            .await?;
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ReadQuery {
    key: String,
    #[serde(flatten)]
    scope: Scope,
}

#[derive(Debug, Serialize)]
pub(super) struct Value {
    value: Option<String>,
}

/// `GET /git/config`
pub(super) async fn read(
    target: Target,
    QueryOf(query): QueryOf<ReadQuery>,
) -> ApiResult<Json<Value>> {
    let (git, scope) = query.scope.git(&target)?;
    let said = git
        .ask(["config", scope, "--get", name("key", &query.key)?])
        .await?;
    match (said.code, said.stderr.is_empty()) {
        (0, _) => Ok(Json(Value {
            value: Some(line(&said.stdout)),
        })),
        (1, true) => Ok(Json(Value { value: None })),
        _ => Err(error::failed(&said)),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct WriteBody {
    key: String,
    value: String,
    #[serde(flatten)]
    scope: Scope,
}

/// `POST /git/config`
pub(super) async fn write(target: Target, JsonBody(body): JsonBody<WriteBody>) -> ApiResult<()> {
    body.scope.set(&target, &body.key, &body.value).await
}

#[derive(Debug, Deserialize)]
pub(super) struct UserBody {
    name: String,
    email: String,
    #[serde(flatten)]
    scope: Scope,
}

/// `POST /git/config/user`
pub(super) async fn set_user(target: Target, JsonBody(body): JsonBody<UserBody>) -> ApiResult<()> {
    body.scope.set(&target, "user.name", &body.name).await?;
    body.scope.set(&target, "user.email", &body.email).await
}

#[derive(Deserialize)]
pub(super) struct CredentialsBody {
    username: String,
    password: String,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
}

/// `POST /git/credentials`: keeps a password in the sandbox, in a file of git's
/// that anybody there can read.
pub(super) async fn store_credentials(
    target: Target,
    JsonBody(body): JsonBody<CredentialsBody>,
) -> ApiResult<()> {
    let credentials = Credentials::of(Some(&body.username), Some(&body.password))?;
    let Some(Credentials { username, password }) = credentials else {
        return Ok(());
    };
    let protocol = name("protocol", given(&body.protocol).unwrap_or("https"))?;
    let host = name("host", given(&body.host).unwrap_or("github.com"))?;
    let input =
        format!("protocol={protocol}\nhost={host}\nusername={username}\npassword={password}\n\n");
    Git::new(&target)
        .run([
            "config",
            "--global",
            "--replace-all",
            "credential.helper",
            "store",
        ])
        .await?;
    Git::new(&target)
        .option("credential.helper=")
        .option("credential.helper=store")
        .input(input)
        .run(["credential", "approve"])
        .await?;
    Ok(())
}
