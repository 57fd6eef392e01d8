//! Terminals (`pty` in the protocol): interactive shells that outlive the
//! connections to them. What the agent tells of them is the truth: each is a
//! background process whose tag has [`TAG_PREFIX`].

mod connection;
mod prompt;
mod registry;
mod shell;

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{
        Path, State,
        rejection::PathRejection,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode},
    response::Response,
};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use control::{Piece, ProcessInfo, Signal, TtySize};
use futures_util::StreamExt;
use jiff::Timestamp;
use sandbox::{Error, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) use self::registry::Terminals;
use self::{
    connection::{Connection, Screen},
    registry::Details,
};
use super::{or_not_found, user, websocket};
use crate::{
    Facade,
    error::{ApiError, ApiResult},
    extract::{self, JsonBody, QueryOf},
    target::Target,
};

/// How the tags of terminals begin; the name follows.
const TAG_PREFIX: &str = "daytona.pty.";
/// Longest name of a terminal, bytes.
const NAME_BYTES_MAX: usize = 128;
/// Size of a terminal when the request does not say.
const SIZE_DEFAULT: TtySize = TtySize { cols: 80, rows: 24 };
/// Most columns or rows of a terminal.
const SIZE_MAX: u16 = 1000;
/// How long a shell may take to end by itself when it is hung up.
const HANG_UP_TIME_MAX: Duration = Duration::from_millis(500);
/// How long a killed shell may take to be gone.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);
/// A shell older than this is at its prompt or past it.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// Offered by clients that understand a message that tells the exit.
const EXIT_PROTOCOL: &str = "X-Daytona-Pty-Exit-Control";
/// How the subprotocol begins that carries the environment.
const ENVS_PROTOCOL_PREFIX: &str = "X-Daytona-Pty-Envs~";

/// Base64 for URLs, with or without padding.
const ENVS_ENCODING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The path of a terminal.
#[derive(Debug, Deserialize)]
pub(super) struct TerminalPath {
    terminal: String,
}

/// What a terminal shall be: the body of `POST /process/pty`, and the query of
/// `create-connect`, where the environment comes as a subprotocol.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateTerminal {
    #[serde(default)]
    id: String,
    #[serde(default)]
    cols: Option<u16>,
    #[serde(default)]
    rows: Option<u16>,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    envs: Option<BTreeMap<String, String>>,
    /// Only told again: a terminal is started at once in any case, so that its
    /// shell is ready when the client comes.
    #[serde(default)]
    lazy_start: Option<bool>,
}

/// The body of `POST …/resize`.
#[derive(Debug, Deserialize)]
pub(super) struct ResizeTerminal {
    cols: u16,
    rows: u16,
}

/// A terminal. All fields are required.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TerminalBody {
    id: String,
    cwd: String,
    envs: BTreeMap<String, String>,
    cols: u16,
    rows: u16,
    created_at: String,
    active: bool,
    lazy_start: bool,
}

/// `POST /process/pty`.
pub(super) async fn create(
    State(facade): State<Facade>,
    target: Target,
    JsonBody(request): JsonBody<CreateTerminal>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let id = request.id.clone();
    start(&facade, &target, request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "sessionId": id }))))
}

/// `GET /process/pty/create-connect`: both in one websocket handshake.
pub(super) async fn create_and_connect(
    State(facade): State<Facade>,
    target: Target,
    QueryOf(mut request): QueryOf<CreateTerminal>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|rejection| no_websocket(&rejection))?;
    request.envs = envs_of(&headers)?;
    let terminal = start(&facade, &target, request).await?;
    open(&facade, target, &terminal, &headers, upgrade).await
}

/// `GET /process/pty/{terminal}/connect`.
pub(super) async fn connect(
    State(facade): State<Facade>,
    target: Target,
    path: Result<Path<TerminalPath>, PathRejection>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|rejection| no_websocket(&rejection))?;
    let terminal = find(&target, path).await?;
    open(&facade, target, &terminal, &headers, upgrade).await
}

/// `GET /process/pty`.
pub(super) async fn list(State(facade): State<Facade>, target: Target) -> ApiResult<Json<Value>> {
    let terminals = running(&target).await?;
    let bodies: Vec<TerminalBody> = terminals
        .iter()
        .map(|terminal| body(&facade, &target, terminal))
        .collect();
    Ok(Json(json!({ "sessions": bodies })))
}

/// `GET /process/pty/{terminal}`.
pub(super) async fn get(
    State(facade): State<Facade>,
    target: Target,
    path: Result<Path<TerminalPath>, PathRejection>,
) -> ApiResult<Json<TerminalBody>> {
    let terminal = find(&target, path).await?;
    Ok(Json(body(&facade, &target, &terminal)))
}

