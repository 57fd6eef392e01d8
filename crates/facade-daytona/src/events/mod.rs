//! Changes of sandboxes, told over Socket.IO (engine.io 4, websocket only).
//!
//! SDKs from 0.198 on open such a connection when they start. It spares them
//! waiting: without it they ask once a second whether a state is reached. In
//! front of a Daytona they hear of its sandboxes, too.

mod packet;

use std::time::Duration;

use axum::{
    Router,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::StatusCode,
    response::Response,
    routing::get,
};
use control::StateChange;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tracing::{Instrument as _, Span};

use crate::{
    Facade,
    control_plane::{Caller, SandboxDto, Shown, WaitingChange, word_of},
    error::{ApiError, ApiResult},
    extract::QueryOf,
    token,
    upstream::Relayed,
    version::SdkVersion,
};
use packet::FromClient;

/// How often the server asks whether the client is still there.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// How long the client may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the client may take to show its token.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the client may take to read a packet.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);

/// The route below `/api`. The client shows its key in its first packet.
pub(crate) fn routes() -> Router<Facade> {
    Router::new()
        .route("/socket.io/", get(connect))
        .route("/socket.io", get(connect))
}

/// What a client says in the URL.
#[derive(Debug, Deserialize)]
struct Handshake {
    #[serde(rename = "EIO")]
    version: Option<String>,
    transport: Option<String>,
    #[serde(rename = "sdkVersion")]
    sdk_version: Option<String>,
}

async fn connect(
    State(facade): State<Facade>,
    mut caller: Caller,
    QueryOf(handshake): QueryOf<Handshake>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let wanted = (handshake.version.as_deref(), handshake.transport.as_deref());
    if wanted != (Some("4"), Some("websocket")) {
        return Err(ApiError::bad_request(
            "this server speaks engine.io version 4 over websockets only; ask with EIO=4&transport=websocket",
        ));
    }
    let upgrade = upgrade
        .map_err(|rejection| ApiError::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    // Browsers cannot set the header.
    let sdk_version = handshake.sdk_version;
    if let Some(version) = sdk_version.as_deref().and_then(SdkVersion::parse) {
        caller.version = version;
    }
    let upgrade = upgrade
        .max_message_size(packet::BYTES_MAX)
        .max_frame_size(packet::BYTES_MAX);
    let span = Span::current();
    Ok(upgrade.on_upgrade(move |socket| {
        let serve = async move {
            // What a client that went away did not get concerns nobody.
            let ended = Connection::new(facade, caller, sdk_version, socket)
                .run()
                .await;
            tracing::debug!(?ended, "an event connection ended");
        };
        serve.instrument(span)
    }))
}

/// Why a connection ends.
#[derive(Debug)]
enum Ended {
    /// The client left, or said what cannot be answered.
    ByClient,
    /// It showed no token in time.
    NoToken,
    /// It answers no pings.
    NoPong,
    /// It does not read what it is sent.
    DoesNotRead,
    /// It may not listen.
    Refused,
    /// There will be no more changes.
    NoMore,
}

struct Connection {
    facade: Facade,
    caller: Caller,
    /// As the client tells it.
    sdk_version: Option<String>,
    socket: WebSocket,
}

/// A change of state, as clients are told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Updated<'a> {
    sandbox: &'a SandboxDto,
    old_state: &'a str,
    new_state: &'a str,
}

impl Connection {
    fn new(facade: Facade, caller: Caller, sdk_version: Option<String>, socket: WebSocket) -> Self {
        Self {
            facade,
            caller,
            sdk_version,
            socket,
        }
    }

    async fn run(mut self) -> Ended {
        let ended = match self.open().await {
            Ok(()) => self.tell_changes().await,
            Err(ended) => ended,
        };
        // So that the client sees an end and not a torn connection.
        let _ = timeout(SEND_TIMEOUT, self.socket.send(Message::Close(None))).await;
        ended
    }

