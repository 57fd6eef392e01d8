//! The documented part of the protocol that this server does not serve: SDKs
//! get a status and a text that say so, and what to do instead where there is
//! something. Lists are empty: there is nothing of the kind.

use axum::{
    Json, Router,
    routing::{any, get},
};
use serde_json::{Value, json};

use crate::{Facade, error::ApiError};

/// Below `/api`: the first component of the path, and what it is about.
const PARTS: [(&str, &str); 16] = [
    ("admin", "administration by the API"),
    ("api-keys", "managing keys by the API"),
    ("audit", "the audit log"),
    ("docker-registry", "registries with credentials"),
    ("jobs", "the API of runners"),
    ("organizations", "managing organizations"),
    ("preview", "the API of Daytona's own proxy"),
    ("regions", "managing regions"),
    ("runners", "the API of runners"),
    ("secret", "secrets"),
    ("shared-regions", "managing regions"),
    ("users", "managing users"),
    ("volumes", "volumes"),
    ("warm-pools", "warm pools"),
    ("webhooks", "webhooks"),
    ("workspace", "the API of workspaces, which became sandboxes"),
];

/// Below `/api/sandbox/{sandbox}`: the rest of the path, and what it is about.
const OF_SANDBOXES: [(&str, &str); 8] = [
    ("backup", "a backup (archive the sandbox instead)"),
    ("fork", FORK),
    ("forks", FORK),
    ("parent", FORK),
    ("ancestors", FORK),
    ("secrets", "secrets"),
    (
        "ssh-access",
        "access by SSH (use a terminal session of the toolbox instead)",
    ),
    (
        "telemetry/{*rest}",
        "telemetry over time (the toolbox has current metrics)",
    ),
];
const FORK: &str = "forking a sandbox (create a snapshot of it and a sandbox from that instead)";

/// Below a toolbox: the first component of the path, and what it is about.
const OF_TOOLBOXES: [(&str, &str); 2] = [
    ("computeruse", "computer use"),
    ("recordings", "recordings of the screen"),
];

/// Below `/api`: what SDKs list.
const LISTS: [&str; 4] = ["docker-registry", "secret", "volumes", "warm-pools"];

/// The routes below `/api`.
pub(crate) fn control_plane() -> Router<Facade> {
    let mut router = parts(&PARTS)
        .route("/secret/paginated", get(no_page))
        .route(
            "/sandbox/ssh-access/validate",
            any(|| refuse("access by SSH")),
        );
    for (rest, what) in OF_SANDBOXES {
        let path = format!("/sandbox/{{sandbox}}/{rest}");
        router = router.route(&path, any(move || refuse(what)));
    }
    router
}

/// The routes below a toolbox.
pub(crate) fn toolbox() -> Router<Facade> {
    parts(&OF_TOOLBOXES)
}

fn parts(parts: &'static [(&str, &str)]) -> Router<Facade> {
    parts.iter().fold(Router::new(), |router, (first, what)| {
        let itself = match LISTS.contains(first) {
            true => get(nothing).fallback(move || refuse(what)),
            false => any(move || refuse(what)),
        };
        router
            .route(&format!("/{first}"), itself)
            .route(&format!("/{first}/{{*rest}}"), any(move || refuse(what)))
    })
}

async fn nothing() -> Json<Value> {
    Json(json!([]))
}

async fn no_page() -> Json<Value> {
    Json(json!({ "items": [], "total": 0, "nextCursor": null }))
}

async fn refuse(what: &str) -> ApiError {
    ApiError::not_served(what)
}
