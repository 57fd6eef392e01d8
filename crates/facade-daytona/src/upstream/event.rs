//! Changes of the upstream's sandboxes, for who listens to those of this server.
//!
//! For each listener a connection of Socket.IO is kept at the upstream. Where
//! that cannot be had, the listener hears of this server's sandboxes alone, and
//! asks for the others now and then, as SDKs do anyway.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use reqwest::Upgraded;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};

use super::{Upstream, rewrite};
use crate::{base_url::BaseUrl, error::ApiResult};

/// Packets that wait for a listener; what is more is left out.
const PACKETS_MAX: usize = 64;
/// Longest packet of the upstream, bytes.
const PACKET_BYTES_MAX: usize = 1 << 20;
/// How long the upstream may say nothing: it pings at least so often.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// How long the upstream may take to let us listen.
const OPEN_TIME_MAX: Duration = Duration::from_secs(30);
/// How long to wait before the next attempt: from, and at most.
const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// What the upstream tells, as packets for a listener of this server.
#[derive(Debug)]
pub(crate) struct Relayed {
    packets: mpsc::Receiver<String>,
    task: JoinHandle<()>,
}

impl Drop for Relayed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relayed {
    /// The next packet; it may never come.
    pub(crate) async fn next(&mut self) -> String {
        match self.packets.recv().await {
            Some(packet) => packet,
            None => std::future::pending().await,
        }
    }
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("nobody listens any more")]
    Unheard,
    #[error("the upstream has ended the connection, or says nothing")]
    Closed,
    #[error("the upstream does not let us listen: {0}")]
    Refused(String),
}

type Socket = WebSocketStream<Upgraded>;

impl Upstream {
    /// Listens for somebody with that SDK, who came to `base`.
    pub(crate) fn listen(&self, sdk_version: Option<String>, base: BaseUrl) -> Relayed {
        let (sender, packets) = mpsc::channel(PACKETS_MAX);
        let upstream = self.clone();
        let task = tokio::spawn(async move {
            let mut pause = RETRY_AFTER[0];
            loop {
                let heard = upstream.hear(sdk_version.as_deref(), &base, &sender);
                let (was_open, ended) = heard.await;
                tracing::debug!(why = %ended, "no events of the upstream for now");
                if matches!(ended, Ended::Unheard) {
                    return;
                }
                pause = match was_open {
                    true => RETRY_AFTER[0],
                    false => (pause * 2).min(RETRY_AFTER[1]),
                };
                tokio::time::sleep(pause).await;
            }
        });
        Relayed { packets, task }
    }

    /// One connection, and whether it got as far as to be heard on.
    async fn hear(
        &self,
        sdk_version: Option<&str>,
        base: &BaseUrl,
        sender: &mpsc::Sender<String>,
    ) -> (bool, Ended) {
        let opening = async {
            let connected = self.connect_events(sdk_version).await;
            let mut socket = connected.map_err(|error| Ended::Refused(error.message))?;
            self.open(&mut socket).await?;
            Ok(socket)
        };
        let opened = tokio::time::timeout(OPEN_TIME_MAX, opening).await;
        let mut socket = match opened.unwrap_or(Err(Ended::Closed)) {
            Ok(socket) => socket,
            Err(ended) => return (false, ended),
        };
        loop {
            let text = match said(&mut socket).await {
                Ok(text) => text,
                Err(ended) => return (true, ended),
            };
            let Some(event) = text.strip_prefix("42") else {
                continue;
            };
            let learn = |id: &str, url: &str| self.learn_toolbox(id, url);
            let event = rewritten(event, base, &learn).unwrap_or_else(|| event.to_owned());
            match sender.try_send(format!("42{event}")) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::debug!("a client reads events of the upstream too slowly");
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return (true, Ended::Unheard),
            }
        }
    }

    /// A websocket to the upstream's Socket.IO.
    async fn connect_events(&self, sdk_version: Option<&str>) -> ApiResult<Socket> {
        let mut url = self.api("/socket.io/")?;
        url.query_pairs_mut()
            .append_pair("EIO", "4")
            .append_pair("transport", "websocket")
            .append_pair("source", "sandboxai")
            .extend_pairs(sdk_version.map(|version| ("sdkVersion", version)));
        let mut random = [0u8; 16];
        getrandom::fill(&mut random)
            .map_err(|error| self.failed(&format!("cannot be asked: {error}")))?;
        let key = STANDARD.encode(random);
        let mut headers = HeaderMap::from_iter([
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (
                header::SEC_WEBSOCKET_VERSION,
                HeaderValue::from_static("13"),
            ),
            (header::AUTHORIZATION, self.0.key.0.clone()),
        ]);
        if let Ok(key) = HeaderValue::from_str(&key) {
            headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
        let answer = self.send(Method::GET, url, headers, Body::empty()).await?;
        let accepted = answer.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        let is_accepted =
            accepted.is_some_and(|given| given == derive_accept_key(key.as_bytes()).as_str());
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS || !is_accepted {
            return Err(self.failed(&format!("has no events: {}", answer.status())));
        }
        let upgraded = answer
            .upgrade()
            .await
            .map_err(|error| self.no_answer(&error))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(PACKET_BYTES_MAX))
            .max_frame_size(Some(PACKET_BYTES_MAX));
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
    }

    /// From the first packet until we may listen.
    async fn open(&self, socket: &mut Socket) -> Result<(), Ended> {
        loop {
            let text = said(socket).await?;
            if text.starts_with('0') {
                let connect = json!({ "token": self.0.key.token() });
                send(socket, format!("40{connect}")).await?;
            } else if text.starts_with("40") {
                return Ok(());
            } else if let Some(why) = text.strip_prefix("44") {
                return Err(Ended::Refused(why.chars().take(200).collect()));
            }
        }
    }
}