    /// From the first packet until the client may listen.
    async fn open(&mut self) -> Result<(), Ended> {
        let sid = token::random().map_err(|_| Ended::NoMore)?;
        self.send(packet::open(&sid, PING_INTERVAL, PING_TIMEOUT))
            .await?;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        loop {
            let received = tokio::time::timeout_at(deadline, self.receive()).await;
            match received.map_err(|_| Ended::NoToken)?? {
                FromClient::Connect(token) => {
                    let accepts = &self.facade.config.accepts_key;
                    if token.is_some_and(|token| accepts(token.as_bytes())) {
                        let sid = token::random().map_err(|_| Ended::NoMore)?;
                        return self.send(packet::connected(&sid)).await;
                    }
                    self.send(packet::refused("/", "invalid credentials"))
                        .await?;
                    return Err(Ended::Refused);
                }
                FromClient::OtherNamespace(namespace) => {
                    self.send(packet::refused(&namespace, "invalid namespace"))
                        .await?;
                }
                FromClient::Ping(text) => self.send(packet::pong(&text)).await?,
                FromClient::Leave => return Err(Ended::ByClient),
                FromClient::Pong | FromClient::Other => {}
            }
        }
    }

    async fn tell_changes(&mut self) -> Ended {
        let mut changes = self.facade.control.watch_changes();
        let mut waiting = self.facade.waiting.watch();
        let upstream = self.facade.upstream.as_ref();
        let mut relayed = upstream
            .map(|upstream| upstream.listen(self.sdk_version.clone(), self.caller.base.clone()));
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let done = tokio::select! {
                received = self.receive() => match received {
                    Ok(FromClient::Leave) => Err(Ended::ByClient),
                    Ok(FromClient::Ping(text)) => self.send(packet::pong(&text)).await,
                    Ok(_) => {
                        heard = Instant::now();
                        Ok(())
                    }
                    Err(ended) => Err(ended),
                },
                change = next(&mut changes) => match change {
                    Some(change) => self.tell(change).await,
                    None => Err(Ended::NoMore),
                },
                change = next(&mut waiting) => match change {
                    Some(change) => self.tell_waiting(change).await,
                    None => Err(Ended::NoMore),
                },
                packet = from_upstream(&mut relayed) => self.send(packet).await,
                _ = pings.tick() => match heard.elapsed() > PING_INTERVAL + PING_TIMEOUT {
                    true => Err(Ended::NoPong),
                    false => self.send(packet::PING.to_owned()).await,
                },
            };
            if let Err(ended) = done {
                return ended;
            }
        }
    }

    async fn tell(&mut self, change: StateChange) -> Result<(), Ended> {
        if change.sandbox.space != self.facade.config.space {
            return Ok(());
        }
        let from = change.from.map(|state| word_of(state, self.caller.version));
        self.announce(&change.sandbox.into(), from).await
    }

    async fn tell_waiting(&mut self, change: WaitingChange) -> Result<(), Ended> {
        self.announce(&change.shown, change.from).await
    }

    async fn announce(&mut self, shown: &Shown, from: Option<&str>) -> Result<(), Ended> {
        let sandbox = SandboxDto::of(shown, &self.caller.base, self.caller.version);
        let event = match from {
            None => packet::event("sandbox.created", &sandbox),
            Some(old_state) => packet::event(
                "sandbox.state.updated",
                &Updated {
                    sandbox: &sandbox,
                    old_state,
                    new_state: sandbox.state,
                },
            ),
        };
        self.send(event).await
    }

    async fn send(&mut self, text: String) -> Result<(), Ended> {
        match timeout(SEND_TIMEOUT, self.socket.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::ByClient),
            Err(_) => Err(Ended::DoesNotRead),
        }
    }

    async fn receive(&mut self) -> Result<FromClient, Ended> {
        match self.socket.recv().await {
            Some(Ok(Message::Text(text))) => Ok(FromClient::parse(&text)),
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Ended::ByClient),
            Some(Ok(_)) => Ok(FromClient::Other),
        }
    }
}

/// The next packet of the upstream; none comes when there is no upstream.
async fn from_upstream(relayed: &mut Option<Relayed>) -> String {
    match relayed {
        Some(relayed) => relayed.next().await,
        None => std::future::pending().await,
    }
}

/// The next change; `None` when there will be none. What a slow reader missed
/// is left out: clients ask now and then by themselves.
async fn next<T: Clone>(changes: &mut Receiver<T>) -> Option<T> {
    loop {
        match changes.recv().await {
            Ok(change) => return Some(change),
            Err(RecvError::Lagged(missed)) => {
                tracing::debug!(missed, "a client reads events too slowly");
            }
            Err(RecvError::Closed) => return None,
        }
    }
}

#[cfg(test)]
mod tests;
