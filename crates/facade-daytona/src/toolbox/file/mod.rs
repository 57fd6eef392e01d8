//! Files. The agent does all of it inside the sandbox; nothing here holds more
//! of a file than a few pieces.

mod change;
mod download;
mod error;
mod info;
mod multipart;
mod search;
mod upload;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{delete, get, post},
};

use crate::Facade;

/// The routes.
pub(crate) fn routes() -> Router<Facade> {
    // Streamed, so of any length.
    let uploads = Router::new()
        .route("/files/bulk-upload", post(upload::upload_many))
        .route("/files/upload", post(upload::upload_one))
        .route("/files/upload-v2", post(upload::upload_one))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/files", get(info::list).merge(delete(change::remove)))
        .route("/files/info", get(info::info))
        .route("/files/folder", post(change::make_folder))
        .route("/files/move", post(change::rename))
        .route("/files/permissions", post(change::set_permissions))
        .route("/files/find", get(search::find))
        .route("/files/search", get(search::search))
        .route("/files/replace", post(search::replace))
        .route("/files/download", get(download::download_one))
        .route("/files/bulk-download", post(download::download_many))
        .merge(uploads)
}
