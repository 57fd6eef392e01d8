//! Sandboxes: create, look, list, pause, resume, stop, start, archive, delete.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};

use crate::{
    Facade,
    error::ApiError,
    extract::{JsonBody, QueryOf, Target, TargetSpace},
    openapi::{ErrorAnswers, JsonErrorAnswers},
    timing::Phases,
    wire::{
        CreateSandboxRequest, EventBody, EventList, EventsQuery, Health, ListQuery, SandboxBody,
        SandboxList, SandboxPath, SpacePath, UsageBody, idempotency_key, renamed,
    },
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Is the server there?
#[utoipa::path(
    get,
    path = "/v1/healthz",
    tag = "server",
    responses((status = 200, description = "It is", body = Health))
)]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Create a sandbox
///
/// When this returns, the sandbox is ready for work.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes",
    tag = "sandboxes",
    params(
        SpacePath,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key with the same request makes one sandbox, however often it is sent within 24 hours"),
    ),
    request_body = CreateSandboxRequest,
    responses(
        (status = 201, description = "Created, or found again by its idempotency key", body = SandboxBody,
            headers(("Idempotent-Replayed" = bool, description = "`true` when an earlier request with the same key had made it"))),
        JsonErrorAnswers,
    )
)]
pub(crate) async fn create_sandbox(
    State(facade): State<Facade>,
    TargetSpace(space): TargetSpace,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CreateSandboxRequest>,
) -> Result<Response, ApiError> {
    let create = request.into_create(space, idempotency_key(&headers)?)?;
    let created = facade.control.create(create).await.map_err(renamed)?;
    let mut response = (
        StatusCode::CREATED,
        Extension(Phases(created.steps)),
        Json(SandboxBody::from(&created.sandbox)),
    )
        .into_response();
    if created.replayed {
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// List the living sandboxes of a space
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/sandboxes",
    tag = "sandboxes",
    params(SpacePath, ListQuery),
    responses((status = 200, description = "The oldest first", body = SandboxList), ErrorAnswers)
)]
pub(crate) async fn list_sandboxes(
    State(facade): State<Facade>,
    TargetSpace(space): TargetSpace,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<SandboxList>, ApiError> {
    let labels = query.labels()?;
    let sandboxes = facade.control.list(&space).await?;
    let matching = sandboxes.iter().filter(|sandbox| {
        let mut wanted = labels.iter();
        wanted.all(|(name, value)| sandbox.labels.get(name) == Some(value))
    });
    Ok(Json(SandboxList {
        sandboxes: matching.map(SandboxBody::from).collect(),
    }))
}

/// Look at a sandbox
///
/// One that ended less than 24 hours ago is a 404 whose `tombstone` says why.
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/sandboxes/{name}",
    tag = "sandboxes",
    params(SandboxPath),
    responses((status = 200, description = "The sandbox", body = SandboxBody), ErrorAnswers)
)]
pub(crate) async fn get_sandbox(
    State(facade): State<Facade>,
    target: Target,
) -> Result<Json<SandboxBody>, ApiError> {
    let sandbox = facade.control.get(&target.space, &target.name).await?;
    Ok(Json(SandboxBody::from(&sandbox)))
}

/// Delete a sandbox with all that is in it
///
/// Deleting one that ended less than 24 hours ago is a success, too.
#[utoipa::path(
    delete,
    path = "/v1/spaces/{space}/sandboxes/{name}",
    tag = "sandboxes",
    params(SandboxPath),
    responses((status = 204, description = "It is gone"), ErrorAnswers)
)]
pub(crate) async fn delete_sandbox(
    State(facade): State<Facade>,
    target: Target,
) -> Result<StatusCode, ApiError> {
    facade.control.delete(&target.space, &target.name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Freeze every process of a sandbox
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/pause",
    tag = "sandboxes",
    params(SandboxPath),
    responses((status = 200, description = "The sandbox, paused", body = SandboxBody), ErrorAnswers)
)]
pub(crate) async fn pause_sandbox(
    State(facade): State<Facade>,
    target: Target,
) -> Result<Json<SandboxBody>, ApiError> {
    let sandbox = facade.control.pause(&target.space, &target.name).await?;
    Ok(Json(SandboxBody::from(&sandbox)))
}

