//! Files, raw and as tools.

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::service::{BOX, JSON_BYTES_MAX, Service, request};

async fn put(service: &Service, query: &str, body: impl Into<Body>) -> Value {
    let request = request("PUT", &format!("{BOX}/files?{query}"), body.into());
    service.send(request).await.expect(200).json()
}

async fn tool(service: &Service, tool: &str, body: Value) -> Value {
    let path = format!("{BOX}/tools:{tool}");
    service
        .post(&path, body.to_string())
        .await
        .expect(200)
        .json()
}

#[tokio::test]
async fn raw_bytes_go_in_and_come_out() {
    let service = Service::with_box().await;
    let content: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    assert!(content.len() > JSON_BYTES_MAX);
    let entry = put(
        &service,
        "path=/data/a%20b%C3%BC.bin&mode=0600",
        content.clone(),
    )
    .await;
    assert_eq!(entry["path"], "/data/a bü.bin");
    assert_eq!(entry["size"], 1 << 20);
    assert_eq!(entry["mode"], "0600");
    assert_eq!(entry["kind"], "file");
    let read = service
        .get(&format!("{BOX}/files?path=/data/a%20b%C3%BC.bin"))
        .await
        .expect(200);
    assert!(read.body == content);
    assert_eq!(read.header("content-length"), "1048576");
    assert_eq!(read.header("content-type"), "application/octet-stream");
    assert_eq!(read.header("x-content-type-options"), "nosniff");
    let told: Value = serde_json::from_str(read.header("x-file-entry")).unwrap();
    assert_eq!(told, entry);
    let part = format!("{BOX}/files?path=/data/a%20b%C3%BC.bin&offset=10&length=5");
    let part = service.get(&part).await.expect(200);
    assert_eq!(part.body, [10, 11, 12, 13, 14]);
}

