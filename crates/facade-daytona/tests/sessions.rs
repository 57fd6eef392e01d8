//! Shell sessions, as each generation of SDKs wants them.

use axum::body::Body;
use serde_json::{Value, json};

use crate::service::{Answer, NEW, OLD, Service, request};

const SESSIONS: &str = "process/session";

/// A request by an SDK of some version.
async fn by(service: &Service, version: &str, method: &str, path: &str, body: Value) -> Answer {
    let request = request(method, path).header("x-daytona-sdk-version", version);
    let body = Body::from(body.to_string());
    service.send(request.body(body).unwrap()).await
}

async fn run(service: &Service, version: &str, command: &str) -> Answer {
    let path = format!("{NEW}/{SESSIONS}/s/exec");
    by(
        service,
        version,
        "POST",
        &path,
        json!({ "command": command }),
    )
    .await
}

async fn with_session() -> Service {
    let service = Service::with_box().await;
    let path = format!("{NEW}/{SESSIONS}");
    let made = service.post(&path, json!({"sessionId": "s"})).await;
    made.expect(201);
    service
}

const BOTH: &str = "echo out; echo err >&2";

#[tokio::test]
async fn outputs_have_the_form_of_the_generation() {
    let service = with_session().await;
    let old = run(&service, "0.21.0", BOTH).await.expect(200).json();
    assert_eq!(old["output"], "out\nerr\n");
    let marked = run(&service, "0.115.0", BOTH).await.expect(200).json();
    assert_eq!(marked["output"], "\u{1}\u{1}\u{1}out\n\u{2}\u{2}\u{2}err\n");
    assert_eq!(marked.get("stdout"), None);
    let split = run(&service, "0.226.1", BOTH).await.expect(200).json();
    assert_eq!(split["output"], "out\nerr\n");
    assert_eq!(
        (&split["stdout"], &split["stderr"]),
        (&json!("out\n"), &json!("err\n"))
    );
    assert_eq!(split["exitCode"], 0);
}

#[tokio::test]
async fn logs_have_the_form_of_the_generation() {
    let service = with_session().await;
    let command = run(&service, "0.226.1", BOTH).await.expect(200).json();
    let path = format!(
        "{SESSIONS}/s/command/{}/logs",
        command["cmdId"].as_str().unwrap()
    );
    let old = by(
        &service,
        "0.21.0",
        "GET",
        &format!("{OLD}/{path}"),
        json!({}),
    )
    .await;
    assert_eq!(old.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(old.expect(200).text(), "out\nerr\n");
    let new = format!("{NEW}/{path}");
    let marked = by(&service, "0.115.0", "GET", &new, json!({})).await;
    assert_eq!(
        marked.expect(200).text(),
        "\u{1}\u{1}\u{1}out\n\u{2}\u{2}\u{2}err\n"
    );
    let split = by(&service, "0.226.1", "GET", &new, json!({})).await;
    assert_eq!(
        split.expect(200).json(),
        json!({"output": "out\nerr\n", "stdout": "out\n", "stderr": "err\n"})
    );
    let followed = format!("{OLD}/{path}?follow=true");
    let followed = by(&service, "0.21.0", "GET", &followed, json!({})).await;
    assert_eq!(
        followed.expect(200).text(),
        "out\nerr\n",
        "it ends with the command"
    );
}

#[tokio::test]
async fn an_async_command_is_answered_at_once_in_both_spellings() {
    let service = with_session().await;
    let path = format!("{NEW}/{SESSIONS}/s/exec");
    for (version, word, status) in [("0.226.1", "runAsync", 202), ("0.21.0", "async", 200)] {
        let body = json!({"command": "sleep 30", word: true});
        let answer = by(&service, version, "POST", &path, body).await;
        let answer = answer.expect(status).json();
        assert_eq!(answer.as_object().unwrap().len(), 1, "only cmdId: {answer}");
        let command = format!(
            "{NEW}/{SESSIONS}/s/command/{}",
            answer["cmdId"].as_str().unwrap()
        );
        let command = service.get(&command).await.expect(200).json();
        assert_eq!(command.get("exitCode"), None);
        assert_eq!(command["command"], "sleep 30");
    }
}

#[tokio::test]
async fn sessions_are_listed_unique_and_deleted() {
    let service = with_session().await;
    let sessions = format!("{NEW}/{SESSIONS}");
    let again = service.post(&sessions, json!({"sessionId": "s"})).await;
    again.expect_error(409, "CONFLICT");
    let command = run(&service, "0.226.1", "exit 4").await.expect(200).json();
    let session = format!("{sessions}/s");
    let body = service.get(&session).await.expect(200).json();
    let told = json!([{"id": command["cmdId"], "command": "exit 4", "exitCode": 4}]);
    assert_eq!(body, json!({"sessionId": "s", "commands": told}));
    let listed = service.get(&sessions).await.expect(200).json();
    assert_eq!(listed, json!([body]));
    service.call("DELETE", &session).await.expect(204);
    let absent = service.call("DELETE", &session).await;
    let message = absent.expect_error(404, "NOT_FOUND")["message"].clone();
    assert!(message.as_str().unwrap().contains("session not found"));
    let refused = run(&service, "0.226.1", "pwd").await;
    refused.expect_error(404, "NOT_FOUND");
}

#[tokio::test]
async fn input_goes_to_a_command_that_runs() {
    let service = with_session().await;
    let over = run(&service, "0.226.1", "pwd").await.expect(200).json();
    let command = format!(
        "{NEW}/{SESSIONS}/s/command/{}",
        over["cmdId"].as_str().unwrap()
    );
    let late = service
        .post(&format!("{command}/input"), json!({"data": "x"}))
        .await;
    late.expect_error(410, "COMMAND_ALREADY_COMPLETED");
    let none = service.get(&format!("{NEW}/{SESSIONS}/s/command/99")).await;
    none.expect_error(404, "PROCESS_NOT_FOUND");
}

#[tokio::test]
async fn a_waited_for_command_gets_no_input() {
    let service = with_session().await;
    let read = run(&service, "0.226.1", "cat; echo end").await;
    assert_eq!(read.expect(200).json()["output"], "end\n");
}

#[tokio::test]
async fn the_entrypoint_session_is_empty_and_not_the_callers() {
    let service = Service::with_box().await;
    let sessions = format!("{NEW}/{SESSIONS}");
    let session = service.get(&format!("{sessions}/entrypoint")).await;
    assert_eq!(
        session.expect(200).json(),
        json!({"sessionId": "entrypoint", "commands": []})
    );
    let logs = service.get(&format!("{sessions}/entrypoint/logs")).await;
    assert_eq!(
        logs.expect(200).json(),
        json!({"output": "", "stdout": "", "stderr": ""})
    );
    let taken = service
        .post(&sessions, json!({"sessionId": "entrypoint"}))
        .await;
    taken.expect_error(409, "CONFLICT");
    for odd in [json!({}), json!({"sessionId": " "})] {
        service
            .post(&sessions, odd)
            .await
            .expect_error(400, "BAD_REQUEST");
    }
}
