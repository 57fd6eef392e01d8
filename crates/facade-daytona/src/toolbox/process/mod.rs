//! Commands, code, sessions, terminals and the interpreter of one sandbox.
//!
//! Nothing here polls: commands are waited for by the end of their output.

mod code_run;
mod execute;
mod interpreter;
mod session;
mod terminal;
mod text;
mod websocket;

use axum::{
    Router,
    routing::{delete, get, post},
};
use sandbox::Error;

pub(crate) use self::terminal::Terminals;
use crate::{Facade, annotation, error::ApiError, target::Target};

/// The routes.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
        .route("/process/execute", post(execute::execute))
        .route("/process/code-run", post(code_run::code_run))
        .merge(session_routes())
        .merge(terminal_routes())
        .merge(interpreter_routes())
}

fn session_routes() -> Router<Facade> {
    use session::{command, entrypoint, log};
    Router::new()
        .route("/process/session", get(session::list).post(session::create))
        .route("/process/session/entrypoint", get(entrypoint::session))
        .route("/process/session/entrypoint/logs", get(entrypoint::logs))
        .route(
            "/process/session/{session}",
            get(session::get).delete(session::delete),
        )
        .route("/process/session/{session}/exec", post(command::execute))
        .route(
            "/process/session/{session}/command/{command}",
            get(command::get),
        )
        .route(
            "/process/session/{session}/command/{command}/logs",
            get(log::read),
        )
        .route(
            "/process/session/{session}/command/{command}/input",
            post(command::input),
        )
}

fn terminal_routes() -> Router<Facade> {
    Router::new()
        .route("/process/pty", get(terminal::list).post(terminal::create))
        .route(
            "/process/pty/create-connect",
            get(terminal::create_and_connect),
        )
        .route(
            "/process/pty/{terminal}",
            get(terminal::get).delete(terminal::delete),
        )
        .route("/process/pty/{terminal}/connect", get(terminal::connect))
        .route("/process/pty/{terminal}/resize", post(terminal::resize))
}

fn interpreter_routes() -> Router<Facade> {
    Router::new()
        .route("/process/interpreter/execute", get(interpreter::execute))
        .route(
            "/process/interpreter/context",
            get(interpreter::list).post(interpreter::create),
        )
        .route(
            "/process/interpreter/context/{context}",
            delete(interpreter::delete),
        )
}

/// The user that commands of this sandbox run as; `None` is root.
pub(super) fn user(target: &Target) -> Option<String> {
    let user = target.sandbox.annotations.get(annotation::USER)?;
    (user != "root").then(|| user.clone())
}

/// Turns `NotFound` of something inside the sandbox into the given error, and
/// leaves every other error as it is.
fn or_not_found(error: Error, absent: impl FnOnce() -> ApiError) -> ApiError {
    match error.kind {
        sandbox::Kind::NotFound => absent(),
        _ => error.into(),
    }
}
