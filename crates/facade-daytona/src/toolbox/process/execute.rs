//! Commands that are waited for, each in a process of its own.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use bytes::Bytes;
use control::{Command, End, Exec, PieceStream};
use sandbox::{Error, Kind};
use serde::{Deserialize, Serialize};

use super::user;
use crate::{
    Facade,
    error::{ApiError, ApiResult},
    extract::JsonBody,
    target::Target,
    version::SdkVersion,
};

/// From this version on work starts in the image's working directory; before
/// it, in the home directory.
pub(super) const WORKDIR_SINCE: SdkVersion = SdkVersion::new(0, 103);

/// The exit code of a command that could not be started.
const NOT_STARTED: i32 = -1;

/// The body of `POST /process/execute`.
#[derive(Debug, Deserialize)]
pub(super) struct ExecuteRequest {
    command: String,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    envs: Option<BTreeMap<String, String>>,
    /// As some clients write it.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// Seconds.
    #[serde(default)]
    timeout: Option<f64>,
}

/// The answer. Old SDKs read the exit code as `code`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExecuteResponse {
    exit_code: i32,
    code: i32,
    result: String,
}

/// `POST /process/execute`: a command, its outputs merged.
pub(super) async fn execute(
    State(facade): State<Facade>,
    target: Target,
    version: SdkVersion,
    JsonBody(request): JsonBody<ExecuteRequest>,
) -> ApiResult<Json<ExecuteResponse>> {
    if request.command.trim().is_empty() {
        return Err(ApiError::bad_request(
            "field `command` is empty; give the command to run",
        ));
    }
    let exec = Exec {
        command: Command::Script(request.command),
        env: request.envs.or(request.env).unwrap_or_default(),
        cwd: start_directory(&target, version, request.cwd).await?,
        timeout_ms: timeout_ms(request.timeout, facade.config.exec_timeout_default)?,
        merge_output: true,
        user: user(&target),
        ..Exec::default()
    };
    let outcome = run(&facade, &target, exec, None).await?;
    Ok(Json(ExecuteResponse {
        exit_code: outcome.exit_code,
        code: outcome.exit_code,
        result: outcome.stdout,
    }))
}

/// What a command came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) exit_code: i32,
    /// Standard output, or both outputs when merged.
    pub(super) stdout: String,
    /// Standard error.
    pub(super) stderr: Vec<u8>,
}

/// Runs a command to its end. One that could not be started is an outcome too.
///
/// # Errors
/// 408 when its time is over; as the agent says.
pub(super) async fn run(
    facade: &Facade,
    target: &Target,
    exec: Exec,
    stdin: Option<PieceStream<Bytes>>,
) -> ApiResult<Outcome> {
    let timeout_ms = exec.timeout_ms;
    let pieces = target
        .control
        .exec(target.space(), target.name(), exec, stdin)
        .await?;
    let collected = match control::collect(pieces, facade.config.output_bytes_max).await {
        Ok(collected) => collected,
        Err(error) if was_not_started(&error) => {
            return Ok(Outcome {
                exit_code: NOT_STARTED,
                stdout: error.message,
                stderr: Vec::new(),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let End::Exited(exit) = collected.end else {
        return Err(Error::internal("a command did not end as commands do").into());
    };
    if exit.timed_out {
        let seconds = timeout_ms.unwrap_or_default() / 1000;
        return Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "command execution timeout: it was killed after {seconds} s; give a longer `timeout`, or run it in a session with `runAsync`"
            ),
        )
        .with_code("PROCESS_EXECUTION_TIMEOUT"));
    }
    Ok(Outcome {
        exit_code: exit.code,
        stdout: collected.stdout.to_text(),
        stderr: collected.stderr.bytes,
    })
}

/// Whether the agent refused to start the command, rather than that the sandbox
/// or the way to it failed.
fn was_not_started(error: &Error) -> bool {
    matches!(
        error.kind,
        Kind::NotFound | Kind::Forbidden | Kind::InvalidRequest | Kind::LimitReached
    )
}

/// Where a command starts; `None` is the image's working directory.
pub(super) async fn start_directory(
    target: &Target,
    version: SdkVersion,
    asked: Option<String>,
) -> ApiResult<Option<String>> {
    let asked = asked.filter(|cwd| !cwd.is_empty());
    if asked.is_some() || version >= WORKDIR_SINCE {
        return Ok(asked);
    }
    let places = target.control.places(target.space(), target.name()).await?;
    Ok(Some(places.home))
}

/// The time of a command in milliseconds: 0 is for ever, absent the default.
pub(super) fn timeout_ms(seconds: Option<f64>, default: Duration) -> ApiResult<Option<u64>> {
    let time = match seconds {
        None => default,
        Some(0.0) => return Ok(None),
        Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| {
            ApiError::bad_request("field `timeout`: give a number of seconds, or 0 for no limit")
        })?,
    };
    Ok(Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_and_0_is_for_ever() {
        let of = |seconds| timeout_ms(seconds, Duration::from_secs(360));
        assert_eq!(of(None).unwrap(), Some(360_000));
        assert_eq!(of(Some(0.0)).unwrap(), None);
        assert_eq!(of(Some(1.5)).unwrap(), Some(1_500));
        for odd in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert!(of(Some(odd)).unwrap_err().message.contains("`timeout`"));
        }
    }

    #[test]
    fn only_refusals_of_the_agent_are_outcomes() {
        assert!(was_not_started(&Error::not_found("no directory")));
        assert!(!was_not_started(&Error::lost("gone")));
        assert!(!was_not_started(&Error::timeout("late")));
    }
}
