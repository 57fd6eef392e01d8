//! Language servers inside the sandbox.

mod connection;
mod convert;
mod framing;
mod language;
mod servers;

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    connection::file_uri,
    convert::Symbol,
    language::Language,
    servers::{Key, Servers},
};
use crate::{
    Facade,
    error::{ApiError, ApiResult},
    extract::{JsonBody, QueryOf},
    target::Target,
};

/// The routes. The servers that they share end with them.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
        .route("/lsp/start", post(start))
        .route("/lsp/stop", post(stop))
        .route("/lsp/did-open", post(did_open))
        .route("/lsp/did-close", post(did_close))
        .route("/lsp/completions", post(completions))
        .route("/lsp/document-symbols", get(document_symbols))
        .route("/lsp/workspacesymbols", get(workspace_symbols))
        // As old SDKs spell it.
        .route("/lsp/workspace-symbols", get(workspace_symbols))
        .layer(Extension(Arc::new(Servers::default())))
}

type All = Extension<Arc<Servers>>;

/// Which server a request is about.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Project {
    language_id: String,
    path_to_project: String,
}

impl Project {
    async fn key(&self, target: &Target) -> ApiResult<Key> {
        let language = Language::named(&self.language_id)?;
        if self.path_to_project.is_empty() {
            return Err(ApiError::bad_request("field `pathToProject` is empty"));
        }
        let project = match self.path_to_project.starts_with('/') {
            true => self.path_to_project.clone(),
            false => below(&workdir(target).await?, &self.path_to_project),
        };
        let project = match project.trim_end_matches('/') {
            "" => "/".to_owned(),
            project => project.to_owned(),
        };
        Ok(Key {
            sandbox: target.sandbox.id.clone(),
            language,
            project,
        })
    }
}

async fn workdir(target: &Target) -> ApiResult<String> {
    let places = target.control.places(target.space(), target.name()).await?;
    Ok(places.workdir)
}

fn below(folder: &str, path: &str) -> String {
    format!("{}/{path}", folder.trim_end_matches('/'))
}

/// The absolute path of a document. One that is not absolute is looked for in
/// the project, then in the working directory: SDKs differ in what they mean.
async fn document(target: &Target, key: &Key, uri: &str) -> ApiResult<String> {
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    let path = path.strip_prefix("./").unwrap_or(path);
    if path.is_empty() {
        return Err(ApiError::bad_request("field `uri` names no file"));
    }
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let in_project = below(&key.project, path);
    let control = &target.control;
    let found = control.stat_file(target.space(), target.name(), &in_project);
    match found.await {
        Ok(_) => Ok(in_project),
        Err(_) => Ok(below(&workdir(target).await?, path)),
    }
}

/// `POST /lsp/start`
async fn start(
    target: Target,
    Extension(servers): All,
    JsonBody(project): JsonBody<Project>,
) -> ApiResult<()> {
    servers.start(&target, &project.key(&target).await?).await
}

/// `POST /lsp/stop`
async fn stop(
    target: Target,
    Extension(servers): All,
    JsonBody(project): JsonBody<Project>,
) -> ApiResult<()> {
    servers.stop(&project.key(&target).await?).await
}

#[derive(Debug, Deserialize)]
struct DocumentBody {
    #[serde(flatten)]
    project: Project,
    uri: String,
}

/// `POST /lsp/did-open`
async fn did_open(
    target: Target,
    Extension(servers): All,
    JsonBody(body): JsonBody<DocumentBody>,
) -> ApiResult<()> {
    let key = body.project.key(&target).await?;
    let path = document(&target, &key, &body.uri).await?;
    servers.open(&key, &path).await
}

/// `POST /lsp/did-close`
async fn did_close(
    target: Target,
    Extension(servers): All,
    JsonBody(body): JsonBody<DocumentBody>,
) -> ApiResult<()> {
    let key = body.project.key(&target).await?;
    let path = document(&target, &key, &body.uri).await?;
    servers.close(&key, &path).await
}

#[derive(Debug, Deserialize)]
struct CompletionBody {
    #[serde(flatten)]
    document: DocumentBody,
    position: Position,
    #[serde(default)]
    context: Option<Value>,
}

/// Where in a document. Old SDKs send numbers with a fraction.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Position {
    line: f64,
    character: f64,
}

impl Position {
    fn checked(self) -> ApiResult<Value> {
        let whole = |number: f64| {
            let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
            // Checked to be a whole number that fits.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked"
            )]
            is_whole.then_some(number as u32)
        };
        match (whole(self.line), whole(self.character)) {
            (Some(line), Some(character)) => Ok(json!({ "line": line, "character": character })),
            _ => Err(ApiError::bad_request(
                "field `position`: line and character are whole numbers from 0 on",
            )),
        }
    }
}

/// `POST /lsp/completions`
async fn completions(
    target: Target,
    Extension(servers): All,
    JsonBody(body): JsonBody<CompletionBody>,
) -> ApiResult<Json<Value>> {
    let position = body.position.checked()?;
    let key = body.document.project.key(&target).await?;
    let path = document(&target, &key, &body.document.uri).await?;
    let server = servers.ready(&key, Some(&path)).await?;
    let mut parameters = json!({
        "textDocument": { "uri": file_uri(&path) },
        "position": position,
    });
    if let Some(context) = body.context.filter(Value::is_object) {
        parameters["context"] = context;
    }
    let answer = server.ask("textDocument/completion", parameters).await?;
    Ok(Json(convert::completions(&answer)))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentQuery {
    language_id: String,
    path_to_project: String,
    uri: String,
}

/// `GET /lsp/document-symbols`
async fn document_symbols(
    target: Target,
    Extension(servers): All,
    QueryOf(query): QueryOf<DocumentQuery>,
) -> ApiResult<Json<Vec<Symbol>>> {
    let project = Project {
        language_id: query.language_id,
        path_to_project: query.path_to_project,
    };
    let key = project.key(&target).await?;
    let path = document(&target, &key, &query.uri).await?;
    let server = servers.ready(&key, Some(&path)).await?;
    let uri = file_uri(&path);
    let parameters = json!({ "textDocument": { "uri": uri } });
    let answer = server
        .ask("textDocument/documentSymbol", parameters)
        .await?;
    Ok(Json(convert::symbols(&answer, &uri)))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WorkspaceQuery {
    language_id: String,
    path_to_project: String,
    #[serde(default)]
    query: String,
}

/// `GET /lsp/workspacesymbols`
async fn workspace_symbols(
    target: Target,
    Extension(servers): All,
    QueryOf(query): QueryOf<WorkspaceQuery>,
) -> ApiResult<Json<Vec<Symbol>>> {
    let project = Project {
        language_id: query.language_id,
        path_to_project: query.path_to_project,
    };
    let key = project.key(&target).await?;
    let server = servers.ready(&key, None).await?;
    let answer = server
        .ask("workspace/symbol", json!({ "query": query.query }))
        .await?;
    Ok(Json(convert::symbols(&answer, &file_uri(&key.project))))
}
