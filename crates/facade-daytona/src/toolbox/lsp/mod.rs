//! Language servers inside the sandbox.

use axum::Router;

use crate::Facade;

/// The routes.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
}
