//! What success is called, which changed with the SDKs.

use axum::http::StatusCode;

use crate::version::SdkVersion;

/// The first SDK whose toolbox answers with more than 200.
const EXACT: SdkVersion = SdkVersion::new(0, 113);

/// Something was made: 201, or 200 for old SDKs.
pub(crate) fn created(version: SdkVersion) -> StatusCode {
    match version < EXACT {
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    }
}

/// Something is gone: 204, or 200 for old SDKs.
pub(crate) fn removed(version: SdkVersion) -> StatusCode {
    match version < EXACT {
        true => StatusCode::OK,
        false => StatusCode::NO_CONTENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_sdks_know_only_one_success() {
        let (old, new) = (SdkVersion::new(0, 21), SdkVersion::NEWEST);
        assert_eq!(
            (created(old), removed(old)),
            (StatusCode::OK, StatusCode::OK)
        );
        assert_eq!(
            (created(new), removed(new)),
            (StatusCode::CREATED, StatusCode::NO_CONTENT)
        );
    }
}
