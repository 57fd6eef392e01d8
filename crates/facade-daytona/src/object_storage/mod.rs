//! A small object storage, for the one thing that SDKs store: the files of the
//! caller that an image is built with, as `{organization}/{hash}/context.tar`.
//!
//! It speaks the part of S3 that the clients inside the SDKs use: path-style
//! addresses, `ListObjectsV2`, `HEAD`, `PUT` and multipart uploads. Access is by
//! the session token that `GET /object-storage/push-access` gives out, which
//! every such client sends with each request; the signature beside it would
//! prove the same and is not looked at.

mod chunked;
mod store;
mod xml;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use serde::Deserialize;
use serde_json::json;

pub(crate) use self::store::ContextStore;
use self::store::{Key, Stored};
use crate::{Facade, base_url::BaseUrl, error::ApiResult, token};

/// The one bucket.
const BUCKET: &str = "contexts";
/// The one organization, as the first part of every key.
pub(crate) const ORGANIZATION: &str = "default";
/// How long a session token gives access.
const SESSION_TTL: Duration = Duration::from_secs(3600);
/// Session tokens at once; the oldest goes first.
const SESSIONS_MAX: usize = 1000;
/// Longest XML of a request, bytes: 10,000 parts.
const XML_BYTES_MAX: usize = 2 << 20;

/// The session tokens that were given out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions(Arc<Mutex<VecDeque<(String, Instant)>>>);

impl Sessions {
    fn add(&self) -> ApiResult<String> {
        let token = token::random()?;
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while sessions.len() >= SESSIONS_MAX {
            sessions.pop_front();
        }
        sessions.push_back((token.clone(), Instant::now()));
        Ok(token)
    }

    fn contain(&self, given: &[u8]) -> bool {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let valid = |since: &Instant| since.elapsed() < SESSION_TTL;
        sessions
            .iter()
            .any(|(token, since)| token::is_same(token.as_bytes(), given) && valid(since))
    }
}

/// The route below `/api`, for callers with a key.
pub(crate) fn access_routes() -> Router<Facade> {
    Router::new().route("/object-storage/push-access", get(push_access))
}

/// The routes of the storage itself.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
        .route("/{bucket}", any(bucket))
        .route("/{bucket}/", any(bucket))
        .route("/{bucket}/{*key}", any(object))
}

/// With an upstream, files go there as long as it makes sandboxes: where their
/// files are, sandboxes must be made.
async fn push_access(
    State(facade): State<Facade>,
    base: BaseUrl,
    request: Request,
) -> ApiResult<Response> {
    if let (Some(upstream), Some(rollout)) = (&facade.upstream, &facade.rollout)
        && !rollout.takes_all()
    {
        return Ok(upstream.pass(&facade, request).await);
    }
    let token = facade.sessions.add()?;
    let access = Json(json!({
        // Clients compute a signature with these; the token is what counts.
        "accessKey": "sandboxai",
        "secret": token::random()?,
        "sessionToken": token,
        "storageUrl": format!("{}/s3", base.0),
        "organizationId": ORGANIZATION,
        "bucket": BUCKET,
        "region": "us-east-1",
    }));
    Ok(access.into_response())
}

/// What clients ask in the query; the presence of some words is the question.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    prefix: String,
    uploads: Option<String>,
    #[serde(rename = "uploadId")]
    upload: Option<String>,
    #[serde(rename = "partNumber")]
    part: Option<u32>,
}

/// Why a request of the storage fails; S3's clients read XML.
struct Refused(StatusCode, &'static str, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        (status, xml::headers(), xml::error(code, &message)).into_response()
    }
}

type Answer = Result<Response, Refused>;

fn denied() -> Refused {
    let message = "the session token is missing or over; ask for push access again";
    Refused(StatusCode::FORBIDDEN, "AccessDenied", message.to_owned())
}

fn no_key() -> Refused {
    Refused(
        StatusCode::NOT_FOUND,
        "NoSuchKey",
        "there is no such object".to_owned(),
    )
}

