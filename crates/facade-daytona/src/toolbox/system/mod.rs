//! Where things are, what is used, and what listens.

mod metrics;
mod port;

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Facade,
    error::{ApiError, ApiResult},
    extract::JsonBody,
    target::Target,
};

/// The routes.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
        .route("/work-dir", get(work_dir))
        .route("/user-home-dir", get(home_dir))
        // What old SDKs call the project was the home directory.
        .route("/project-dir", get(home_dir))
        .route("/env", post(update_environment))
        .route("/version", get(version))
        .route("/system/metrics", get(metrics::metrics))
        .route("/port", get(port::list))
        .route("/port/{port}/in-use", get(port::is_in_use))
}

#[derive(Debug, Serialize)]
struct Dir {
    dir: String,
}

/// `GET /work-dir`
async fn work_dir(target: Target) -> ApiResult<Json<Dir>> {
    let places = target.control.places(target.space(), target.name()).await?;
    Ok(Json(Dir {
        dir: places.workdir,
    }))
}

/// `GET /user-home-dir`
async fn home_dir(target: Target) -> ApiResult<Json<Dir>> {
    let places = target.control.places(target.space(), target.name()).await?;
    Ok(Json(Dir { dir: places.home }))
}

/// `GET /version`
async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvironmentBody {
    #[serde(default)]
    set: Option<BTreeMap<String, String>>,
    #[serde(default)]
    unset: Option<Vec<String>>,
    #[serde(default)]
    unset_value_prefix: Option<String>,
}

/// `POST /env`: for everything started from now on.
async fn update_environment(
    target: Target,
    JsonBody(body): JsonBody<EnvironmentBody>,
) -> ApiResult<Json<Value>> {
    if body
        .unset_value_prefix
        .is_some_and(|prefix| !prefix.is_empty())
    {
        return Err(ApiError::not_served("`unsetValuePrefix`"));
    }
    let (set, unset) = (body.set.unwrap_or_default(), body.unset.unwrap_or_default());
    target
        .control
        .set_environment(target.space(), target.name(), set, unset)
        .await?;
    Ok(Json(json!({ "message": "environment updated" })))
}
