//! What can be changed about a sandbox without touching its processes.

use axum::{Json, extract::Path, http::StatusCode};
use sandbox::{Lease, NetworkMode};
use serde::Deserialize;

use super::{asked::Asked, interval, shown::SandboxDto};
use crate::{
    annotation,
    error::{ApiError, ApiResult},
    extract::JsonBody,
    token,
};

/// The path of a setter: the sandbox and a number of minutes.
type Minutes = Path<(String, i64)>;

/// `POST /sandbox/{sandbox}/autostop/{minutes}`.
pub(crate) async fn auto_stop(
    asked: Asked,
    Path((_, minutes)): Minutes,
) -> ApiResult<Json<SandboxDto>> {
    let idle = interval::idle("autoStopInterval", minutes)?;
    set_lease(asked, |lease| lease.stop_after_idle = idle).await
}

/// `POST /sandbox/{sandbox}/autopause/{minutes}`.
pub(crate) async fn auto_pause(
    asked: Asked,
    Path((_, minutes)): Minutes,
) -> ApiResult<Json<SandboxDto>> {
    let idle = interval::idle("autoPauseInterval", minutes)?;
    set_lease(asked, |lease| lease.pause_after_idle = idle).await
}

/// `POST /sandbox/{sandbox}/autoarchive/{minutes}`.
pub(crate) async fn auto_archive(
    asked: Asked,
    Path((_, minutes)): Minutes,
) -> ApiResult<Json<SandboxDto>> {
    let after = interval::archive(minutes)?;
    set_lease(asked, |lease| lease.archive_after_stop = after).await
}

/// `POST /sandbox/{sandbox}/autodelete/{minutes}`.
pub(crate) async fn auto_delete(
    asked: Asked,
    Path((_, minutes)): Minutes,
) -> ApiResult<Json<SandboxDto>> {
    let after = interval::delete(minutes)?;
    set_lease(asked, |lease| lease.delete_after_stop = after).await
}

/// `POST /sandbox/{sandbox}/ttl/{minutes}`: counted from the creation on.
pub(crate) async fn time_to_live(
    asked: Asked,
    Path((_, minutes)): Minutes,
) -> ApiResult<Json<SandboxDto>> {
    let lifetime = interval::idle("ttlMinutes", minutes)?;
    set_lease(asked, |lease| lease.lifetime_max = lifetime).await
}

async fn set_lease(asked: Asked, change: impl FnOnce(&mut Lease)) -> ApiResult<Json<SandboxDto>> {
    let mut lease = asked.sandbox.spec.lease;
    change(&mut lease);
    interval::check_together(&lease)?;
    let leased = asked
        .control()
        .set_lease(asked.space(), asked.name(), lease);
    Ok(asked.caller.tell(leased.await?))
}

/// `POST /sandbox/{sandbox}/public/{public}`.
pub(crate) async fn set_public(
    asked: Asked,
    Path((_, public)): Path<(String, bool)>,
) -> ApiResult<Json<SandboxDto>> {
    let changed = asked.annotate(annotation::PUBLIC, public.to_string());
    Ok(asked.caller.tell(changed.await?))
}

/// `POST /sandbox/{sandbox}/last-activity`.
pub(crate) async fn refresh_activity(asked: Asked) -> ApiResult<StatusCode> {
    asked.control().touch(asked.space(), asked.name())?;
    Ok(StatusCode::CREATED)
}

/// The body of `network-settings`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NetworkBody {
    network_block_all: Option<bool>,
    network_allow_list: Option<String>,
    domain_allow_list: Option<String>,
}

/// `POST /sandbox/{sandbox}/network-settings`: what a sandbox can reach is
/// decided when it is made.
pub(crate) async fn network(
    asked: Asked,
    JsonBody(body): JsonBody<NetworkBody>,
) -> ApiResult<Json<SandboxDto>> {
    let listed = |list: &Option<String>| list.as_ref().is_some_and(|list| !list.is_empty());
    let blocked = asked.sandbox.spec.network == NetworkMode::None;
    let same = body.network_block_all.is_none_or(|block| block == blocked);
    if !same || listed(&body.network_allow_list) || listed(&body.domain_allow_list) {
        return Err(ApiError::not_served(
            "changing the network of a sandbox that exists (give `networkBlockAll` when it is created)",
        ));
    }
    Ok(asked.caller.tell(asked.sandbox))
}

/// `GET /sandbox/{sandbox}/signing-key`: the key that signs URLs of files.
pub(crate) async fn signing_key(asked: Asked) -> ApiResult<Json<String>> {
    let key = asked.annotation_or(annotation::SIGNING_KEY, token::random);
    Ok(Json(key.await?))
}

/// `POST /sandbox/{sandbox}/signing-key/rotate`: URLs signed before are void.
pub(crate) async fn rotate_signing_key(asked: Asked) -> ApiResult<Json<String>> {
    let key = token::random()?;
    asked.annotate(annotation::SIGNING_KEY, key.clone()).await?;
    Ok(Json(key))
}