fn refused(error: sandbox::Error) -> Refused {
    let status = crate::error::status_of(error.kind);
    let code = match error.kind {
        sandbox::Kind::InvalidRequest => "InvalidRequest",
        sandbox::Kind::NotFound => "NoSuchUpload",
        sandbox::Kind::LimitReached => "EntityTooLarge",
        _ => "InternalError",
    };
    if error.kind == sandbox::Kind::Internal {
        tracing::error!(%error, "the object storage failed");
    }
    Refused(status, code, error.message)
}

fn admit(facade: &Facade, headers: &HeaderMap, bucket: &str) -> Result<(), Refused> {
    let token = headers.get("x-amz-security-token");
    if !token.is_some_and(|token| facade.sessions.contain(token.as_bytes())) {
        return Err(denied());
    }
    if bucket != BUCKET {
        let message = format!("there is no bucket {bucket:?}");
        return Err(Refused(StatusCode::NOT_FOUND, "NoSuchBucket", message));
    }
    Ok(())
}

/// `ListObjectsV2`, by which the TypeScript SDK asks whether a context is there.
async fn bucket(
    State(facade): State<Facade>,
    Path(bucket): Path<String>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Answer {
    admit(&facade, &headers, &bucket)?;
    let found = match Key::of_prefix(&asked.prefix) {
        Some(key) => facade.contexts.find(&key).await.map_err(refused)?,
        None => None,
    };
    Ok((
        xml::headers(),
        xml::listing(BUCKET, &asked.prefix, found.as_ref()),
    )
        .into_response())
}

/// One object: `HEAD`, `PUT`, and the steps of an upload in parts.
async fn object(
    State(facade): State<Facade>,
    Path((bucket, key)): Path<(String, String)>,
    Query(asked): Query<Asked>,
    request: Request,
) -> Answer {
    admit(&facade, request.headers(), &bucket)?;
    let Some(key) = Key::parse(&key) else {
        let message = "a key has the form default/{hash}/context.tar".to_owned();
        return Err(Refused(StatusCode::BAD_REQUEST, "InvalidRequest", message));
    };
    let store = &facade.contexts;
    if let Some(upload) = &asked.upload {
        return in_parts(store, &key, upload, asked.part, request).await;
    }
    match request.method().as_str() {
        "HEAD" => match store.find(&key).await.map_err(refused)? {
            Some(found) => Ok(described(&found)),
            None => Err(no_key()),
        },
        "POST" if asked.uploads.is_some() => {
            let upload = store.begin().await.map_err(refused)?;
            let page = xml::begun(BUCKET, &key.to_string(), &upload);
            Ok((xml::headers(), page).into_response())
        }
        "PUT" => {
            let stored = store.put(&key, chunked::content(request)).await;
            Ok(entity(&stored.map_err(refused)?))
        }
        method => Err(not_served(method)),
    }
}

/// A step of an upload in parts that was begun.
async fn in_parts(
    store: &ContextStore,
    key: &Key,
    upload: &str,
    part: Option<u32>,
    request: Request,
) -> Answer {
    match (request.method().as_str(), part) {
        ("PUT", Some(part)) => {
            let stored = store
                .put_part(upload, part, chunked::content(request))
                .await;
            Ok(entity(&stored.map_err(refused)?))
        }
        ("POST", _) => {
            let body = axum::body::to_bytes(request.into_body(), XML_BYTES_MAX).await;
            let body = body.map_err(|error| {
                Refused(StatusCode::BAD_REQUEST, "MalformedXML", error.to_string())
            })?;
            let parts = xml::part_numbers(&body);
            let stored = store.complete(key, upload, &parts).await.map_err(refused)?;
            let page = xml::completed(BUCKET, &key.to_string(), &stored.etag());
            Ok((xml::headers(), page).into_response())
        }
        ("DELETE", _) => {
            store.abort(upload).await.map_err(refused)?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (method, _) => Err(not_served(method)),
    }
}

fn not_served(method: &str) -> Refused {
    let message = format!("{method} is not served here");
    Refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

/// The answer about something that was stored.
fn entity(stored: &Stored) -> Response {
    let mut response = Response::new(Body::empty());
    if let Ok(etag) = stored.etag().parse() {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

/// The answer to `HEAD`: with the size that the content would have.
fn described(stored: &Stored) -> Response {
    let mut response = entity(stored);
    let size = HeaderValue::from(stored.bytes);
    response.headers_mut().insert(header::CONTENT_LENGTH, size);
    response
}
