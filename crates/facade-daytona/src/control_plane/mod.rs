//! Sandboxes as a whole, snapshots, configuration.

use axum::{Json, Router, routing::get};
use serde_json::{Value, json};

use crate::Facade;

/// The routes below `/api` that need a key.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
}

/// The routes below `/api` that answer everybody.
pub(crate) fn open_routes() -> Router<Facade> {
    Router::new().route("/health", get(health))
}

/// Whether the server is there is no secret.
async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}
