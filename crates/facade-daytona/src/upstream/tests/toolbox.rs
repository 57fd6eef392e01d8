//! Toolboxes of the upstream's sandboxes.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::*;

const WAIT: Duration = Duration::from_secs(10);

/// A recorder that has one sandbox, `theirs`, whose toolbox is at `toolbox`.
async fn with_toolbox(toolbox: &'static str) -> Recorded {
    Recorded::new(move |arrived| {
        let host = arrived.headers[header::HOST].to_str().unwrap();
        let toolbox = toolbox.replace("HOST", host);
        let answer = match arrived.target.as_str() {
            "/api/sandbox/theirs" => json!({"id": "theirs", "toolboxProxyUrl": toolbox}),
            "/api/config" => json!({"proxyToolboxUrl": format!("http://{host}/configured")}),
            _ => json!({"at": arrived.target}),
        };
        axum::Json(answer).into_response()
    })
    .await
}

#[tokio::test]
async fn work_in_a_sandbox_of_the_upstream_is_done_there() {
    let pair = Pair::new().await;
    let theirs = pair.made_behind(json!({})).await;
    let id = theirs["id"].as_str().unwrap();
    for base in [
        format!("/toolbox/{id}"),
        format!("/api/toolbox/{id}/toolbox"),
    ] {
        let body = r#"{"command":"echo there"}"#;
        let answer = pair
            .ask(Method::POST, &format!("{base}/process/execute"), body)
            .await;
        assert_eq!(answer.side, Some(Side::Daytona));
        assert_eq!(answer.expect(200).json()["result"], "there\n");
    }
    let unknown = pair.get("/toolbox/nobody/work-dir").await.expect(404);
    assert_eq!(unknown.side, Some(Side::Daytona));
}

#[tokio::test]
async fn the_key_goes_where_the_api_says_that_the_toolbox_is() {
    let recorded = with_toolbox("http://HOST/named").await;
    let answer = recorded
        .get("/toolbox/theirs/work-dir?a=b")
        .await
        .expect(200);
    assert_eq!(answer.json()["at"], "/named/theirs/work-dir?a=b");
    recorded.get("/toolbox/theirs/work-dir").await.expect(200);
    let arrived = recorded.arrived();
    let asked = arrived
        .iter()
        .filter(|one| one.target == "/api/sandbox/theirs");
    assert_eq!(asked.count(), 1, "the answer is remembered");
    for one in &arrived {
        assert_eq!(
            one.headers[header::AUTHORIZATION],
            format!("Bearer {THEIRS}")
        );
    }
    recorded
        .get("/api/toolbox/theirs/toolbox/project-dir")
        .await
        .expect(200);
    let last = recorded.arrived().last().unwrap().target.clone();
    assert_eq!(last, "/api/toolbox/theirs/toolbox/project-dir");
}

#[tokio::test]
async fn the_key_does_not_go_to_any_host_that_is_named() {
    let recorded = with_toolbox("http://evil.test/toolbox").await;
    let answer = recorded.get("/toolbox/theirs/work-dir").await.expect(502);
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("http://evil.test") && !message.contains(THEIRS),
        "{message}"
    );
}

#[tokio::test]
async fn who_shows_a_token_is_passed_with_it_and_without_any_key() {
    let recorded = with_toolbox("http://HOST/named").await;
    let plain = |path: &str| Request::builder().uri(path).header(header::HOST, HOST);
    let with_token = plain("/toolbox/theirs/work-dir").header("x-daytona-preview-token", "tok");
    send(&recorded.router, with_token.body(Body::empty()).unwrap())
        .await
        .expect(200);
    let signed = "/toolbox/theirs/files/download?path=/a&expires=0&signature=v1_x";
    send(&recorded.router, plain(signed).body(Body::empty()).unwrap())
        .await
        .expect(200);
    let bearer = plain("/toolbox/theirs/work-dir")
        .header(header::AUTHORIZATION, "Bearer tok")
        .header(header::AUTHORIZATION, format!("Bearer {OURS}"));
    send(&recorded.router, bearer.body(Body::empty()).unwrap())
        .await
        .expect(200);
    let arrived = recorded.arrived();
    let passed: Vec<_> = arrived
        .iter()
        .filter(|one| one.target != "/api/config")
        .collect();
    assert_eq!(passed.len(), 3);
    assert_eq!(passed[0].headers["x-daytona-preview-token"], "tok");
    assert_eq!(
        passed[1].target,
        format!("/configured{}", signed.strip_prefix("/toolbox").unwrap())
    );
    assert_eq!(passed[2].headers[header::AUTHORIZATION], "Bearer tok");
    for one in passed {
        let all = format!("{:?}", one.headers);
        assert!(!all.contains(THEIRS) && !all.contains(OURS), "{all}");
        assert!(one.headers.get_all(header::AUTHORIZATION).iter().count() <= 1);
    }
}

