//! What the engine says, in the words of the product.

use bollard::errors::Error as EngineError;
use sandbox::{Error, Kind};

/// The engine has no such container, image or network.
const NOT_FOUND: u16 = 404;
/// The container is not in a state that allows this.
const CONFLICT: u16 = 409;

/// The error for the world of a failed step.
pub(crate) fn failed(step: &str, error: EngineError) -> Error {
    let kind = match &error {
        EngineError::DockerResponseServerError { status_code, .. } => match *status_code {
            NOT_FOUND => Kind::NotFound,
            CONFLICT => Kind::Conflict,
            400 => Kind::InvalidRequest,
            _ => Kind::Internal,
        },
        EngineError::RequestTimeoutError => Kind::Timeout,
        EngineError::HyperLegacyError { .. }
        | EngineError::HyperResponseError { .. }
        | EngineError::SocketNotFoundError(_)
        | EngineError::IOError { .. } => Kind::Unavailable,
        _ => Kind::Internal,
    };
    let hint = match kind {
        Kind::Unavailable => "; is the engine running? `systemctl status docker` tells",
        _ => "",
    };
    Error::new(kind, format!("cannot {step}: {error}{hint}")).with_source(error)
}

/// Whether the engine does not have the thing.
pub(crate) fn is_missing(error: &EngineError) -> bool {
    has_status(error, NOT_FOUND)
}

/// Whether the engine refuses for the thing's state: it is being removed, runs
/// already or exists already.
pub(crate) fn is_conflict(error: &EngineError) -> bool {
    has_status(error, CONFLICT)
}

fn has_status(error: &EngineError, wanted: u16) -> bool {
    matches!(error, EngineError::DockerResponseServerError { status_code, .. } if *status_code == wanted)
}
