//! Git repositories, by the git program inside the sandbox.
//!
//! Nothing is run through a shell, and nothing that a caller gives can become
//! an option of git ([`command`]). Passwords are handed over in the environment
//! of the one command that needs them ([`credentials`]).

mod branch;
mod command;
mod config;
mod credentials;
mod error;
mod remote;
mod repository;
mod status;
mod transfer;

use axum::{
    Router,
    routing::{get, post},
};

pub(crate) use self::error::TRANSPORT_FAILED;
use crate::Facade;

/// The routes.
pub(crate) fn routes() -> Router<Facade> {
    let branches = get(branch::list)
        .post(branch::create)
        .delete(branch::remove);
    Router::new()
        .route("/git/add", post(repository::add))
        .route("/git/commit", post(repository::commit))
        .route("/git/history", get(repository::history))
        .route("/git/init", post(repository::init))
        .route("/git/reset", post(repository::reset))
        .route("/git/restore", post(repository::restore))
        .route("/git/status", get(status::status))
        .route("/git/branches", branches)
        .route("/git/checkout", post(branch::checkout))
        .route("/git/clone", post(transfer::clone))
        .route("/git/push", post(transfer::push))
        .route("/git/pull", post(transfer::pull))
        .route("/git/remotes", get(remote::list).post(remote::add))
        .route("/git/config", get(config::read).post(config::write))
        .route("/git/config/user", post(config::set_user))
        .route("/git/credentials", post(config::store_credentials))
}
