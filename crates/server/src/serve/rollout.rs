//! `/v1/rollout`: how new sandboxes are divided between this server and the
//! upstream, and what both sides do.

use std::path::Path;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use facade_daytona::{
    rollout::{Rollout, RolloutConfig, Share, StateError, Status},
    upstream::{Upstream, UpstreamConfig, UpstreamKey},
};
use sandbox::Kind;
use serde::Deserialize;

use super::authentication::refusal;
use crate::{config::Config, failure::Failure};

/// The file beside the store that the share is kept in.
const STATE_FILE: &str = "rollout.json";
/// Longest body of a request, bytes.
const BODY_BYTES_MAX: usize = 16 << 10;

/// The real Daytona behind this server, and what is to be made where.
pub(super) struct Sides {
    pub(super) upstream: Upstream,
    pub(super) rollout: Rollout,
}

impl Sides {
    /// As configured; `None` without an upstream.
    pub(super) fn open(config: &Config, store: &Path) -> Result<Option<Self>, Failure> {
        let Some(configured) = &config.rollout else {
            return Ok(None);
        };
        let ca_certificates = match &configured.ca_certificates {
            Some(path) => std::fs::read(path)
                .map_err(Failure::to(format!("cannot read {}", path.display())))?,
            None => Vec::new(),
        };
        let upstream = Upstream::new(UpstreamConfig {
            api_url: configured.upstream_url.clone(),
            key: UpstreamKey::new(configured.upstream_key.reveal())?,
            ca_certificates,
        })?;
        let rollout = Rollout::open(RolloutConfig {
            upstream: upstream.api_url().to_owned(),
            share: configured.share,
            sticky_label: configured.sticky_label.clone(),
            fallback: configured.fallback,
            window: configured.window,
            limits: configured.limits,
            state_file: store.with_file_name(STATE_FILE),
        })
        .map_err(|error| Failure::general(error.to_string()))?;
        Ok(Some(Self { upstream, rollout }))
    }
}

/// The routes; without a rollout they say how to get one.
pub(super) fn routes(rollout: Option<Rollout>) -> Router {
    Router::new()
        .route("/v1/rollout", get(show).put(set))
        .route("/v1/rollout/rollback", post(roll_back))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(rollout)
}

/// Why a request is not done.
struct Refused(StatusCode, Kind, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, kind, message) = self;
        (status, refusal(kind.as_str(), &message)).into_response()
    }
}

/// The rollout, or the answer that there is none.
fn there(rollout: Option<Rollout>) -> Result<Rollout, Refused> {
    rollout.ok_or_else(|| {
        let message = "this server has no upstream, so it makes every sandbox itself; set `rollout.upstream_url` and `rollout.upstream_key_file` to put it in front of a real Daytona";
        Refused(StatusCode::NOT_FOUND, Kind::NotFound, message.to_owned())
    })
}

fn wrong(message: String) -> Refused {
    Refused(StatusCode::BAD_REQUEST, Kind::InvalidRequest, message)
}

fn fault(message: String) -> Refused {
    Refused(StatusCode::INTERNAL_SERVER_ERROR, Kind::Internal, message)
}

async fn show(State(rollout): State<Option<Rollout>>) -> Result<Json<Status>, Refused> {
    Ok(Json(there(rollout)?.status()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBody {
    share: Share,
}

async fn set(State(rollout): State<Option<Rollout>>, body: Bytes) -> Result<Json<Status>, Refused> {
    let rollout = there(rollout)?;
    let body: SetBody = serde_json::from_slice(&body).map_err(|error| {
        wrong(format!(
            "field `share`: a number from 0 to 100 is expected, as in {{\"share\": 50}}: {error}"
        ))
    })?;
    change(rollout, body.share, "set by a client".to_owned()).await
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackBody {
    reason: Option<String>,
}

async fn roll_back(
    State(rollout): State<Option<Rollout>>,
    body: Bytes,
) -> Result<Json<Status>, Refused> {
    let rollout = there(rollout)?;
    let body = match body.is_empty() {
        true => RollbackBody::default(),
        false => serde_json::from_slice(&body).map_err(|error| {
            wrong(format!(
                "a text in the field `reason` is expected, or nothing: {error}"
            ))
        })?,
    };
    let why = body.reason.filter(|reason| !reason.trim().is_empty());
    let why = why.as_deref().unwrap_or("asked for by a client");
    change(rollout, Share::NONE, format!("rolled back: {why}")).await
}

/// Changes the share; that waits for the disk.
async fn change(rollout: Rollout, share: Share, reason: String) -> Result<Json<Status>, Refused> {
    let changed = tokio::task::spawn_blocking(move || rollout.set(share, &reason)).await;
    match changed {
        Ok(Ok(status)) => Ok(Json(status)),
        Ok(Err(error)) => Err(not_kept(&error)),
        Err(_) => Err(fault("a fault in the server".to_owned())),
    }
}

fn not_kept(error: &StateError) -> Refused {
    tracing::error!(%error, "the share was not changed");
    fault(format!("the share was not changed: {error}"))
}
