//! Files.

use axum::Router;

use crate::Facade;

/// The routes.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
}
