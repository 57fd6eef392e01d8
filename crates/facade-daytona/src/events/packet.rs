//! The text packets of engine.io 4 and socket.io 5, as far as a server needs
//! them that speaks websocket only, has one namespace and no acknowledgements.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longest packet from a client, bytes: it sends a token and pongs.
pub(super) const BYTES_MAX: usize = 64 << 10;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    /// It wants the default namespace, with this token.
    Connect(Option<String>),
    /// It wants another namespace.
    OtherNamespace(String),
    /// It answers a ping.
    Pong,
    /// It pings; the text comes back.
    Ping(String),
    /// It leaves.
    Leave,
    /// Something that a server without handlers need not act on.
    Other,
}

/// What a client sends when it connects.
#[derive(Debug, Default, Deserialize)]
struct Credentials {
    token: Option<String>,
}

impl FromClient {
    /// Reads a packet; what cannot be read is `Other`.
    pub(super) fn parse(text: &str) -> Self {
        if let Some(text) = text.strip_prefix('2') {
            return Self::Ping(text.to_owned());
        }
        match text {
            "1" | "41" => Self::Leave,
            _ if text.starts_with('3') => Self::Pong,
            _ => match text.strip_prefix("40") {
                Some(rest) => Self::connect(rest),
                None => Self::Other,
            },
        }
    }

    fn connect(rest: &str) -> Self {
        let (namespace, payload) = match rest.starts_with('/') {
            true => rest.split_once(',').unwrap_or((rest, "")),
            false => ("/", rest),
        };
        if namespace != "/" {
            return Self::OtherNamespace(namespace.to_owned());
        }
        let credentials: Credentials = serde_json::from_str(payload).unwrap_or_default();
        Self::Connect(credentials.token)
    }
}

/// The first packet: how the connection is kept.
pub(super) fn open(sid: &str, ping_interval: Duration, ping_timeout: Duration) -> String {
    let told = json!({
        "sid": sid,
        "upgrades": [],
        "pingInterval": ping_interval.as_millis(),
        "pingTimeout": ping_timeout.as_millis(),
        "maxPayload": BYTES_MAX,
    });
    format!("0{told}")
}

/// The namespace is open.
pub(super) fn connected(sid: &str) -> String {
    format!("40{}", json!({ "sid": sid }))
}

/// The namespace is refused.
pub(super) fn refused(namespace: &str, message: &str) -> String {
    let place = match namespace {
        "/" => String::new(),
        other => format!("{other},"),
    };
    format!("44{place}{}", json!({ "message": message }))
}

/// A ping.
pub(super) const PING: &str = "2";

/// The answer to a ping.
pub(super) fn pong(text: &str) -> String {
    format!("3{text}")
}

/// An event with its payload.
pub(super) fn event(name: &str, payload: &impl Serialize) -> String {
    let payload = serde_json::to_value(payload).unwrap_or(Value::Null);
    format!("42{}", json!([name, payload]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_of_the_sdks_are_understood() {
        let token = |token: &str| FromClient::Connect(Some(token.to_owned()));
        for (text, packet) in [
            (r#"40{"token":"k"}"#, token("k")),
            (r#"40/,{"token":"k"}"#, token("k")),
            ("40", FromClient::Connect(None)),
            ("40{", FromClient::Connect(None)),
            ("40/admin,", FromClient::OtherNamespace("/admin".into())),
            ("3", FromClient::Pong),
            ("2probe", FromClient::Ping("probe".into())),
            ("41", FromClient::Leave),
            ("1", FromClient::Leave),
            (r#"42["x"]"#, FromClient::Other),
            ("", FromClient::Other),
        ] {
            assert_eq!(FromClient::parse(text), packet, "{text}");
        }
    }

    #[test]
    fn packets_to_the_sdks_have_their_form() {
        assert_eq!(connected("s"), r#"40{"sid":"s"}"#);
        assert_eq!(refused("/", "no"), r#"44{"message":"no"}"#);
        assert_eq!(refused("/x", "no"), r#"44/x,{"message":"no"}"#);
        assert_eq!(event("a", &json!({"b": 1})), r#"42["a",{"b":1}]"#);
        let open = open("s", Duration::from_secs(25), Duration::from_secs(20));
        assert!(open.starts_with("0{") && open.contains(r#""pingInterval":25000"#));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,40}") {
            FromClient::parse(&text);
        }
    }
}
