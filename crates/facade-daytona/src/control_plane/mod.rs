//! Sandboxes as a whole, snapshots, configuration.

mod asked;
mod create;
mod dockerfile;
mod interval;
mod lifecycle;
mod links;
mod list;
mod settings;
mod shown;
mod snapshot;
#[cfg(test)]
mod tests;
mod waiting;

use axum::{
    Json, Router,
    routing::{get, post, put},
};
use serde_json::{Value, json};

pub(crate) use self::{
    asked::Caller,
    shown::{SandboxDto, Shown, word_of},
    snapshot::Begun,
    waiting::{Waiting, WaitingChange},
};
use crate::Facade;

/// The routes below `/api` that need a key.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
        .merge(sandboxes())
        .merge(snapshots())
        .route("/config", get(links::config))
}

/// The routes below `/api` that answer everybody.
pub(crate) fn open_routes() -> Router<Facade> {
    Router::new().route("/health", get(health))
}

fn sandboxes() -> Router<Facade> {
    let of_one = Router::new()
        .route("/", get(lifecycle::get).delete(lifecycle::delete))
        .route("/start", post(lifecycle::start))
        .route("/stop", post(lifecycle::stop))
        .route("/pause", post(lifecycle::pause))
        .route("/archive", post(lifecycle::archive))
        .route("/recover", post(lifecycle::recover))
        .route("/resize", post(lifecycle::resize))
        .route("/snapshot", post(lifecycle::snapshot))
        .route("/labels", put(lifecycle::set_labels))
        .route("/autostop/{minutes}", post(settings::auto_stop))
        .route("/autopause/{minutes}", post(settings::auto_pause))
        .route("/autoarchive/{minutes}", post(settings::auto_archive))
        .route("/autodelete/{minutes}", post(settings::auto_delete))
        .route("/ttl/{minutes}", post(settings::time_to_live))
        .route("/public/{public}", post(settings::set_public))
        .route("/last-activity", post(settings::refresh_activity))
        .route("/network-settings", post(settings::network))
        .route("/signing-key", get(settings::signing_key))
        .route("/signing-key/rotate", post(settings::rotate_signing_key))
        .route("/ports/{port}/preview-url", get(links::preview))
        .route(
            "/ports/{port}/signed-preview-url",
            get(links::signed_preview),
        )
        .route(
            "/ports/{port}/signed-preview-url/{token}/expire",
            post(links::expire_signed_preview),
        )
        .route("/toolbox-proxy-url", get(links::toolbox))
        .route("/build-logs", get(links::build_logs))
        .route("/build-logs-url", get(links::build_logs_url));
    Router::new()
        .route("/sandbox", get(list::list).post(create::create))
        .route("/sandbox/paginated", get(list::paginated))
        .nest("/sandbox/{sandbox}", of_one)
}

fn snapshots() -> Router<Facade> {
    let of_one = Router::new()
        .route("/", get(snapshot::get).delete(snapshot::delete))
        .route("/activate", post(snapshot::activate))
        .route("/deactivate", post(snapshot::deactivate))
        .route("/build-logs", get(links::snapshot_build_logs))
        .route("/build-logs-url", get(links::snapshot_build_logs_url));
    Router::new()
        .route("/snapshots", get(snapshot::list).post(snapshot::create))
        .nest("/snapshots/{snapshot}", of_one)
}

/// Whether the server is there is no secret.
async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}
