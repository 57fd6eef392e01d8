//! A client of the protocol against the real route.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use control::Create;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};

use crate::{Facade, FacadeConfig, testing};

const PATH: &str = "/api/socket.io/?EIO=4&transport=websocket&sdkVersion=0.226.1";
const WAIT: Duration = Duration::from_secs(5);

struct Served {
    facade: Facade,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

async fn served() -> Served {
    let (control, folder) = testing::control().await;
    let config = FacadeConfig {
        accepts_key: Arc::new(|key| key == b"right"),
        ..FacadeConfig::new("sandboxai/box".to_owned())
    };
    let facade = Facade::new(control, config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = crate::routes(facade.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Served {
        facade,
        address,
        _folder: folder,
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn said(socket: &mut Socket) -> String {
    let message = tokio::time::timeout(WAIT, socket.next()).await.unwrap();
    message.unwrap().unwrap().into_text().unwrap().to_string()
}

async fn connected(served: &Served, token: &str) -> Socket {
    let url = format!("ws://{}{PATH}", served.address);
    let (mut socket, _) = connect_async(url).await.unwrap();
    assert!(said(&mut socket).await.starts_with(r#"0{"#));
    let connect = format!(r#"40{{"token":"{token}"}}"#);
    socket.send(Message::text(connect)).await.unwrap();
    socket
}

#[tokio::test]
async fn changes_of_state_are_told_to_who_has_the_key() {
    let served = served().await;
    let mut socket = connected(&served, "right").await;
    assert!(said(&mut socket).await.starts_with(r#"40{"sid":"#));
    let created = served.facade.control.create(Create::default()).await;
    let id = created.unwrap().sandbox.id;
    let created = said(&mut socket).await;
    assert!(
        created.starts_with(r#"42["sandbox.created",{"#),
        "{created}"
    );
    let updated = said(&mut socket).await;
    let told: serde_json::Value =
        serde_json::from_str(updated.strip_prefix("42").unwrap()).unwrap();
    assert_eq!(told[0], "sandbox.state.updated");
    assert_eq!(told[1]["sandbox"]["id"], id.as_str());
    assert_eq!(told[1]["oldState"], "creating");
    assert_eq!(told[1]["newState"], "started");
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_the_connection_ends() {
    let served = served().await;
    let mut socket = connected(&served, "wrong").await;
    assert_eq!(
        said(&mut socket).await,
        r#"44{"message":"invalid credentials"}"#
    );
    let end = tokio::time::timeout(WAIT, socket.next()).await.unwrap();
    assert!(matches!(end, Some(Ok(Message::Close(_))) | None), "{end:?}");
}

#[tokio::test]
async fn a_ping_is_answered_and_leaving_ends_the_connection() {
    let served = served().await;
    let mut socket = connected(&served, "right").await;
    said(&mut socket).await;
    socket.send(Message::text("2x")).await.unwrap();
    assert_eq!(said(&mut socket).await, "3x");
    socket.send(Message::text("41")).await.unwrap();
    let end = tokio::time::timeout(WAIT, socket.next()).await.unwrap();
    assert!(matches!(end, Some(Ok(Message::Close(_))) | None), "{end:?}");
}

#[tokio::test]
async fn other_transports_are_told_what_is_spoken_here() {
    let served = served().await;
    let url = format!(
        "ws://{}/api/socket.io/?EIO=4&transport=polling",
        served.address
    );
    match connect_async(url).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 400),
        other => panic!("{other:?}"),
    }
}
