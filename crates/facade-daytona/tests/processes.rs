//! Commands and code that are waited for.

use axum::body::Body;
use serde_json::json;

use crate::service::{NEW, OLD, Service, request};

fn execute(base: &str) -> String {
    format!("{base}/process/execute")
}

#[tokio::test]
async fn a_command_answers_in_both_spellings_under_both_prefixes() {
    let service = Service::with_box().await;
    for base in [NEW, OLD] {
        let answer = service
            .post(
                &execute(base),
                json!({"command": "printenv A; exit 3", "envs": {"A": "b"}}),
            )
            .await
            .expect(200)
            .json();
        assert_eq!(answer, json!({"exitCode": 3, "code": 3, "result": "b\n"}));
    }
}

#[tokio::test]
async fn commands_start_where_the_generation_expects() {
    let service = Service::with_box().await;
    for (version, cwd) in [("0.21.0", "/root"), ("0.115.0", "/work")] {
        let request = request("POST", &execute(OLD)).header("x-daytona-sdk-version", version);
        let body = Body::from(r#"{"command":"pwd"}"#);
        let answer = service.send(request.body(body).unwrap()).await.expect(200);
        assert_eq!(answer.json()["result"], format!("{cwd}\n"), "{version}");
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_told() {
    let service = Service::with_box().await;
    let execute = execute(NEW);
    for command in ["", " \n"] {
        let refused = service.post(&execute, json!({ "command": command })).await;
        refused.expect_error(400, "BAD_REQUEST");
    }
    let odd = json!({"command": "pwd", "timeout": -1});
    let refused = service.post(&execute, odd).await;
    let error = refused.expect_error(400, "BAD_REQUEST");
    assert!(error["message"].as_str().unwrap().contains("`timeout`"));
    let lost = service.post("/toolbox/none/process/execute", json!({"command": "pwd"}));
    lost.await.expect(404);
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_a_408_with_its_code() {
    let service = Service::with_box().await;
    let slow = json!({"command": "sleep 60", "timeout": 0.05});
    let answer = service.post(&execute(NEW), slow).await;
    answer.expect_error(408, "PROCESS_EXECUTION_TIMEOUT");
}

#[tokio::test]
async fn a_language_that_is_not_served_is_named() {
    let service = Service::with_box().await;
    let code = json!({"code": "x", "language": "cobol"});
    let refused = service
        .post(&format!("{NEW}/process/code-run"), code)
        .await
        .expect_error(400, "BAD_REQUEST");
    assert!(refused["message"].as_str().unwrap().contains("cobol"));
}

#[tokio::test]
async fn terminals_are_listed_resized_and_unique() {
    let service = Service::with_box().await;
    let terminals = format!("{NEW}/process/pty");
    let wanted = json!({"id": "t", "cols": 100, "rows": 30, "cwd": "/tmp", "envs": {"A": "b"}, "lazyStart": true});
    let made = service.post(&terminals, wanted.clone()).await.expect(201);
    assert_eq!(made.json(), json!({"sessionId": "t"}));
    service
        .post(&terminals, wanted)
        .await
        .expect_error(409, "CONFLICT");
    let terminal = format!("{terminals}/t");
    let info = service.get(&terminal).await.expect(200).json();
    for (field, value) in [
        ("id", json!("t")),
        ("cols", json!(100)),
        ("rows", json!(30)),
        ("cwd", json!("/tmp")),
        ("envs", json!({"A": "b"})),
        ("active", json!(true)),
        ("lazyStart", json!(true)),
    ] {
        assert_eq!(info[field], value, "{field}");
    }
    let resized = service
        .post(
            &format!("{terminal}/resize"),
            json!({"cols": 120, "rows": 40}),
        )
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&resized["cols"], &resized["rows"]),
        (&json!(120), &json!(40))
    );
    let listed = service.get(&terminals).await.expect(200).json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 1);
    service.call("DELETE", &terminal).await.expect(200);
    let listed = service.get(&terminals).await.expect(200).json();
    assert_eq!(listed["sessions"], json!([]));
    service
        .call("DELETE", &terminal)
        .await
        .expect_error(404, "NOT_FOUND");
}

#[tokio::test]
async fn odd_terminals_are_refused() {
    let service = Service::with_box().await;
    let terminals = format!("{NEW}/process/pty");
    for odd in [
        json!({}),
        json!({"id": "x".repeat(200)}),
        json!({"id": "t", "cols": 0}),
        json!({"id": "t", "rows": 70_000}),
    ] {
        service
            .post(&terminals, odd)
            .await
            .expect_error(400, "BAD_REQUEST");
    }
    let no_websocket = service
        .get(&format!("{terminals}/create-connect?id=t"))
        .await;
    no_websocket.expect_error(400, "BAD_REQUEST");
    let listed = service.get(&terminals).await.expect(200).json();
    assert_eq!(listed["sessions"], json!([]), "nothing was started");
}

#[tokio::test]
async fn contexts_are_made_listed_and_deleted() {
    let service = Service::with_box().await;
    let contexts = format!("{NEW}/process/interpreter/context");
    let made = service.post(&contexts, json!({"cwd": "/tmp"})).await;
    let made = made.expect(200).json();
    assert_eq!(made["cwd"], "/tmp");
    assert_eq!(
        (&made["language"], &made["active"]),
        (&json!("python"), &json!(true))
    );
    let listed = service.get(&contexts).await.expect(200).json();
    assert_eq!(listed["contexts"], json!([made]));
    let context = format!("{contexts}/{}", made["id"].as_str().unwrap());
    service.call("DELETE", &context).await.expect(200);
    service
        .call("DELETE", &context)
        .await
        .expect_error(404, "NOT_FOUND");
    let other = service.post(&contexts, json!({"language": "ruby"})).await;
    other.expect_error(400, "BAD_REQUEST");
}
