//! What all websockets of the toolbox have in common: bounds, signs of life,
//! and a clean end.

use std::time::Duration;

use axum::{
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{Instrument as _, Span};

/// Longest message from a client, bytes. A paste into a terminal or the code of
/// a cell must fit.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How often the client is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long a client may give no sign of life, not even an answer to a ping. A
/// program that is quiet for hours is none of its business.
const SILENCE_TIME_MAX: Duration = Duration::from_secs(300);

/// How long a client may take to accept one message.
const SEND_TIME_MAX: Duration = Duration::from_secs(300);

/// How long a client may take to answer a close.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);

/// Longest reason of a close, bytes (RFC 6455, section 5.5).
const REASON_BYTES_MAX: usize = 123;

/// Why a websocket was closed.
pub(super) mod close_code {
    /// Everything was said.
    pub(crate) const NORMAL: u16 = 1000;
    /// The client asked for something that is not possible.
    pub(crate) const POLICY: u16 = 1008;
    /// It did not end well.
    pub(crate) const ERROR: u16 = 1011;
    /// The time of a cell is over (Daytona's own).
    pub(crate) const TIMEOUT: u16 = 4008;
}

/// The client is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// The way to the client.
#[derive(Debug)]
pub(super) struct Outgoing(SplitSink<WebSocket, Message>);

/// The way from the client.
#[derive(Debug)]
pub(super) struct Incoming(SplitStream<WebSocket>);

/// Becomes a websocket, with one of the subprotocols that the client offered.
pub(super) fn accept<F>(
    upgrade: WebSocketUpgrade,
    headers: &HeaderMap,
    serve: impl FnOnce(Outgoing, Incoming) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut upgrade = upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX);
    if let Some(protocol) = chosen_protocol(headers) {
        upgrade.set_selected_protocol(protocol);
    }
    // It goes on in a task of its own, but about the same request.
    let span = Span::current();
    upgrade.on_upgrade(|socket| {
        let serve = async move {
            let (outgoing, incoming) = socket.split();
            serve(Outgoing(outgoing), Incoming(incoming)).await;
        };
        serve.instrument(span)
    })
}

/// The subprotocols that a client offers, in its order.
pub(super) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty())
}

/// One that was offered must be chosen, or browsers and some SDKs hang up. One
/// without a value after `~` is no secret and says what it is.
fn chosen_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered: Vec<&str> = protocols(headers).collect();
    let plain = offered.iter().find(|protocol| !protocol.contains('~'));
    let chosen = plain.or(offered.first())?;
    HeaderValue::from_str(chosen).ok()
}

impl Outgoing {
    /// Sends one message; waits while the client is slow.
    pub(super) async fn send(&mut self, message: Message) -> Result<(), Gone> {
        match tokio::time::timeout(SEND_TIME_MAX, self.0.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// Asks for a sign of life.
    pub(super) async fn ping(&mut self) -> Result<(), Gone> {
        self.send(Message::Ping(Vec::new().into())).await
    }

    /// Says the last word and waits for the client's.
    pub(super) async fn close(mut self, incoming: &mut Incoming, code: u16, reason: &str) {
        let reason = shortened(reason).into();
        let closing = async {
            if self
                .0
                .send(Message::Close(Some(CloseFrame { code, reason })))
                .await
                .is_ok()
            {
                while let Some(Ok(_)) = incoming.0.next().await {}
            }
        };
        // A client that does not answer is dropped.
        let _late = tokio::time::timeout(CLOSE_TIME_MAX, closing).await;
    }
}

impl Incoming {
    /// The next text or binary message; `None` when the client has left or gives
    /// no sign of life.
    pub(super) async fn receive(&mut self) -> Option<Message> {
        loop {
            let message = tokio::time::timeout(SILENCE_TIME_MAX, self.0.next()).await;
            match message.ok()??.ok()? {
                message @ (Message::Text(_) | Message::Binary(_)) => return Some(message),
                // Pings are answered by the library.
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return None,
            }
        }
    }

    /// Skips what the client says until it leaves.
    pub(super) async fn left(&mut self) {
        while self.receive().await.is_some() {}
    }
}

/// When to ask for signs of life.
pub(super) fn ping_times() -> Interval {
    let mut times = tokio::time::interval(PING_INTERVAL);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    times.reset();
    times
}

/// As much of a reason as fits into a close.
fn shortened(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_that_was_offered_is_chosen_and_no_secret_echoed() {
        let chosen = |offered: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(offered),
            );
            chosen_protocol(&headers).map(|value| value.to_str().unwrap().to_owned())
        };
        let envs_first = "X-Daytona-Pty-Envs~e30, X-Daytona-Pty-Exit-Control";
        assert_eq!(chosen(envs_first).unwrap(), "X-Daytona-Pty-Exit-Control");
        let version = "X-Daytona-SDK-Version~0.216.0";
        assert_eq!(chosen(version).unwrap(), version);
        assert_eq!(chosen(""), None);
        assert_eq!(chosen_protocol(&HeaderMap::new()), None);
    }

    #[test]
    fn reasons_are_cut_at_a_character() {
        assert_eq!(shortened("short"), "short");
        let cut = shortened(&"ä".repeat(100)).to_owned();
        assert_eq!(cut, "ä".repeat(61));
    }
}
