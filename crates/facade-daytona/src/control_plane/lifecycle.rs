//! Getting, starting, stopping, archiving, resizing and deleting a sandbox.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use control::Resize;
use sandbox::{Kind, State as LifeState};
use serde::Deserialize;

use super::{
    asked::{Asked, AskedName, Caller, find},
    create::{cpu_millis, memory_bytes},
    shown::{self, SandboxDto},
};
use crate::{
    Facade, annotation,
    error::{ApiError, ApiResult},
    extract::JsonBody,
    timing::Phases,
};

/// `GET /sandbox/{sandbox}`.
pub(crate) async fn get(
    State(facade): State<Facade>,
    caller: Caller,
    AskedName(asked): AskedName,
) -> ApiResult<Json<SandboxDto>> {
    Ok(caller.tell(find(&facade, &asked)?))
}

/// `DELETE /sandbox/{sandbox}`: answered when nothing of it is left.
pub(crate) async fn delete(
    State(facade): State<Facade>,
    caller: Caller,
    AskedName(asked): AskedName,
) -> ApiResult<Json<SandboxDto>> {
    let mut shown = find(&facade, &asked)?;
    let waited = facade.waiting.give_up(&shown.sandbox.id);
    let sandbox = &shown.sandbox;
    match facade.control.delete(&sandbox.space, &sandbox.name).await {
        Err(error) if !(waited && error.kind == Kind::NotFound) => return Err(error.into()),
        _ => {}
    }
    shown.waits = None;
    shown.sandbox.state = LifeState::Gone;
    Ok(caller.tell(shown))
}

/// `POST /sandbox/{sandbox}/start`.
pub(crate) async fn start(asked: Asked) -> ApiResult<Response> {
    let started = asked.control().start_again(asked.space(), asked.name());
    let started = started.await?;
    let told = asked.caller.tell(started.sandbox);
    Ok((Extension(Phases(started.steps)), told).into_response())
}

/// `POST /sandbox/{sandbox}/recover`: starts a sandbox that a fault has stopped.
pub(crate) async fn recover(asked: Asked) -> ApiResult<Response> {
    if shown::is_recoverable(&asked.sandbox) {
        return start(asked).await;
    }
    Err(ApiError::bad_request(format!(
        "sandbox {} is {} and not in an error; start it if it is not running",
        asked.sandbox.name,
        shown::word_of(asked.sandbox.state, asked.caller.version)
    )))
}

/// `POST /sandbox/{sandbox}/stop`. It makes no difference by `force`: processes
/// have no say in it.
pub(crate) async fn stop(asked: Asked) -> ApiResult<Json<SandboxDto>> {
    let stopped = asked.control().stop(asked.space(), asked.name()).await?;
    Ok(asked.caller.tell(stopped))
}

/// `POST /sandbox/{sandbox}/pause`.
pub(crate) async fn pause(asked: Asked) -> ApiResult<Json<SandboxDto>> {
    let paused = asked.control().pause(asked.space(), asked.name()).await?;
    Ok(asked.caller.tell(paused))
}

/// `POST /sandbox/{sandbox}/archive`: answered when it has begun.
pub(crate) async fn archive(asked: Asked) -> ApiResult<Json<SandboxDto>> {
    let archived = asked.control().archive(asked.space(), asked.name());
    Ok(asked.caller.tell(archived.await?))
}

/// The body of `resize`.
#[derive(Debug, Deserialize)]
pub(crate) struct ResizeBody {
    cpu: Option<f64>,
    memory: Option<f64>,
    disk: Option<u64>,
}

/// `POST /sandbox/{sandbox}/resize`.
pub(crate) async fn resize(
    asked: Asked,
    JsonBody(body): JsonBody<ResizeBody>,
) -> ApiResult<Json<SandboxDto>> {
    let resize = Resize {
        cpu_millis: body.cpu.map(cpu_millis).transpose()?,
        memory_bytes: body.memory.map(memory_bytes).transpose()?,
        pids: None,
    };
    if body.disk.is_none() && resize == Resize::default() {
        return Err(ApiError::bad_request(
            "give at least one of `cpu`, `memory` and `disk`",
        ));
    }
    check_grows(&asked, &resize)?;
    let disk = body
        .disk
        .filter(|gib| *gib != shown::disk_gib(&asked.sandbox));
    if let Some(gib) = disk {
        check_disk(&asked, gib)?;
    }
    let mut sandbox = asked.sandbox.clone();
    if resize != Resize::default() {
        let resized = asked.control().resize(asked.space(), asked.name(), resize);
        sandbox = resized.await?;
    }
    if let Some(gib) = disk {
        sandbox = asked
            .annotate(annotation::DISK_GIB, gib.to_string())
            .await?;
    }
    Ok(asked.caller.tell(sandbox))
}

/// While it runs, a sandbox gets no less than its processes count on.
fn check_grows(asked: &Asked, resize: &Resize) -> ApiResult<()> {
    let now = asked.sandbox.spec.limits;
    let less_memory = resize
        .memory_bytes
        .is_some_and(|bytes| bytes < now.memory_bytes);
    let less_cpu = resize
        .cpu_millis
        .is_some_and(|millis| millis < now.cpu_millis);
    let runs = matches!(asked.sandbox.state, LifeState::Running | LifeState::Paused);
    match runs && (less_memory || less_cpu) {
        false => Ok(()),
        true => Err(ApiError::bad_request(
            "fields `cpu` and `memory` can only grow while the sandbox runs; stop it to give it less",
        )),
    }
}

/// Disks only grow, and only while nothing uses them.
fn check_disk(asked: &Asked, gib: u64) -> ApiResult<()> {
    let now = shown::disk_gib(&asked.sandbox);
    if gib < now {
        return Err(ApiError::bad_request(format!(
            "field `disk`: {gib} GiB is less than the {now} GiB that it has; a disk can only grow"
        )));
    }
    match asked.sandbox.state {
        LifeState::Stopped => Ok(()),
        state => Err(ApiError::bad_request(format!(
            "field `disk`: the sandbox is {}; stop it first",
            shown::word_of(state, asked.caller.version)
        ))),
    }
}

/// The body of `snapshot`.
#[derive(Debug, Deserialize)]
pub(crate) struct SnapshotBody {
    name: String,
}

/// `POST /sandbox/{sandbox}/snapshot`: answered when the snapshot is there.
pub(crate) async fn snapshot(
    asked: Asked,
    JsonBody(body): JsonBody<SnapshotBody>,
) -> ApiResult<Json<SandboxDto>> {
    let commit = asked
        .control()
        .commit_image(asked.space(), asked.name(), &body.name);
    commit.await?;
    let sandbox = asked.control().get(asked.space(), asked.name()).await?;
    Ok(asked.caller.tell(sandbox))
}

/// The body of `labels`.
#[derive(Debug, Deserialize, serde::Serialize)]
pub(crate) struct Labels {
    labels: BTreeMap<String, String>,
}

/// `PUT /sandbox/{sandbox}/labels`.
pub(crate) async fn set_labels(
    asked: Asked,
    JsonBody(body): JsonBody<Labels>,
) -> ApiResult<Json<Labels>> {
    let labelled = asked
        .control()
        .set_labels(asked.space(), asked.name(), body.labels);
    Ok(Json(Labels {
        labels: labelled.await?.labels,
    }))
}