/// `POST /process/pty/{terminal}/resize`.
pub(super) async fn resize(
    State(facade): State<Facade>,
    target: Target,
    path: Result<Path<TerminalPath>, PathRejection>,
    JsonBody(request): JsonBody<ResizeTerminal>,
) -> ApiResult<Json<TerminalBody>> {
    let size = size(Some(request.cols), Some(request.rows))?;
    let mut terminal = find(&target, path).await?;
    target
        .control
        .resize_terminal(target.space(), target.name(), terminal.process, size)
        .await?;
    terminal.tty = Some(size);
    Ok(Json(body(&facade, &target, &terminal)))
}

/// `DELETE /process/pty/{terminal}`: hangs up, which ends the shell's jobs too,
/// and kills it if it does not end.
pub(super) async fn delete(
    State(facade): State<Facade>,
    target: Target,
    path: Result<Path<TerminalPath>, PathRejection>,
) -> ApiResult<Json<Value>> {
    let terminal = find(&target, path).await?;
    if !end(&target, terminal.process, Signal::Sighup, HANG_UP_TIME_MAX).await?
        && !end(&target, terminal.process, Signal::Sigkill, KILL_TIME_MAX).await?
    {
        return Err(Error::timeout(format!(
            "the shell of terminal `{}` is not gone {KILL_TIME_MAX:?} after it was killed",
            name_of(&terminal)
        ))
        .into());
    }
    facade
        .terminals
        .forget(&target.sandbox.id, terminal.process);
    Ok(Json(json!({ "message": "PTY session deleted" })))
}

/// Sends a signal and waits for the end; whether it came in time.
async fn end(target: &Target, process: u64, signal: Signal, time: Duration) -> ApiResult<bool> {
    let (control, space, name) = (&target.control, target.space(), target.name());
    let mut pieces = control.process_output(space, name, process, true).await?;
    if let Err(error) = control.signal_process(space, name, process, signal).await {
        // It has ended already.
        return match error.kind {
            Kind::InvalidRequest | Kind::NotFound => Ok(true),
            _ => Err(error.into()),
        };
    }
    let ended = async {
        while let Some(piece) = pieces.next().await {
            if matches!(piece, Ok(Piece::Exited(_)) | Err(_)) {
                break;
            }
        }
    };
    Ok(tokio::time::timeout(time, ended).await.is_ok())
}

