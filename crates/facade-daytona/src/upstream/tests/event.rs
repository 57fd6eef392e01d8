//! Events of the upstream's sandboxes.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::*;

const WAIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn who_listens_here_hears_of_both_sides() {
    let pair = Pair::new().await;
    let address = listen(pair.router.clone()).await;
    let url = format!("ws://{address}/api/socket.io/?EIO=4&transport=websocket&sdkVersion=0.226.1");
    let (mut socket, _) = connect_async(url).await.unwrap();
    let connect = format!(r#"40{{"token":"{OURS}"}}"#);
    socket.send(Message::text(connect)).await.unwrap();
    let there = async {
        // The connection to the upstream is made beside this one.
        loop {
            let made = pair.made_behind(json!({})).await["id"]
                .as_str()
                .unwrap()
                .to_owned();
            let told = async {
                loop {
                    let message = socket.next().await.unwrap().unwrap().into_text().unwrap();
                    if message.starts_with("42") && message.contains(&made) {
                        return message.to_string();
                    }
                }
            };
            if let Ok(told) = tokio::time::timeout(Duration::from_millis(500), told).await {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(WAIT, there).await.unwrap();
    assert!(
        told.contains(&format!("http://{address}/toolbox")),
        "{told}"
    );
    pair.ask(Method::POST, "/api/sandbox", r#"{"name":"here"}"#)
        .await
        .expect(200);
    let here = async {
        loop {
            let message = socket.next().await.unwrap().unwrap().into_text().unwrap();
            if message.contains(r#""name":"here""#) {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, here).await.unwrap();
}

#[tokio::test]
async fn an_upstream_without_events_is_no_fault() {
    let recorded = Recorded::new(|_| StatusCode::NOT_FOUND.into_response()).await;
    let address = listen(recorded.router.clone()).await;
    let url = format!("ws://{address}/api/socket.io/?EIO=4&transport=websocket");
    let (mut socket, _) = connect_async(url).await.unwrap();
    let connect = format!(r#"40{{"token":"{OURS}"}}"#);
    socket.send(Message::text(connect)).await.unwrap();
    // Its answer, then those of this server.
    for begin in ["0{", "40{"] {
        let message = tokio::time::timeout(WAIT, socket.next()).await.unwrap();
        let text = message.unwrap().unwrap().into_text().unwrap();
        assert!(text.starts_with(begin), "{text}");
    }
    recorded.get("/api/config").await.expect(200);
    let asked = async {
        while !recorded
            .arrived()
            .iter()
            .any(|one| one.target.starts_with("/api/socket.io/"))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, asked).await.unwrap();
    let made = request(Method::POST, "/api/sandbox", OURS)
        .body(Body::from("{}"))
        .unwrap();
    send(&recorded.router, made).await.expect(200);
    let message = tokio::time::timeout(WAIT, socket.next()).await.unwrap();
    let text = message.unwrap().unwrap().into_text().unwrap();
    assert!(text.starts_with(r#"42["sandbox.created""#), "{text}");
}
