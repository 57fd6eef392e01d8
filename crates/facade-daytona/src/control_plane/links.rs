//! URLs: of ports, of the toolbox, of logs of builds.

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use sandbox::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    asked::{Asked, AskedName, Caller, find},
    shown::Shown,
    snapshot,
};
use crate::{
    Facade,
    error::{ApiError, ApiResult},
    extract::QueryOf,
    preview,
};

/// The link of a port. Old SDKs ignore what they do not know of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortLink {
    sandbox_id: String,
    port: u16,
    url: String,
    token: String,
}

/// `GET /sandbox/{sandbox}/ports/{port}/preview-url`.
pub(crate) async fn preview(
    asked: Asked,
    Path((_, port)): Path<(String, String)>,
) -> ApiResult<Json<PortLink>> {
    let port = port_of(&port)?;
    let sandbox_id = asked.sandbox.id.to_string();
    let link = preview::link(&asked.facade, &asked.caller.base, asked.sandbox, port).await?;
    Ok(Json(PortLink {
        sandbox_id,
        port,
        url: link.url,
        token: link.token,
    }))
}

/// The query of a signed URL.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SignedQuery {
    expires_in_seconds: Option<u32>,
}

/// `GET /sandbox/{sandbox}/ports/{port}/signed-preview-url`.
pub(crate) async fn signed_preview(
    asked: Asked,
    Path((_, port)): Path<(String, String)>,
    QueryOf(query): QueryOf<SignedQuery>,
) -> ApiResult<Json<PortLink>> {
    let port = port_of(&port)?;
    let sandbox_id = asked.sandbox.id.to_string();
    let seconds = query.expires_in_seconds;
    let link = preview::sign(
        &asked.facade,
        &asked.caller.base,
        asked.sandbox,
        port,
        seconds,
    );
    let link = link.await?;
    Ok(Json(PortLink {
        sandbox_id,
        port,
        url: link.url,
        token: link.token,
    }))
}

/// `POST /sandbox/{sandbox}/ports/{port}/signed-preview-url/{token}/expire`.
pub(crate) async fn expire_signed_preview(
    asked: Asked,
    Path((_, port, token)): Path<(String, String, String)>,
) -> ApiResult<()> {
    let port = port_of(&port)?;
    preview::revoke(&asked.facade, &asked.sandbox, port, &token).await?;
    Ok(())
}

fn port_of(text: &str) -> ApiResult<u16> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(ApiError::bad_request(format!(
            "{text:?} is not a port from 1 to 65535"
        ))),
    }
}

/// `GET /sandbox/{sandbox}/toolbox-proxy-url`.
pub(crate) async fn toolbox(asked: Asked) -> Json<Value> {
    Json(json!({ "url": asked.caller.base.toolbox() }))
}

/// `GET /sandbox/{sandbox}/build-logs-url`.
pub(crate) async fn build_logs_url(
    State(facade): State<Facade>,
    caller: Caller,
    AskedName(asked): AskedName,
) -> ApiResult<Json<Value>> {
    let id = find(&facade, &asked)?.sandbox.id;
    let url = format!("{}/sandbox/{id}/build-logs", caller.base.api());
    Ok(Json(json!({ "url": url })))
}

/// `GET /snapshots/{snapshot}/build-logs-url`.
pub(crate) async fn snapshot_build_logs_url(
    State(facade): State<Facade>,
    caller: Caller,
    Path(asked): Path<String>,
) -> ApiResult<Json<Value>> {
    let name = snapshot::name_of(&facade, &asked).await?;
    let url = format!(
        "{}/snapshots/{}/build-logs",
        caller.base.api(),
        snapshot::id_of(&name)
    );
    Ok(Json(json!({ "url": url })))
}

/// The query of a log.
#[derive(Debug, Deserialize)]
pub(crate) struct LogQuery {
    follow: Option<bool>,
}

/// `GET /sandbox/{sandbox}/build-logs`.
pub(crate) async fn build_logs(
    State(facade): State<Facade>,
    AskedName(asked): AskedName,
    QueryOf(query): QueryOf<LogQuery>,
) -> ApiResult<Response> {
    let Shown { sandbox, .. } = find(&facade, &asked)?;
    let waited_for = facade.waiting.image_of(&sandbox.id);
    let image = waited_for.unwrap_or(sandbox.image_requested);
    log_of(&facade, &image, query.follow.unwrap_or(false))
}

/// `GET /snapshots/{snapshot}/build-logs`.
pub(crate) async fn snapshot_build_logs(
    State(facade): State<Facade>,
    Path(asked): Path<String>,
    QueryOf(query): QueryOf<LogQuery>,
) -> ApiResult<Response> {
    let name = snapshot::name_of(&facade, &asked).await?;
    log_of(&facade, &name, query.follow.unwrap_or(false))
}

/// What the job for an image has said; nothing when it was made before the
/// server was started, or never had to be made.
fn log_of(facade: &Facade, image: &str, follow: bool) -> ApiResult<Response> {
    let body = match facade.control.image_job_log(image, follow) {
        Ok(log) => Body::from_stream(log),
        Err(error) if error.kind == Kind::NotFound => Body::empty(),
        Err(error) => return Err(error.into()),
    };
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// `GET /config`.
pub(crate) async fn config(State(facade): State<Facade>, caller: Caller) -> Json<Value> {
    let base = &caller.base;
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "oidc": { "issuer": base.0, "clientId": "sandboxai", "audience": "sandboxai" },
        "linkedAccountsEnabled": false,
        "announcements": {},
        "proxyTemplateUrl": format!("{}/preview/{{{{sandboxId}}}}/{{{{PORT}}}}", base.0),
        "proxyToolboxUrl": base.toolbox(),
        "defaultSnapshot": facade.config.image_default,
        "dashboardUrl": base.0,
        "maxAutoArchiveInterval": super::interval::ARCHIVE_MAX,
        // The protocol spells it so.
        "maintananceMode": false,
        "environment": "self-hosted",
    }))
}