/// Let a paused sandbox run on
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/resume",
    tag = "sandboxes",
    params(SandboxPath),
    responses((status = 200, description = "The sandbox, running", body = SandboxBody), ErrorAnswers)
)]
pub(crate) async fn resume_sandbox(
    State(facade): State<Facade>,
    target: Target,
) -> Result<Json<SandboxBody>, ApiError> {
    let sandbox = facade.control.resume(&target.space, &target.name).await?;
    Ok(Json(SandboxBody::from(&sandbox)))
}

/// End the processes of a sandbox and keep its files
///
/// One whose `delete_after_stop_s` is 0 ends: the answer is then a 404 with its
/// tombstone.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/stop",
    tag = "sandboxes",
    params(SandboxPath),
    responses((status = 200, description = "The sandbox, stopped", body = SandboxBody), ErrorAnswers)
)]
pub(crate) async fn stop_sandbox(
    State(facade): State<Facade>,
    target: Target,
) -> Result<Json<SandboxBody>, ApiError> {
    let control = &facade.control;
    let sandbox = control.stop(&target.space, &target.name).await?;
    if sandbox.tombstone.is_some() {
        // Says that and why it has ended.
        control.get(&target.space, &target.name).await?;
    }
    Ok(Json(SandboxBody::from(&sandbox)))
}

/// Start a stopped or archived sandbox with its files
///
/// When this returns, the sandbox is ready for work. A paused one is resumed.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/start",
    tag = "sandboxes",
    params(SandboxPath),
    responses((status = 200, description = "The sandbox, running", body = SandboxBody), ErrorAnswers)
)]
pub(crate) async fn start_sandbox(
    State(facade): State<Facade>,
    target: Target,
) -> Result<Response, ApiError> {
    let control = &facade.control;
    let started = control.start_again(&target.space, &target.name).await?;
    let body = Json(SandboxBody::from(&started.sandbox));
    Ok((Extension(Phases(started.steps)), body).into_response())
}

/// Pack the files of a stopped sandbox, so that they take little space
///
/// This returns at once; the state is `archiving`, then `archived`.
#[utoipa::path(
    post,
    path = "/v1/spaces/{space}/sandboxes/{name}/archive",
    tag = "sandboxes",
    params(SandboxPath),
    responses((status = 200, description = "The sandbox, being archived", body = SandboxBody), ErrorAnswers)
)]
pub(crate) async fn archive_sandbox(
    State(facade): State<Facade>,
    target: Target,
) -> Result<Json<SandboxBody>, ApiError> {
    let sandbox = facade.control.archive(&target.space, &target.name).await?;
    Ok(Json(SandboxBody::from(&sandbox)))
}

/// What a sandbox uses
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/sandboxes/{name}/usage",
    tag = "sandboxes",
    params(SandboxPath),
    responses((status = 200, description = "Its use now and so far", body = UsageBody), ErrorAnswers)
)]
pub(crate) async fn get_usage(
    State(facade): State<Facade>,
    target: Target,
) -> Result<Json<UsageBody>, ApiError> {
    let usage = facade.control.usage(&target.space, &target.name).await?;
    Ok(Json(usage.into()))
}

/// What happened to a sandbox
#[utoipa::path(
    get,
    path = "/v1/spaces/{space}/sandboxes/{name}/events",
    tag = "sandboxes",
    params(SandboxPath, EventsQuery),
    responses((status = 200, description = "In order", body = EventList), ErrorAnswers)
)]
pub(crate) async fn list_events(
    State(facade): State<Facade>,
    target: Target,
    QueryOf(query): QueryOf<EventsQuery>,
) -> Result<Json<EventList>, ApiError> {
    let control = &facade.control;
    let events = control
        .events(&target.space, &target.name, query.after, query.limit())
        .await?;
    Ok(Json(EventList {
        events: events.into_iter().map(EventBody::from).collect(),
    }))
}