#[tokio::test]
async fn paths_of_toolboxes_do_not_climb() {
    let recorded = with_toolbox("http://HOST/named").await;
    for path in [
        "/toolbox/theirs/../other/work-dir",
        "/toolbox/theirs/%2e%2e/other/work-dir",
        "/api/toolbox/theirs/toolbox/../../other",
    ] {
        assert_eq!(recorded.get(path).await.status, 400, "{path}");
    }
    for path in ["/toolbox/%2e%2e/work-dir", "/toolbox/a%2fb/work-dir"] {
        assert_ne!(recorded.get(path).await.status, 200, "{path}");
    }
    assert!(recorded.arrived().is_empty(), "{:?}", recorded.arrived());
}

#[tokio::test]
async fn a_body_is_passed_while_it_comes() {
    let recorded = with_toolbox("http://HOST/named").await;
    let pieces = (0..64).map(|_| Ok::<_, std::io::Error>(vec![7u8; 64 << 10]));
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    let upload = request(Method::POST, "/toolbox/theirs/files/bulk-upload", OURS).body(body);
    send(&recorded.router, upload.unwrap()).await.expect(200);
    let arrived = recorded.arrived();
    let last = arrived.last().unwrap();
    assert_eq!(last.body.len(), 4 << 20);
    assert_eq!(last.headers[header::TRANSFER_ENCODING], "chunked");
}

#[tokio::test]
async fn a_length_beside_an_encoding_smuggles_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let recorded = with_toolbox("http://HOST/named").await;
    let address = listen(recorded.router.clone()).await;
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let hidden = "GET /toolbox/theirs/hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let request = format!(
        "POST /toolbox/theirs/files HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {OURS}\r\n\
         Content-Length: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n{hidden}",
        5 + hidden.len()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    for one in recorded.arrived() {
        assert!(!one.target.contains("hidden"), "{one:?}");
        let both = one.headers.contains_key(header::CONTENT_LENGTH)
            && one.headers.contains_key(header::TRANSFER_ENCODING);
        assert!(!both && one.body.is_empty(), "{one:?}");
    }
}

#[tokio::test]
async fn a_websocket_goes_through_with_its_subprotocol() {
    let pair = Pair::new().await;
    let id = pair.made_behind(json!({})).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let address = listen(pair.router.clone()).await;
    let url = format!("ws://{address}/toolbox/{id}/process/interpreter/execute");
    let mut request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {OURS}").parse().unwrap());
    headers.insert(
        "sec-websocket-protocol",
        "X-Daytona-SDK-Version~0.226.1".parse().unwrap(),
    );
    let (mut socket, response) = connect_async(request).await.unwrap();
    assert_eq!(
        response.headers()["sec-websocket-protocol"],
        "X-Daytona-SDK-Version~0.226.1"
    );
    let cell = json!({"code": "print(6 * 7)"}).to_string();
    socket.send(Message::text(cell)).await.unwrap();
    let mut said = String::new();
    let end = loop {
        let message = tokio::time::timeout(WAIT, socket.next()).await.unwrap();
        match message {
            Some(Ok(Message::Text(text))) => said += text.as_str(),
            other => break other,
        }
    };
    assert!(matches!(end, Some(Ok(Message::Close(Some(_))))), "{end:?}");
    assert!(said.contains("completed"), "{said}");
}

#[tokio::test]
async fn a_key_of_ours_in_the_place_of_a_token_stays_here() {
    let recorded = with_toolbox("http://HOST/named").await;
    let path = "/toolbox/theirs/work-dir";
    let in_header = request(Method::GET, path, OURS).header("x-daytona-preview-token", OURS);
    let target = format!("{path}?DAYTONA_SANDBOX_AUTH_KEY={OURS}");
    for asked in [in_header, request(Method::GET, &target, "tok")] {
        send(&recorded.router, asked.body(Body::empty()).unwrap())
            .await
            .expect(401);
    }
    assert!(recorded.arrived().is_empty());
}
