//! Sandboxes as a whole, snapshots, configuration.

use axum::Router;

use crate::Facade;

/// The routes below `/api`.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
}
