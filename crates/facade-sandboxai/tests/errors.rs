//! What is wrong gets a 4xx that names it; every answer has an id and a timing.

use axum::body::Body;
use bytes::Bytes;
use serde_json::Value;

use crate::service::{BOX, JSON_BYTES_MAX, Service, json_request, request};

const SANDBOXES: &str = "/v1/spaces/default/sandboxes";

#[tokio::test]
async fn every_described_route_is_there() {
    let service = Service::start().await;
    let document = service.get("/v1/openapi.json").await.expect(200);
    assert_eq!(document.header("content-type"), "application/json");
    let document = document.json();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{space}", "default")
            .replace("{name}", "nobody")
            .replace("{process}", "1");
        for method in item.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let answer = service.call(&method, &path).await;
            assert_ne!(answer.status, 405, "{method} {path}");
            let unknown = answer.text().contains("there is nothing at");
            assert!(!unknown, "{method} {path}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_are_told_in_json() {
    let service = Service::start().await;
    for path in [
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v1/spaces/default/sandboxes/box/tools:dance",
    ] {
        let answer = service.get(path).await.expect(404).json();
        assert_eq!(answer["kind"], "not_found");
        assert!(
            answer["message"].as_str().unwrap().contains(path),
            "{answer}"
        );
    }
    let answer = service.call("PATCH", SANDBOXES).await.expect(405);
    assert_eq!(answer.json()["kind"], "invalid_request");
    let allowed = answer.header("allow");
    assert!(
        allowed.contains("GET") && allowed.contains("POST"),
        "{allowed}"
    );
}

#[tokio::test]
async fn every_answer_has_an_id_and_a_timing() {
    let service = Service::start().await;
    for path in ["/v1/healthz", "/v1/nothing", BOX] {
        let mut asked = request("GET", path, Body::empty());
        asked
            .headers_mut()
            .insert("x-request-id", "trace-7".parse().unwrap());
        let answer = service.send(asked).await;
        assert_eq!(answer.header("x-request-id"), "trace-7", "{path}");
        assert!(
            answer.header("server-timing").starts_with("total;dur="),
            "{path}"
        );
        if answer.status != 200 {
            assert_eq!(answer.json()["request_id"], "trace-7");
        }
    }
    let mut forged = request("GET", BOX, Body::empty());
    forged
        .headers_mut()
        .insert("x-request-id", "a b".parse().unwrap());
    let answer = service.send(forged).await;
    assert_ne!(answer.header("x-request-id"), "a b");
    assert_eq!(answer.json()["request_id"], answer.header("x-request-id"));
}

#[tokio::test]
async fn bad_bodies() {
    let service = Service::start().await;
    for (body, field) in [
        ("{", None),
        ("nul", None),
        ("[]", None),
        (r#"{"name":"a"} {"name":"b"}"#, None),
        (r#"{"name":"a","name":"b"}"#, None),
        (r#"{"name":5}"#, Some("name")),
        (r#"{"nmae":"a"}"#, Some("nmae")),
        (r#"{"spec":{"memroy_mb":1}}"#, Some("spec.memroy_mb")),
        (r#"{"spec":{"memory_mb":1e999}}"#, None),
        (
            r#"{"spec":{"memory_mb":99999999999999999999999}}"#,
            Some("spec.memory_mb"),
        ),
        (r#"{"spec":{"env":{"A":null}}}"#, Some("spec.env.A")),
    ] {
        let answer = service.post(SANDBOXES, body).await.expect(400).json();
        assert_eq!(answer["kind"], "invalid_request", "{body}");
        if let Some(field) = field {
            assert_eq!(answer["field"], field, "{body}: {answer}");
        }
        assert!(
            answer["message"]
                .as_str()
                .unwrap()
                .contains("line 1 column"),
            "{answer}"
        );
    }
    let deep = format!(r#"{{"spec":{}"#, r#"{"env":"#.repeat(50_000));
    assert!(deep.len() > JSON_BYTES_MAX);
    service
        .post(SANDBOXES, deep[..JSON_BYTES_MAX].to_owned())
        .await
        .expect(400);
}

#[tokio::test]
async fn bodies_that_are_too_large_or_not_json_or_too_slow() {
    let service = Service::start().await;
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(JSON_BYTES_MAX));
    let answer = service
        .post(SANDBOXES, large.clone())
        .await
        .expect(413)
        .json();
    assert!(
        answer["message"].as_str().unwrap().contains("65536"),
        "{answer}"
    );
    let mut announced = json_request(SANDBOXES, "{}");
    announced
        .headers_mut()
        .insert("content-length", "99999999999".parse().unwrap());
    service.send(announced).await.expect(413);
    let part = Bytes::from(vec![b' '; 1000]);
    let parts = std::iter::repeat_n(part, 1000).map(Ok::<_, std::io::Error>);
    let mut streamed = json_request(SANDBOXES, "");
    *streamed.body_mut() = Body::from_stream(futures_util::stream::iter(parts));
    service.send(streamed).await.expect(413);
    let mut form = json_request(SANDBOXES, "name=a");
    let kind = "application/x-www-form-urlencoded".parse().unwrap();
    form.headers_mut().insert("content-type", kind);
    service.send(form).await.expect(415);
    service
        .send(request("POST", SANDBOXES, Body::from("{}")))
        .await
        .expect(415);
    let mut slow = json_request(SANDBOXES, "");
    let silent = futures_util::stream::pending::<std::io::Result<Bytes>>();
    *slow.body_mut() = Body::from_stream(silent);
    assert_eq!(
        service.send(slow).await.expect(408).json()["kind"],
        "timeout"
    );
}

#[tokio::test]
async fn bad_names_images_and_limits() {
    let service = Service::with_box().await;
    service
        .runtime
        .behave(|behaviour| behaviour.images = vec!["sandboxai/box".into()]);
    for (body, status, part) in [
        (r#"{"name":"box"}"#, 409, "box"),
        (r#"{"name":"a/b"}"#, 400, "`name`"),
        (r#"{"name":"../../etc"}"#, 400, "`name`"),
        (r#"{"spec":{"image":"no such image"}}"#, 400, "`spec.image`"),
        (
            r#"{"spec":{"image":"unknown/image:1"}}"#,
            400,
            "unknown/image",
        ),
        (
            r#"{"spec":{"memory_mb":1000000}}"#,
            400,
            "`spec.memory_mb`: in bytes",
        ),
        (r#"{"spec":{"cpu":0}}"#, 400, "`spec.cpu`"),
        (r#"{"spec":{"network":"bridge"}}"#, 400, "`spec.network`"),
    ] {
        let answer = service.post(SANDBOXES, body).await.expect(status).json();
        assert!(
            answer["message"].as_str().unwrap().contains(part),
            "{body}: {answer}"
        );
    }
    for path in ["/v1/spaces/a%2Fb/sandboxes", "/v1/spaces/%00/sandboxes"] {
        let answer = service.get(path).await.expect(400).json();
        assert_eq!(answer["field"], "space", "{path}");
    }
    let answer = service
        .get(&format!("{SANDBOXES}/a%20b"))
        .await
        .expect(400)
        .json();
    assert_eq!(answer["field"], "name");
    service.get(&format!("{SANDBOXES}/%ff")).await.expect(400);
}

#[tokio::test]
async fn bad_commands_and_cells() {
    let service = Service::with_box().await;
    for (tool, body, field) in [
        ("run_shell_command", r#"{}"#, "command"),
        (
            "run_shell_command",
            r#"{"command":"x","argv":["x"]}"#,
            "argv",
        ),
        (
            "run_shell_command",
            r#"{"command":"x","timeout_s":-1}"#,
            "timeout_s",
        ),
        (
            "run_shell_command",
            r#"{"command":"x","timeout_s":1e9}"#,
            "timeout_s",
        ),
        (
            "run_shell_command",
            r#"{"command":"x","env":{"A=B":""}}"#,
            "env",
        ),
        ("run_shell_command", r#"{"command":"x","cwd":""}"#, "cwd"),
        (
            "run_shell_command",
            r#"{"command":"x","max_output_bytes":999999999999}"#,
            "max_output_bytes",
        ),
        (
            "run_shell_command",
            r#"{"command":"x","timeout":1}"#,
            "timeout",
        ),
        ("run_ipython_cell", r#"{}"#, "code"),
        (
            "run_ipython_cell",
            r#"{"code":"1","context":""}"#,
            "context",
        ),
        ("restart_kernel", r#"{"kernel":"x"}"#, "kernel"),
    ] {
        let answer = service
            .post(&format!("{BOX}/tools:{tool}"), body)
            .await
            .expect(400)
            .json();
        assert_eq!(answer["field"], field, "{tool} {body}: {answer}");
    }
}

#[tokio::test]
async fn our_own_faults_are_500_with_a_way_to_the_log() {
    let service = Service::start().await;
    service
        .runtime
        .behave(|behaviour| behaviour.create_failures = 1);
    let answer = service.post(SANDBOXES, r#"{"name":"x"}"#).await.expect(500);
    let body: Value = answer.json();
    assert_eq!(body["kind"], "internal");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains(answer.header("x-request-id")), "{message}");
    let gone = service
        .get(&format!("{SANDBOXES}/x"))
        .await
        .expect(404)
        .json();
    assert_eq!(gone["tombstone"]["reason"], "failed_to_start");
    assert!(gone["tombstone"]["detail"].is_string());
}

#[tokio::test]
async fn a_lost_sandbox_is_gone() {
    let service = Service::with_box().await;
    let path = format!("{BOX}/tools:run_shell_command");
    let answer = service
        .post(&path, r#"{"command":"die"}"#)
        .await
        .expect(410)
        .json();
    assert_eq!(answer["kind"], "sandbox_lost");
}