/// Starts a terminal.
async fn start(
    facade: &Facade,
    target: &Target,
    request: CreateTerminal,
) -> ApiResult<ProcessInfo> {
    let id = &request.id;
    if id.trim().is_empty() || id.len() > NAME_BYTES_MAX {
        return Err(ApiError::bad_request(format!(
            "field `id`: give a name of 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    let size = size(request.cols, request.rows)?;
    let envs = request.envs.unwrap_or_default();
    let asked = request.cwd.filter(|cwd| !cwd.is_empty());
    let tag = format!("{TAG_PREFIX}{id}");
    let exec = shell::exec(tag, size, asked.clone(), &envs, user(target));
    let (control, space, name) = (&target.control, target.space(), target.name());
    let started = control.start_process(space, name, exec).await;
    let terminal = started.map_err(|error| match error.kind {
        Kind::AlreadyExists => ApiError::new(
            StatusCode::CONFLICT,
            format!("PTY session with id `{id}` already exists; connect to it, or take another id"),
        ),
        _ => or_not_found(error, || {
            ApiError::bad_request(format!(
                "the terminal cannot be started in {:?}: there is no such directory, or no `/bin/sh`",
                asked.as_deref().unwrap_or("the working directory")
            ))
        }),
    })?;
    let cwd = match asked {
        Some(cwd) => cwd,
        None => control.places(space, name).await?.workdir,
    };
    let details = Details {
        cwd,
        envs,
        is_lazy: request.lazy_start.unwrap_or(false),
        ..Details::default()
    };
    let sandbox = &target.sandbox.id;
    facade
        .terminals
        .remember(sandbox, terminal.process, details);
    Ok(terminal)
}

/// Opens a client's connection to a terminal, once its shell is at its prompt.
async fn open(
    facade: &Facade,
    target: Target,
    terminal: &ProcessInfo,
    headers: &HeaderMap,
    upgrade: WebSocketUpgrade,
) -> ApiResult<Response> {
    let is_old = is_old(terminal, Timestamp::now());
    let screen = Screen::open(&target, terminal.process, is_old).await?;
    let wants_exit_message =
        websocket::protocols(headers).any(|protocol| protocol.eq_ignore_ascii_case(EXIT_PROTOCOL));
    let connection = Connection {
        process: terminal.process,
        details: facade
            .terminals
            .details(&target.sandbox.id, terminal.process),
        wants_exit_message,
        target,
    };
    Ok(websocket::accept(upgrade, headers, |outgoing, incoming| {
        connection.serve(screen, outgoing, incoming)
    }))
}

/// By the sandbox's clock, which is the host's.
fn is_old(terminal: &ProcessInfo, now: Timestamp) -> bool {
    let started_ms = i64::try_from(terminal.started_ms).unwrap_or(i64::MAX);
    let age_ms = now.as_millisecond().saturating_sub(started_ms);
    u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > START_TIME_MAX.as_millis())
}

/// The terminals that run.
async fn running(target: &Target) -> ApiResult<Vec<ProcessInfo>> {
    let (control, space, name) = (&target.control, target.space(), target.name());
    let mut processes = control.processes(space, name).await?;
    processes.retain(|process| {
        let tag = process.tag.as_deref().unwrap_or_default();
        process.exit.is_none() && tag.starts_with(TAG_PREFIX)
    });
    Ok(processes)
}

/// A terminal that runs, by its name.
async fn find(
    target: &Target,
    path: Result<Path<TerminalPath>, PathRejection>,
) -> ApiResult<ProcessInfo> {
    let Path(TerminalPath { terminal: id }) =
        path.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let mut terminals = running(target).await?.into_iter();
    let found = terminals.find(|terminal| name_of(terminal) == id);
    found.ok_or_else(|| {
        ApiError::not_found(format!(
            "PTY session not found: `{id}`; it has ended or never was, create it"
        ))
    })
}

fn name_of(terminal: &ProcessInfo) -> &str {
    let tag = terminal.tag.as_deref().unwrap_or_default();
    tag.strip_prefix(TAG_PREFIX).unwrap_or(tag)
}

fn body(facade: &Facade, target: &Target, terminal: &ProcessInfo) -> TerminalBody {
    let sandbox = &target.sandbox.id;
    let details = facade.terminals.details(sandbox, terminal.process);
    let size = terminal.tty.unwrap_or(SIZE_DEFAULT);
    let started_ms = i64::try_from(terminal.started_ms).unwrap_or(i64::MAX);
    TerminalBody {
        id: name_of(terminal).to_owned(),
        cwd: details.cwd.clone(),
        envs: details.envs.clone(),
        cols: size.cols,
        rows: size.rows,
        created_at: Timestamp::from_millisecond(started_ms)
            .unwrap_or(Timestamp::UNIX_EPOCH)
            .to_string(),
        active: terminal.exit.is_none(),
        lazy_start: details.is_lazy,
    }
}

fn size(cols: Option<u16>, rows: Option<u16>) -> ApiResult<TtySize> {
    let size = TtySize {
        cols: cols.unwrap_or(SIZE_DEFAULT.cols),
        rows: rows.unwrap_or(SIZE_DEFAULT.rows),
    };
    let possible = 1..=SIZE_MAX;
    match possible.contains(&size.cols) && possible.contains(&size.rows) {
        true => Ok(size),
        false => Err(ApiError::bad_request(format!(
            "fields `cols` and `rows` must be from 1 to {SIZE_MAX}"
        ))),
    }
}

/// The environment that came as a subprotocol.
fn envs_of(headers: &HeaderMap) -> ApiResult<Option<BTreeMap<String, String>>> {
    let mut offered = websocket::protocols(headers);
    let Some(encoded) = offered.find_map(|protocol| protocol.strip_prefix(ENVS_PROTOCOL_PREFIX))
    else {
        return Ok(None);
    };
    let json = ENVS_ENCODING.decode(encoded).map_err(|_| {
        ApiError::bad_request(format!(
            "subprotocol `{ENVS_PROTOCOL_PREFIX}…` is not base64url"
        ))
    })?;
    extract::parse(&json).map(Some)
}

fn no_websocket(rejection: &WebSocketUpgradeRejection) -> ApiError {
    ApiError::bad_request(format!(
        "terminals are connected to by websocket: {}",
        rejection.body_text()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderValue, header};

    fn offering(protocols: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocols),
        )])
    }

    #[test]
    fn the_environment_comes_as_a_subprotocol() {
        let headers = offering("X-Daytona-Pty-Exit-Control, X-Daytona-Pty-Envs~eyJRIjogIncifQ");
        let envs = envs_of(&headers).unwrap().unwrap();
        assert_eq!(envs, BTreeMap::from([("Q".to_owned(), "w".to_owned())]));
        assert!(envs_of(&offering("x")).unwrap().is_none());
        for odd in ["X-Daytona-Pty-Envs~!", "X-Daytona-Pty-Envs~W10"] {
            assert!(envs_of(&offering(odd)).is_err(), "{odd}");
        }
    }

    #[test]
    fn sizes_have_bounds() {
        assert_eq!(
            size(None, Some(40)).unwrap(),
            TtySize { cols: 80, rows: 40 }
        );
        assert!(size(Some(0), None).is_err());
        assert!(size(None, Some(5000)).is_err());
    }
}
