//! Server-sent events over the whole way.

use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::service::{BOX, Service, json_request};

/// The events of a whole body.
fn events(body: &str) -> Vec<(String, Value)> {
    body.split("\n\n")
        .filter(|block| !block.is_empty() && !block.starts_with(':'))
        .map(|block| {
            let (event, data) = block.split_once('\n').unwrap();
            let event = event.strip_prefix("event: ").unwrap();
            let data = data.strip_prefix("data: ").unwrap();
            (event.to_owned(), serde_json::from_str(data).unwrap())
        })
        .collect()
}

/// The text of all events of that name.
fn text(events: &[(String, Value)], name: &str) -> String {
    let wanted = events.iter().filter(|(event, _)| event == name);
    wanted
        .map(|(_, data)| data["text"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_command_streams_its_output_and_its_result() {
    let service = Service::with_box().await;
    let path = format!("{BOX}/tools:stream_shell_command");
    let body = json!({"command": "echo grüße 𝄞; echo err >&2; exit 3", "split_output": true});
    let answer = service.post(&path, body.to_string()).await.expect(200);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert!(answer.header("server-timing").starts_with("total;dur="));
    let events = events(&answer.text());
    assert_eq!(text(&events, "stdout"), "grüße 𝄞\n");
    assert_eq!(text(&events, "stderr"), "err\n");
    let (last, end) = events.last().unwrap();
    assert_eq!(last, "end");
    assert_eq!(
        *end,
        json!({"exit_code": 3, "signal": null, "timed_out": false, "out_of_memory": false})
    );
}

#[tokio::test]
async fn a_cell_streams_its_output_and_its_result() {
    let service = Service::with_box().await;
    let path = format!("{BOX}/tools:stream_ipython_cell");
    let answer = service
        .post(&path, r#"{"code":"print('a')\n1 + 1"}"#)
        .await
        .expect(200);
    let told: Vec<(String, Value)> = events(&answer.text());
    assert_eq!(
        told,
        [
            ("stdout".to_owned(), json!({"text": "a\n"})),
            (
                "display".to_owned(),
                json!({"data": {"text/plain": "2"}, "is_result": true})
            ),
            (
                "end".to_owned(),
                json!({"status": "ok", "error": null, "results": []})
            ),
        ]
    );
}

#[tokio::test]
async fn output_comes_before_the_command_has_ended() {
    let service = Service::with_box().await;
    let path = format!("{BOX}/tools:stream_shell_command");
    let request = json_request(&path, r#"{"command":"echo first; sleep 30"}"#);
    let mut body = service.open(request).await.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(
        frame.as_ref(),
        b"event: stdout\ndata: {\"text\":\"first\\n\"}\n\n"
    );
}

#[tokio::test]
async fn a_sandbox_that_is_lost_ends_the_stream_with_an_error() {
    let service = Service::with_box().await;
    let path = format!("{BOX}/tools:stream_shell_command");
    let answer = service
        .post(&path, r#"{"command":"echo first; die"}"#)
        .await
        .expect(200);
    let events = events(&answer.text());
    let (last, error) = events.last().unwrap();
    assert_eq!(last, "error");
    assert_eq!(error["kind"], "sandbox_lost");
    assert_eq!(error["request_id"], answer.header("x-request-id"));
    assert_eq!(text(&events, "stdout"), "first\n");
}

#[tokio::test]
async fn what_is_wrong_from_the_start_is_no_stream() {
    let service = Service::with_box().await;
    let path = format!("{BOX}/tools:stream_shell_command");
    let refused = service.post(&path, "{}").await.expect(400);
    assert_eq!(refused.json()["field"], "command");
    let path = path.replace("box", "none");
    service.post(&path, r#"{"command":"x"}"#).await.expect(404);
}