#[tokio::test]
async fn a_body_without_a_length_is_streamed() {
    let service = Service::with_box().await;
    let parts = ["one ", "two ", "three"].map(|part| Ok::<_, std::io::Error>(Bytes::from(part)));
    let entry = put(
        &service,
        "path=/s",
        Body::from_stream(futures_util::stream::iter(parts)),
    )
    .await;
    assert_eq!(entry["size"], 13);
    put(&service, "path=/s&append=true", " four").await;
    let read = service
        .get(&format!("{BOX}/files?path=/s"))
        .await
        .expect(200);
    assert_eq!(read.text(), "one two three four");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_old_file() {
    let service = Service::with_box().await;
    put(&service, "path=/s", "old").await;
    let path = format!("{BOX}/files?path=/s");
    let parts = [Ok(Bytes::from("new")), Err(std::io::Error::other("reset"))];
    let broken = Body::from_stream(futures_util::stream::iter(parts));
    let answer = service.send(request("PUT", &path, broken)).await;
    assert!(answer.status.is_client_error(), "{}", answer.text());
    let silent = Body::from_stream(futures_util::stream::pending::<std::io::Result<Bytes>>());
    let answer = service.send(request("PUT", &path, silent)).await;
    assert_eq!(answer.expect(504).json()["kind"], "timeout");
    assert_eq!(service.get(&path).await.expect(200).text(), "old");
}

#[tokio::test]
async fn head_tells_what_get_would() {
    let service = Service::with_box().await;
    put(&service, "path=/s", "12345").await;
    let path = format!("{BOX}/files?path=/s");
    let head = service.open(request("HEAD", &path, Body::empty())).await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-length"], "5");
    assert!(head.headers().contains_key("x-file-entry"));
    assert!(
        head.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    let missing = service
        .call("HEAD", &format!("{BOX}/files?path=/none"))
        .await
        .expect(404);
    assert!(missing.body.is_empty());
}

#[tokio::test]
async fn files_are_removed() {
    let service = Service::with_box().await;
    put(&service, "path=/d/f", "x").await;
    service
        .call("DELETE", &format!("{BOX}/files?path=/d&recursive=true"))
        .await
        .expect(204);
    let gone = service
        .get(&format!("{BOX}/files?path=/d/f"))
        .await
        .expect(404)
        .json();
    assert!(gone["message"].as_str().unwrap().contains("/d/f"), "{gone}");
    put(&service, "path=/d/f", "x").await;
    let remove = format!("{BOX}/tools:remove_file");
    service
        .post(&remove, r#"{"path":"/d","recursive":true}"#)
        .await
        .expect(204);
    service.post(&remove, r#"{"path":"/d"}"#).await.expect(404);
}

#[tokio::test]
async fn the_tools_for_files() {
    let service = Service::with_box().await;
    let written = tool(
        &service,
        "write_file",
        json!({"path": "/w/a.txt", "text": "grüße\n", "mode": "0640"}),
    )
    .await;
    assert_eq!(
        (&written["size"], &written["mode"]),
        (&json!(8), &json!("0640"))
    );
    tool(
        &service,
        "write_file",
        json!({"path": "/w/b.bin", "base64": "/wD/"}),
    )
    .await;
    let text = tool(&service, "read_file", json!({"path": "/w/a.txt"})).await;
    assert_eq!(
        (&text["text"], &text["truncated"]),
        (&json!("grüße\n"), &json!(false))
    );
    assert_eq!(text["entry"], written);
    let binary = tool(&service, "read_file", json!({"path": "/w/b.bin"})).await;
    assert_eq!(binary["base64"], "/wD/");
    assert_eq!(binary.get("text"), None);
    let part = tool(
        &service,
        "read_file",
        json!({"path": "/w/a.txt", "offset": 5, "length": 2}),
    )
    .await;
    assert_eq!(part["truncated"], true);
    let made = tool(
        &service,
        "make_directory",
        json!({"path": "/w/d", "mode": "700"}),
    )
    .await;
    assert_eq!(
        (&made["kind"], &made["mode"]),
        (&json!("directory"), &json!("0700"))
    );
    let moved = tool(
        &service,
        "move_file",
        json!({"source": "/w/b.bin", "destination": "/w/d/c.bin"}),
    )
    .await;
    assert_eq!(moved["path"], "/w/d/c.bin");
    let changed = tool(
        &service,
        "set_permissions",
        json!({"path": "/w/a.txt", "mode": "0400"}),
    )
    .await;
    assert_eq!(changed["mode"], "0400");
    let stat = tool(&service, "stat_file", json!({"path": "/w/a.txt"})).await;
    assert_eq!(stat, changed);
    let list = tool(&service, "list_files", json!({"path": "/w", "depth": 2})).await;
    let entries = list["entries"].as_array().unwrap();
    let paths: Vec<&str> = entries
        .iter()
        .map(|entry| entry["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/w/a.txt", "/w/d", "/w/d/c.bin"]);
    assert_eq!(list["truncated"], false);
    let short = tool(&service, "list_files", json!({"path": "/w", "limit": 1})).await;
    assert_eq!(short["truncated"], true);
}

#[tokio::test]
async fn what_is_wrong_about_files_is_named() {
    let service = Service::with_box().await;
    for (tool, body, field) in [
        ("read_file", r#"{}"#, "path"),
        ("read_file", r#"{"path":""}"#, "path"),
        (
            "read_file",
            r#"{"path":"/a","length":99999999999}"#,
            "length",
        ),
        ("stat_file", "{\"path\":\"a\\u0000b\"}", "path"),
        ("write_file", r#"{"path":"/a"}"#, "text"),
        (
            "write_file",
            r#"{"path":"/a","text":"","base64":""}"#,
            "base64",
        ),
        ("write_file", r#"{"path":"/a","base64":"?"}"#, "base64"),
        (
            "write_file",
            r#"{"path":"/a","text":"","mode":"rw"}"#,
            "mode",
        ),
        (
            "write_file",
            r#"{"path":"/a","text":"","mode":420}"#,
            "mode",
        ),
        ("set_permissions", r#"{"path":"/a"}"#, "mode"),
        ("move_file", r#"{"source":"/a"}"#, "destination"),
        ("list_files", r#"{"dept":1}"#, "dept"),
    ] {
        let refused = service
            .post(&format!("{BOX}/tools:{tool}"), body)
            .await
            .expect(400)
            .json();
        assert_eq!(refused["field"], field, "{tool} {body}: {refused}");
    }
    for query in [
        "",
        "path=",
        "path=/a&offset=x",
        "path=/a&ofset=1",
        "path=/a&length=-1",
    ] {
        let refused = service
            .get(&format!("{BOX}/files?{query}"))
            .await
            .expect(400)
            .json();
        assert_eq!(refused["kind"], "invalid_request", "{query}");
    }
    let taken = json!({"source": "/x", "destination": "/y"}).to_string();
    put(&service, "path=/x", "").await;
    put(&service, "path=/y", "").await;
    let refused = service
        .post(&format!("{BOX}/tools:move_file"), taken)
        .await
        .expect(409)
        .json();
    assert_eq!(refused["kind"], "already_exists");
}
