//! Background processes.

use axum::body::Body;
use serde_json::{Value, json};

use crate::service::{BOX, Service, request};

async fn start(service: &Service, body: Value) -> Value {
    let path = format!("{BOX}/processes");
    service
        .post(&path, body.to_string())
        .await
        .expect(201)
        .json()
}

fn path(process: &Value, rest: &str) -> String {
    format!("{BOX}/processes/{}{rest}", process["id"])
}

#[tokio::test]
async fn a_process_is_started_listed_and_read() {
    let service = Service::with_box().await;
    let process = start(
        &service,
        json!({"command": "echo out; echo err >&2; exit 4"}),
    )
    .await;
    assert_eq!(process["id"], 1);
    assert!(process["started_at"].as_str().unwrap().ends_with('Z'));
    let output = service
        .get(&path(&process, "/output?follow=true"))
        .await
        .expect(200);
    assert_eq!(output.header("content-type"), "text/event-stream");
    let text = output.text();
    assert!(
        text.contains("event: stdout\ndata: {\"text\":\"out\\n\"}\n\n"),
        "{text}"
    );
    assert!(
        text.contains("event: stderr\ndata: {\"text\":\"err\\n\"}\n\n"),
        "{text}"
    );
    assert!(text.ends_with(
        "event: end\ndata: {\"exit\":{\"exit_code\":4,\"signal\":null,\"out_of_memory\":false},\"truncated\":false}\n\n"
    ), "{text}");
    let ended = service.get(&path(&process, "")).await.expect(200).json();
    assert_eq!(ended["exit"]["exit_code"], 4);
    assert_eq!(ended["command"], "echo out; echo err >&2; exit 4");
    let all = service
        .get(&format!("{BOX}/processes"))
        .await
        .expect(200)
        .json();
    assert_eq!(all, json!({"processes": [ended]}));
    let mut raw = request("GET", &path(&process, "/output"), Body::empty());
    raw.headers_mut()
        .insert("accept", "application/octet-stream".parse().unwrap());
    let raw = service.send(raw).await.expect(200);
    assert_eq!(raw.text(), "out\nerr\n");
}

#[tokio::test]
async fn a_process_takes_input() {
    let service = Service::with_box().await;
    let process = start(&service, json!({"argv": ["cat"], "stdin": true})).await;
    for (rest, body) in [("/input", "one "), ("/input?close=true", "two")] {
        let input = request("POST", &path(&process, rest), Body::from(body));
        service.send(input).await.expect(204);
    }
    let output = service
        .get(&path(&process, "/output?follow=true"))
        .await
        .expect(200)
        .text();
    let texts: String = output
        .lines()
        .filter_map(|line| line.strip_prefix("data: {\"text\":\"")?.strip_suffix("\"}"))
        .collect();
    assert_eq!(texts, "one two", "{output}");
}

#[tokio::test]
async fn a_process_is_signalled_and_killed() {
    let service = Service::with_box().await;
    for kill in [true, false] {
        let process = start(&service, json!({"command": "sleep 30"})).await;
        assert_eq!(process["exit"], Value::Null);
        if kill {
            service
                .call("DELETE", &path(&process, ""))
                .await
                .expect(204);
        } else {
            let signal = path(&process, "/signal");
            service
                .post(&signal, r#"{"signal":"TERM"}"#)
                .await
                .expect(204);
        }
        service
            .get(&path(&process, "/output?follow=true"))
            .await
            .expect(200);
        let ended = service.get(&path(&process, "")).await.expect(200).json();
        assert_ne!(ended["exit"], Value::Null);
    }
}

#[tokio::test]
async fn what_is_wrong_about_processes_is_named() {
    let service = Service::with_box().await;
    let process = start(&service, json!({"command": "sleep 30"})).await;
    let refused = service
        .post(&path(&process, "/signal"), r#"{"signal":"SIGSEGV"}"#)
        .await;
    assert_eq!(refused.expect(400).json()["field"], "signal");
    for (method, rest) in [("GET", "/99"), ("GET", "/99/output"), ("DELETE", "/99")] {
        let missing = service
            .call(method, &format!("{BOX}/processes{rest}"))
            .await
            .expect(404);
        assert_eq!(missing.json()["kind"], "not_found");
    }
    let unnumbered = service.get(&format!("{BOX}/processes/x")).await.expect(400);
    assert_eq!(unnumbered.json()["field"], "process");
    let empty = service
        .post(&format!("{BOX}/processes"), r#"{"argv":[]}"#)
        .await
        .expect(400);
    assert_eq!(empty.json()["field"], "argv");
}
