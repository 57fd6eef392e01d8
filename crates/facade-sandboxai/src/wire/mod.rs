//! The JSON of the protocol. Nothing here leaves this crate.
//!
//! Rules: a field that the original protocol has keeps its name, place and
//! meaning; units are at the end of names (`_s` seconds, `_ms` milliseconds,
//! `_mb` mebibytes, `_bytes`); times of day are RFC 3339 and end in `_at`,
//! but in file entries, which come by the thousand, they are numbers;
//! permission bits are octal text. Requests refuse unknown fields and take an
//! explicit null as absent.

mod check;
mod file;
mod file_tool;
mod process;
mod result;
mod sandbox;
mod tool;

pub(crate) use file::{EntryBody, FileQuery, ReadQuery, RemoveQuery, WriteQuery};
pub(crate) use file_tool::{
    FileList, ListFilesRequest, MakeDirectoryRequest, MoveFileRequest, PathRequest,
    ReadFileRequest, ReadFileResult, RemoveFileRequest, SetPermissionsRequest, WriteFileRequest,
};
pub(crate) use process::{
    InputQuery, OutputQuery, ProcessBody, ProcessList, ProcessOutputEnd, SignalRequest,
    StartProcessRequest,
};
pub(crate) use result::{DisplayEvent, OutputEvent, RunIPythonCellResult, RunShellCommandResult};
pub(crate) use sandbox::{
    CreateSandboxRequest, EventBody, EventList, EventsQuery, Health, ListQuery, SandboxBody,
    SandboxList, UsageBody, idempotency_key, renamed,
};
pub(crate) use tool::{KernelRequest, RunIPythonCellRequest, RunShellCommandRequest};

use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

/// An error.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody {
    /// What was wrong, with what, and what to do.
    pub(crate) message: String,
    /// The class of the error, for programs.
    #[schema(example = "invalid_request")]
    pub(crate) kind: String,
    /// The field of the request that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// Under which id the server's log knows the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<String>,
    /// How the sandbox ended, when it ended less than 24 hours ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tombstone: Option<Tombstone>,
}

/// How a sandbox ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Tombstone {
    /// Why, as one word: `deleted`, `idle`, `lifetime_over`, `out_of_memory`,
    /// `agent_lost`, `failed_to_start`, `host_restarted` or `shutdown`.
    #[schema(example = "out_of_memory")]
    pub(crate) reason: String,
    /// What is known beyond that word.
    pub(crate) detail: Option<String>,
    /// When, RFC 3339.
    pub(crate) ended_at: String,
}

impl From<&control::Tombstone> for Tombstone {
    fn from(tombstone: &control::Tombstone) -> Self {
        Self {
            reason: tombstone.reason.as_str().to_owned(),
            detail: tombstone.reason.detail().map(str::to_owned),
            ended_at: time_of_day(tombstone.ended_ms),
        }
    }
}

/// Raw bytes.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes bodies that are streamed")]
pub(crate) struct Octets(Vec<u8>);

/// A space.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes the path; `extract::Target` reads it")]
pub(crate) struct SpacePath {
    /// The space; any name makes one.
    #[param(example = "default")]
    space: String,
}

/// A sandbox in a space.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes the path; `extract::Target` reads it")]
pub(crate) struct SandboxPath {
    /// The space; any name makes one.
    #[param(example = "default")]
    space: String,
    /// The name of the sandbox.
    name: String,
}

/// A background process in a sandbox.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes the path; `extract::Target` reads it")]
pub(crate) struct ProcessPath {
    /// The space; any name makes one.
    #[param(example = "default")]
    space: String,
    /// The name of the sandbox.
    name: String,
    /// The id that starting the process returned.
    process: u64,
}

/// Milliseconds since the epoch as RFC 3339 with milliseconds, in UTC.
fn time_of_day(milliseconds: i64) -> String {
    // A time outside of the years -9999 to 9999 cannot be written; it can only
    // come from a sandbox whose clock lies.
    let time =
        jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_are_utc() {
        assert_eq!(time_of_day(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(time_of_day(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_of_day(i64::MAX), "1970-01-01T00:00:00.000Z");
    }
}
