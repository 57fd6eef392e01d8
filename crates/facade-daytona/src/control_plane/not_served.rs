//! The documented part of the protocol that this server does not serve. SDKs
//! get a status and a text that say so; what they list without being asked is
//! an empty list.

use axum::{
    Json, Router,
    extract::OriginalUri,
    routing::{any, get},
};
use serde_json::{Value, json};

use crate::{Facade, error::ApiError};

/// Below `/api`: the first component of the path, and what it is about.
const PARTS: [(&str, &str); 17] = [
    ("admin", "administration by the API"),
    ("api-keys", "managing keys by the API"),
    ("audit", "the audit log"),
    ("docker-registry", "registries with credentials"),
    ("jobs", "the API of runners"),
    ("object-storage", "object storage"),
    ("organizations", "managing organizations"),
    ("regions", "managing regions"),
    ("runners", "the API of runners"),
    ("secret", "secrets"),
    ("shared-regions", "managing regions"),
    ("users", "managing users"),
    ("volumes", "volumes"),
    ("warm-pools", "warm pools"),
    ("webhooks", "webhooks"),
    ("workspace", "the API of workspaces"),
    ("preview", "the API of Daytona's own proxy"),
];

/// The routes.
pub(crate) fn routes() -> Router<Facade> {
    let mut router = Router::new()
        .route("/docker-registry", get(nothing).fallback(refuse))
        .route("/organizations/invitations", get(nothing).fallback(refuse))
        .route("/secret", get(nothing).fallback(refuse))
        .route("/secret/paginated", get(no_page))
        .route("/volumes", get(nothing).fallback(refuse))
        .route("/warm-pools", get(nothing).fallback(refuse))
        .route("/sandbox/{sandbox}/backup", any(refuse))
        .route("/sandbox/{sandbox}/fork", any(refuse))
        .route("/sandbox/{sandbox}/forks", any(refuse))
        .route("/sandbox/{sandbox}/parent", any(refuse))
        .route("/sandbox/{sandbox}/ancestors", any(refuse))
        .route("/sandbox/{sandbox}/secrets", any(refuse))
        .route("/sandbox/{sandbox}/ssh-access", any(refuse))
        .route("/sandbox/ssh-access/validate", any(refuse))
        .route("/sandbox/{sandbox}/telemetry/{*rest}", any(refuse));
    for (first, _) in PARTS {
        let listed = ["docker-registry", "secret", "volumes", "warm-pools"].contains(&first);
        if !listed {
            router = router.route(&format!("/{first}"), any(refuse));
        }
        router = router.route(&format!("/{first}/{{*rest}}"), any(refuse));
    }
    router
}

async fn nothing() -> Json<Value> {
    Json(json!([]))
}

async fn no_page() -> Json<Value> {
    Json(json!({ "items": [], "total": 0, "nextCursor": null }))
}

async fn refuse(OriginalUri(uri): OriginalUri) -> ApiError {
    let path = uri.path().strip_prefix("/api/").unwrap_or_default();
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let what = match (first, rest.split('/').nth(1)) {
        ("sandbox", Some("backup")) => "a backup (archive the sandbox instead)",
        ("sandbox", Some("fork" | "forks" | "parent" | "ancestors")) => {
            "forking (create a snapshot of the sandbox and a sandbox from that instead)"
        }
        ("sandbox", Some("secrets")) => "a secret",
        ("sandbox", Some("telemetry")) => "telemetry over time (the toolbox has current metrics)",
        ("sandbox", _) => "access by SSH (use a terminal session of the toolbox instead)",
        (first, _) => PARTS
            .iter()
            .find(|(part, _)| *part == first)
            .map_or("this part of the protocol", |(_, what)| what),
    };
    ApiError::not_served(what)
}