/// The next packet that is no ping.
async fn said(socket: &mut Socket) -> Result<String, Ended> {
    loop {
        let message = tokio::time::timeout(SILENCE_MAX, socket.next()).await;
        match message.map_err(|_| Ended::Closed)? {
            Some(Ok(Message::Text(text))) => match text.as_str() {
                "1" | "41" => return Err(Ended::Closed),
                ping if ping.starts_with('2') => send(socket, ping.replacen('2', "3", 1)).await?,
                text => return Ok(text.to_owned()),
            },
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Ended::Closed),
            Some(Ok(_)) => {}
        }
    }
}

async fn send(socket: &mut Socket, text: String) -> Result<(), Ended> {
    match tokio::time::timeout(OPEN_TIME_MAX, socket.send(Message::text(text))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Ended::Closed),
    }
}

/// The arguments of an event with the URL of a sandbox in them that leads here:
/// it is the second one, or in the second one's field `sandbox`.
fn rewritten(event: &str, base: &BaseUrl, learn: rewrite::Learn<'_>) -> Option<String> {
    let mut arguments: Vec<Box<RawValue>> = serde_json::from_str(event).ok()?;
    let payload = arguments.get_mut(1)?;
    let mut object: rewrite::Object = serde_json::from_str(payload.get()).ok()?;
    let mut is_changed = rewrite::sandbox(&mut object, base, learn);
    if let Some(field) = object.get_mut("sandbox")
        && let Ok(mut sandbox) = serde_json::from_str::<rewrite::Object>(field.get())
        && rewrite::sandbox(&mut sandbox, base, learn)
    {
        *field = to_raw_value(&sandbox).ok()?;
        is_changed = true;
    }
    if !is_changed {
        return None;
    }
    *payload = to_raw_value(&object).ok()?;
    serde_json::to_string(&arguments).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_of_an_event_leads_here_and_nothing_else_changes() {
        let base = BaseUrl("http://here".into());
        let of = |event: &str| rewritten(event, &base, &|_, _| {});
        assert_eq!(
            of(r#"["sandbox.created",{"id":"x","cpu":1.0,"toolboxProxyUrl":"http://there"}]"#)
                .unwrap(),
            r#"["sandbox.created",{"cpu":1.0,"id":"x","toolboxProxyUrl":"http://here/toolbox"}]"#
        );
        let updated = r#"["sandbox.state.updated",{"newState":"started","sandbox":{"id":"x","toolboxProxyUrl":"http://there"}}]"#;
        assert!(of(updated).unwrap().contains("http://here/toolbox"));
        for other in [
            r#"["volume.created",{"id":"v"}]"#,
            r#"["x"]"#,
            "[]",
            "{}",
            "",
            r#"["x",3]"#,
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
