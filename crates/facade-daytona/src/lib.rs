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
//!                                              └────► toolbox ────────► (work in one sandbox)
//! ```
//!
//! Facts of the protocol are in `docs/protocols/daytona.md`.

pub mod annotation;
mod answer;
mod base_url;
mod control_plane;
mod error;
pub mod preview_url;
mod target;
mod toolbox;
mod version;

use std::{fmt, sync::Arc, time::Duration};

use axum::Router;
use control::Control;
use sandbox::Space;

/// Tells whether a key gives access, in time that does not depend on the key.
pub type KeyCheck = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// How the facade behaves; validated by `server::config`.
#[derive(Clone)]
pub struct FacadeConfig {
    /// Tells whether a bearer key gives access.
    pub accepts_key: KeyCheck,
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
}

/// All routes of the facade.
pub fn router(control: Control, config: FacadeConfig) -> Router {
    let facade = Facade {
        control,
        config: Arc::new(config),
    };
    Router::new()
        .nest("/api", control_plane::routes())
        .nest("/api/toolbox/{sandbox}/toolbox", toolbox::routes())
        .nest("/toolbox/{sandbox}", toolbox::routes())
        .layer(axum::middleware::from_fn(answer::complete))
        .with_state(facade)
}
