//! The session of the image's own program. Sandboxes do not run it, so this
//! session exists and is empty, and its log has ended.

use axum::{
    Json,
    extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    http::HeaderMap,
    response::Response,
};
use futures_util::stream;

use super::{SessionBody, log, output::Form};
use crate::{target::Target, version::SdkVersion};

/// The name of this session.
pub(super) const SESSION: &str = "entrypoint";

/// `GET /process/session/entrypoint`.
pub(crate) async fn session(_: Target) -> Json<SessionBody> {
    Json(SessionBody {
        session_id: SESSION.to_owned(),
        commands: Vec::new(),
    })
}

/// `GET /process/session/entrypoint/logs`, also followed by websocket.
pub(crate) async fn logs(
    _: Target,
    version: SdkVersion,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    match upgrade {
        Ok(upgrade) => log::follow(
            upgrade,
            &headers,
            Box::pin(stream::iter([Ok(control::Piece::Done)])),
        ),
        Err(_) => log::answer(Form::of(version), &super::output::Log::new(0)),
    }
}
