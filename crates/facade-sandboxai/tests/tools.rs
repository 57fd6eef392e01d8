//! Commands and cells, not streamed.

use serde_json::{Value, json};

use crate::service::{BOX, Service};

async fn shell(service: &Service, body: Value) -> Value {
    let path = format!("{BOX}/tools:run_shell_command");
    service
        .post(&path, body.to_string())
        .await
        .expect(200)
        .json()
}

async fn cell(service: &Service, body: Value) -> Value {
    let path = format!("{BOX}/tools:run_ipython_cell");
    service
        .post(&path, body.to_string())
        .await
        .expect(200)
        .json()
}

#[tokio::test]
async fn a_command_answers_in_the_original_shape() {
    let service = Service::with_box().await;
    let whole = shell(
        &service,
        json!({"command": "echo out; echo err >&2", "split_output": false}),
    )
    .await;
    assert_eq!(
        whole,
        json!({"output": "out\nerr\n", "exit_code": 0, "signal": null, "timed_out": false, "out_of_memory": false})
    );
    let split = shell(
        &service,
        json!({"command": "echo out; echo err >&2", "split_output": true}),
    )
    .await;
    assert_eq!(
        split,
        json!({"stdout": "out\n", "stderr": "err\n", "exit_code": 0, "signal": null, "timed_out": false, "out_of_memory": false})
    );
}

#[tokio::test]
async fn a_command_that_fails_keeps_its_exit_code() {
    let service = Service::with_box().await;
    let failed = shell(&service, json!({"command": "echo before; exit 7"})).await;
    assert_eq!(
        (&failed["exit_code"], &failed["output"]),
        (&json!(7), &json!("before\n"))
    );
}

#[tokio::test]
async fn a_command_whose_time_is_over_keeps_its_output() {
    let service = Service::with_box().await;
    let late = shell(
        &service,
        json!({"command": "echo before; sleep 30", "timeout_s": 0.05}),
    )
    .await;
    assert_eq!(late["timed_out"], true);
    assert_eq!(late["exit_code"], 124);
    assert_eq!(late["output"], "before\n");
}

#[tokio::test]
async fn a_command_gets_input_environment_and_place() {
    let service = Service::with_box().await;
    let echoed = shell(&service, json!({"command": "cat", "stdin": "grüße\n"})).await;
    assert_eq!(echoed["output"], "grüße\n");
    let env = shell(
        &service,
        json!({"command": "printenv MY_TEST_VAR; printenv B", "env": {"B": "b"}}),
    )
    .await;
    assert_eq!(env["output"], "value\nb\n");
    let place = shell(&service, json!({"command": "pwd", "cwd": "/tmp"})).await;
    assert_eq!(place["output"], "/tmp\n");
    let argv = shell(&service, json!({"argv": ["echo", "by argv"]})).await;
    assert_eq!(argv["output"], "by argv\n");
}

#[tokio::test]
async fn long_output_is_cut_in_the_middle_and_says_so() {
    let service = Service::with_box().await;
    let long = shell(
        &service,
        json!({"command": "echo begin; yes 100000; echo end", "max_output_bytes": 1000}),
    )
    .await;
    let output = long["output"].as_str().unwrap();
    assert!(
        output.starts_with("begin\n") && output.ends_with("end\n"),
        "{output}"
    );
    assert!(output.len() < 1100);
    let omitted = long["truncated"]["output_bytes"].as_u64().unwrap();
    assert_eq!(omitted, 100_000 + 10 - 1000);
}

#[tokio::test]
async fn a_cell_keeps_state_and_answers_in_the_original_shape() {
    let service = Service::with_box().await;
    let first = cell(
        &service,
        json!({"code": "x = 41\nprint('hi')", "split_output": false}),
    )
    .await;
    assert_eq!(
        first,
        json!({"output": "hi\n", "status": "ok", "error": null, "results": []})
    );
    let second = cell(&service, json!({"code": "x + 1", "split_output": true})).await;
    assert_eq!(second["stdout"], "");
    assert_eq!(second["stderr"], "");
    assert_eq!(second.get("output"), None);
    assert_eq!(
        second["results"],
        json!([{"data": {"text/plain": "42"}, "is_result": true}])
    );
}

#[tokio::test]
async fn a_cell_that_fails_is_a_result() {
    let service = Service::with_box().await;
    let failed = cell(&service, json!({"code": "print('before')\nfoo"})).await;
    assert_eq!(failed["status"], "error");
    assert_eq!(failed["output"], "before\n");
    assert_eq!(failed["error"]["name"], "NameError");
    assert!(
        failed["error"]["value"]
            .as_str()
            .unwrap()
            .contains("name 'foo' is not defined")
    );
    let late = cell(
        &service,
        json!({"code": "print('before')\nsleep(30)", "timeout_s": 0.05}),
    )
    .await;
    assert_eq!(
        (&late["status"], &late["output"]),
        (&json!("timed_out"), &json!("before\n"))
    );
    assert_eq!(late["error"]["name"], "TimeoutError");
    let died = cell(&service, json!({"code": "print('before')\nexit()"})).await;
    assert_eq!(
        (&died["status"], &died["output"]),
        (&json!("kernel_died"), &json!("before\n"))
    );
    assert!(!died["error"]["value"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn contexts_are_apart_and_can_be_restarted() {
    let service = Service::with_box().await;
    cell(&service, json!({"code": "x = 1"})).await;
    let other = cell(&service, json!({"code": "x", "context": "other"})).await;
    assert_eq!(other["status"], "error");
    let restart = format!("{BOX}/tools:restart_kernel");
    service.post(&restart, "").await.expect(204);
    assert_eq!(
        cell(&service, json!({"code": "x"})).await["status"],
        "error"
    );
    let interrupt = format!("{BOX}/tools:interrupt_kernel");
    service
        .post(&interrupt, r#"{"context":"other"}"#)
        .await
        .expect(204);
}
