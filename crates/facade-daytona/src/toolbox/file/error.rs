//! What failed with a file, in the codes and words that callers look for.

use axum::http::StatusCode;
use sandbox::{Error, Kind};

use crate::error::ApiError;

/// The error of an operation on files.
///
/// Callers tell errors apart by their texts, too: what is not there is "not
/// found", what is not allowed names "permission".
pub(super) fn file_error(error: Error) -> ApiError {
    match error.kind {
        Kind::NotFound => {
            ApiError::not_found(saying("not found", error.message)).with_code("FILE_NOT_FOUND")
        }
        Kind::Forbidden => {
            let message = saying("permission denied", error.message);
            ApiError::new(StatusCode::FORBIDDEN, message).with_code("FILE_ACCESS_DENIED")
        }
        Kind::InvalidRequest => ApiError::bad_request(error.message).with_code("INVALID_FILE_PATH"),
        Kind::Internal => ApiError::from(error).with_code("FILE_READ_FAILED"),
        _ => error.into(),
    }
}

/// The message, with these words in it.
fn saying(words: &str, message: String) -> String {
    match message.contains(words) {
        true => message,
        false => format!("{words}: {message}"),
    }
}

/// Permission bits from octal digits, e.g. `755`.
pub(super) fn mode(text: &str) -> Result<u32, ApiError> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| {
            ApiError::bad_request(format!(
                "parameter `mode`: {text:?} is not a permission in octal digits like 644 or 0755"
            ))
        })
}

/// A path that is not empty; `parameter` is where it came from.
pub(super) fn path<'a>(parameter: &str, path: &'a str) -> Result<&'a str, ApiError> {
    match path.is_empty() {
        true => Err(
            ApiError::bad_request(format!("parameter `{parameter}`: the path is empty"))
                .with_code("INVALID_FILE_PATH"),
        ),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_look_for_is_in_code_and_text() {
        let error = file_error(Error::not_found("/a: does not exist"));
        assert_eq!((error.status.as_u16(), error.code), (404, "FILE_NOT_FOUND"));
        assert_eq!(error.message, "not found: /a: does not exist");
        let error = file_error(Error::new(Kind::Forbidden, "/a: permission denied"));
        assert_eq!(
            (error.status.as_u16(), error.code),
            (403, "FILE_ACCESS_DENIED")
        );
        assert_eq!(error.message, "/a: permission denied");
        assert_eq!(file_error(Error::invalid("x")).code, "INVALID_FILE_PATH");
        assert_eq!(file_error(Error::timeout("x")).status.as_u16(), 408);
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(mode("755").unwrap(), 0o755);
        assert_eq!(mode("0644").unwrap(), 0o644);
        for wrong in ["", "rwx", "888", "10000", "-1"] {
            assert_eq!(mode(wrong).unwrap_err().status.as_u16(), 400, "{wrong}");
        }
    }
}
