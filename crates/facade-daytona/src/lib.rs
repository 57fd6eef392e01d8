//! Speaks Daytona's protocol: the control plane under `/api`, the toolbox of
//! each sandbox under `/toolbox/{sandbox}` and, for old SDKs, under
//! `/api/toolbox/{sandbox}/toolbox`.
//!
//! The facade translates, and decides nothing. It serves every generation of
//! the SDKs at once; [`version`] tells them apart. Base URLs in answers are
//! those that the request came to ([`base_url`]). Its wire types never leave it.
//!
//! ```text
//! request ─► answer (id, timing, errors) ─► access ─► control_plane ─► control::Control
//!                                              ├────► toolbox ────────► (work in one sandbox)
//!                                              └────► events (changes of state)
//! ```
//!
//! Files of callers that images are built with are stored under `/s3`
//! ([`object_storage`]).
//!
//! What is about a sandbox that is not known here goes to the real Daytona that
//! this server may stand in front of ([`upstream`]).
//!
//! Facts of the protocol are in `docs/protocols/daytona.md`.

mod access;
pub mod annotation;
mod answer;
mod base_url;
mod control_plane;
mod error;
mod events;
mod extract;
pub mod hop_by_hop;
mod not_served;
mod object_storage;
pub mod preview;
pub mod preview_url;
pub mod rollout;
mod seal;
pub mod side;
mod target;
#[cfg(test)]
mod testing;
mod token;
mod toolbox;
pub mod tunnel;
pub mod upstream;
mod version;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, OriginalUri},
    http::{Method, StatusCode},
    middleware::from_fn_with_state,
};
use control::Control;
use edge::{request_id, timing};
use sandbox::{Kind, Space};

use crate::{
    control_plane::{Begun, Waiting},
    error::ApiError,
    object_storage::{ContextStore, Sessions},
    request_id::RequestIds,
    rollout::Rollout,
    upstream::Upstream,
};

/// Tells whether a key gives access, in time that does not depend on the key.
pub type KeyCheck = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// How the facade behaves; validated by `server::config`.
#[derive(Clone)]
pub struct FacadeConfig {
    /// Tells whether a bearer key gives access.
    pub accepts_key: KeyCheck,
    /// Whether there are keys at all; else any gives access.
    pub has_keys: bool,
    /// The space of all sandboxes made through this facade.
    pub space: Space,
    /// Longest JSON body of a request, bytes.
    pub json_bytes_max: usize,
    /// How much of the output of a command is kept for an answer, bytes.
    pub output_bytes_max: usize,
    /// How long a command may take when the request does not say.
    pub exec_timeout_default: Duration,
    /// Which URLs ports have.
    pub links: preview_url::Links,
    /// The image of sandboxes whose creation names none.
    pub image_default: String,
    /// Where files of callers are kept that images are built with.
    pub contexts_dir: PathBuf,
    /// The real Daytona that has all other sandboxes.
    pub upstream: Option<Upstream>,
    /// Divides new sandboxes between this server and the upstream.
    pub rollout: Option<Rollout>,
}

impl FacadeConfig {
    /// Without keys (any key gives access); 16 MiB of JSON, 32 MiB of output,
    /// 360 s per command unless the request says otherwise.
    #[must_use]
    pub fn new(image_default: String) -> Self {
        Self {
            accepts_key: Arc::new(|key| !key.is_empty()),
            has_keys: false,
            space: Space::default(),
            json_bytes_max: 16 << 20,
            output_bytes_max: 32 << 20,
            exec_timeout_default: Duration::from_secs(360),
            image_default,
            contexts_dir: std::env::temp_dir().join("sandboxai-contexts"),
            links: preview_url::Links::default(),
            upstream: None,
            rollout: None,
        }
    }
}

impl fmt::Debug for FacadeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FacadeConfig")
            .field("space", &self.space)
            .finish_non_exhaustive()
    }
}

/// What every route shares.
#[derive(Clone, Debug)]
pub(crate) struct Facade {
    pub(crate) control: Control,
    pub(crate) config: Arc<FacadeConfig>,
    /// Sandboxes whose image is being made.
    pub(crate) waiting: Waiting,
    /// Snapshots that were asked for.
    pub(crate) begun: Begun,
    pub(crate) terminals: Arc<toolbox::Terminals>,
    pub(crate) rollout: Option<Rollout>,
    /// Who may store files to build images with.
    sessions: Sessions,
    pub(crate) contexts: ContextStore,
    /// Who has the sandboxes that are not known here.
    pub(crate) upstream: Option<Upstream>,
    request_ids: Arc<RequestIds>,
}

impl Facade {
    fn new(control: Control, config: FacadeConfig) -> Self {
        Self {
            control,
            sessions: Sessions::default(),
            contexts: ContextStore::new(config.contexts_dir.clone()),
            upstream: config.upstream.clone(),
            waiting: Waiting::new(config.rollout.clone()),
            rollout: config.rollout.clone(),
            config: Arc::new(config),
            begun: Begun::default(),
            request_ids: Arc::new(RequestIds::default()),
            terminals: Arc::default(),
        }
    }

    /// Whether a sandbox is or was one of this server, by id or name. The name of
    /// one that has ended may belong to another since.
    pub(crate) fn knows(&self, asked: &str) -> bool {
        let space = &self.config.space;
        !matches!(self.control.find(space, asked), Err(error) if error.kind == Kind::NotFound)
            || self.waiting.find(&self.control, asked).is_some()
            || self.control.remembers(space, asked)
    }

    /// Whether there is a sandbox of this name or id here, made or to be made.
    pub(crate) fn is_living(&self, asked: &str) -> bool {
        self.control.find(&self.config.space, asked).is_ok()
            || asked.parse().is_ok_and(|name| self.waiting.has_name(&name))
    }
}

/// All routes of the facade, and JSON answers for other paths below `/api` and
/// `/toolbox`.
pub fn router(control: Control, config: FacadeConfig) -> Router {
    routes(Facade::new(control, config))
}

fn routes(facade: Facade) -> Router {
    let json_bytes_max = facade.config.json_bytes_max;
    let control_plane = control_plane::routes()
        .merge(object_storage::access_routes())
        .merge(not_served::control_plane())
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(facade.clone(), upstream::pass_unknown))
        .layer(from_fn_with_state(facade.clone(), access::control_plane))
        .merge(control_plane::open_routes())
        .merge(events::routes());
    let toolbox = toolbox::routes()
        .merge(not_served::toolbox())
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(facade.clone(), access::toolbox))
        .layer(from_fn_with_state(facade.clone(), upstream::pass_toolbox));
    Router::new()
        .nest("/api", control_plane)
        .nest("/api/toolbox/{sandbox}/toolbox", toolbox.clone())
        .nest("/toolbox/{sandbox}", toolbox)
        .nest("/s3", object_storage::routes())
        .layer(DefaultBodyLimit::max(json_bytes_max))
        .layer(from_fn_with_state(facade.clone(), rollout::measure))
        .layer(from_fn_with_state(facade.clone(), answer::complete))
        .with_state(facade)
}

async fn unknown_route(OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::not_found(format!(
        "{} is no path of this server; see docs/protocols/daytona.md",
        uri.path()
    ))
}

async fn unknown_method(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not possible on {}", uri.path()),
    )
}
