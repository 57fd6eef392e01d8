//! Speaks the SandboxAI v1 HTTP protocol, with our extensions on the same tree.
//!
//! The facade translates, and decides nothing: a request becomes one call of
//! [`control::Control`], an answer becomes JSON, raw bytes or server-sent
//! events. What it deliberately does not know: authentication (a layer of the
//! server), runtimes, the store. Its wire types (`wire`) never leave it.
//!
//! ```text
//! request ─► answer (id, span, timing) ─► extract ─► sandboxes, tools, stream,
//!            ▲                                       files, file_tools, processes
//!            └── error (one place that renders) ◄────┘            │
//!                                                          control::Control
//! ```
//!
//! The protocol is described in `docs/protocols/sandboxai.md`, and for machines
//! in `openapi.json` beside this crate's `Cargo.toml`.

mod answer;
mod error;
mod events;
mod extract;
mod file_tools;
mod files;
mod openapi;
mod processes;
mod sandboxes;
mod stream;
mod tools;
mod utf8;
mod wire;

use std::{sync::Arc, time::Duration};

use control::Control;
use edge::{request_id, timing};

use crate::request_id::RequestIds;

/// Limits of the HTTP side; validated by `server::config`.
#[derive(Clone, Debug)]
pub struct FacadeConfig {
    /// Longest JSON body of a request, bytes. Files and input of processes are
    /// streamed and have no such limit.
    pub json_bytes_max: usize,
    /// How much of each output of a command or cell is kept for an answer,
    /// bytes; also the default. Streamed output has no such limit.
    pub output_bytes_max: usize,
    /// How long a JSON body may take to arrive, and how long a streamed body may pause.
    pub body_timeout: Duration,
    /// How long a command or cell may take; also the default. The agent ends it then.
    pub run_timeout_max: Duration,
}

impl Default for FacadeConfig {
    /// 16 MiB of JSON, 32 MiB of each output, 60 s between parts of a body, 24 h per command.
    fn default() -> Self {
        Self {
            json_bytes_max: 16 << 20,
            output_bytes_max: 32 << 20,
            body_timeout: Duration::from_secs(60),
            run_timeout_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// What every route shares.
#[derive(Clone, Debug)]
struct Facade {
    control: Control,
    config: Arc<FacadeConfig>,
    request_ids: Arc<RequestIds>,
}

/// The routes below `/v1`, and JSON answers for all other paths and methods.
///
/// To merge this with a router that has a fallback of its own, call
/// [`axum::Router::reset_fallback`] on one of them.
pub fn router(control: Control, config: FacadeConfig) -> axum::Router {
    let facade = Facade {
        control,
        config: Arc::new(config),
        request_ids: Arc::new(RequestIds::default()),
    };
    let (routes, _) = openapi::routes().split_for_parts();
    routes
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::unknown_method)
        .layer(axum::middleware::from_fn_with_state(
            facade.clone(),
            answer::complete,
        ))
        .with_state(facade)
}
