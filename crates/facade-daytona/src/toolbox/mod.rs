//! Work inside one sandbox.

mod file;
mod git;
mod lsp;
mod process;
mod success;
mod system;

use axum::Router;

pub(crate) use self::{git::TRANSPORT_FAILED, process::Terminals};
use crate::Facade;

/// The routes below a toolbox's base URL.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
        .merge(process::routes())
        .merge(file::routes())
        .merge(git::routes())
        .merge(lsp::routes())
        .merge(system::routes())
}
