//! Creating, looking, listing, deleting; the shapes of the original.

use sandbox::Ended;
use serde_json::{Value, json};

use crate::service::{BOX, Service, json_request};

const SANDBOXES: &str = "/v1/spaces/default/sandboxes";

/// What the original client's models keep of a sandbox.
fn original(sandbox: &Value) -> Value {
    json!({
        "name": sandbox["name"],
        "uid": sandbox["uid"],
        "spec": {"image": sandbox["spec"]["image"], "env": sandbox["spec"]["env"]},
        "status": {},
    })
}

#[tokio::test]
async fn the_server_is_healthy() {
    let answer = Service::start().await.get("/v1/healthz").await.expect(200);
    assert_eq!(answer.json()["status"], "ok");
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test]
async fn get_equals_what_create_returned() {
    let service = Service::start().await;
    // Byte for byte what `sandboxai-client` 0.0.2 sends.
    let created = service
        .post(
            SANDBOXES,
            r#"{"name": null, "spec": {"image": "substratusai/sandboxai-box:v0.2.0", "env": {"A": "b"}}}"#,
        )
        .await
        .expect(201)
        .json();
    let name = created["name"].as_str().unwrap();
    assert_eq!(name.len(), 20);
    assert!(
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    );
    assert_eq!(
        original(&created),
        json!({
            "name": name,
            "uid": created["uid"],
            "spec": {"image": "substratusai/sandboxai-box:v0.2.0", "env": {"A": "b"}},
            "status": {},
        })
    );
    let got = service
        .get(&format!("{SANDBOXES}/{name}"))
        .await
        .expect(200)
        .json();
    assert_eq!(original(&got), original(&created));
    assert_eq!(got["spec"], created["spec"]);
}

#[tokio::test]
async fn the_whole_sandbox_is_told() {
    let service = Service::start().await;
    let created = service
        .post(
            SANDBOXES,
            r#"{"name":"box","spec":{"image":null,"env":null,"memory_mb":512,"cpu":0.5,"pids":64,"network":"none","runtime_class":"fake","idle_timeout_s":60,"lifetime_s":3600.5}}"#,
        )
        .await
        .expect(201)
        .json();
    assert_eq!(
        created["spec"],
        json!({
            "image": "sandboxai/box", "env": {}, "memory_mb": 512, "cpu": 0.5, "pids": 64,
            "network": "none", "runtime_class": "fake", "idle_timeout_s": 60.0, "lifetime_s": 3600.5, "labels": {},
            "stop_after_idle_s": null, "pause_after_idle_s": null, "archive_after_stop_s": null,
            "delete_after_stop_s": null,
        })
    );
    assert_eq!(created["space"], "default");
    assert_eq!(created["status"]["state"], "running");
    assert_eq!(created["status"]["image"], "sandboxai/box");
    for time in ["created_at", "active_at"] {
        let time = created["status"][time].as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    }
}

#[tokio::test]
async fn absent_values_get_the_defaults() {
    let service = Service::start().await;
    for body in [
        "",
        "{}",
        r#"{"spec":{}}"#,
        r#"{"name":"","spec":{"image":"","env":null}}"#,
    ] {
        let created = service.post(SANDBOXES, body).await.expect(201).json();
        assert_eq!(created["spec"]["image"], "sandboxai/box", "{body}");
        assert_eq!(created["spec"]["memory_mb"], 2048);
        assert_eq!(created["spec"]["idle_timeout_s"], 900.0);
        assert_eq!(created["spec"]["lifetime_s"], Value::Null);
    }
}

#[tokio::test]
async fn spaces_are_apart() {
    let service = Service::with_box().await;
    let other = "/v1/spaces/team-a/sandboxes";
    service.get(&format!("{other}/box")).await.expect(404);
    service.post(other, r#"{"name":"box"}"#).await.expect(201);
    let names = |list: Value| -> Vec<String> {
        let sandboxes = list["sandboxes"].as_array().unwrap().clone();
        let names = sandboxes
            .iter()
            .map(|one| format!("{}/{}", one["space"], one["name"]));
        names.map(|name| name.replace('"', "")).collect()
    };
    assert_eq!(
        names(service.get(SANDBOXES).await.expect(200).json()),
        ["default/box"]
    );
    assert_eq!(
        names(service.get(other).await.expect(200).json()),
        ["team-a/box"]
    );
    assert!(
        names(
            service
                .get("/v1/spaces/none/sandboxes")
                .await
                .expect(200)
                .json()
        )
        .is_empty()
    );
}

#[tokio::test]
async fn deleting_is_idempotent_and_leaves_a_tombstone() {
    let service = Service::with_box().await;
    let deleted = service.call("DELETE", BOX).await.expect(204);
    assert!(deleted.body.is_empty());
    service.call("DELETE", BOX).await.expect(204);
    service
        .call("DELETE", &format!("{SANDBOXES}/never-there"))
        .await
        .expect(404);
    let gone = service.get(BOX).await.expect(404).json();
    assert_eq!(gone["kind"], "not_found");
    assert_eq!(gone["tombstone"]["reason"], "deleted");
    assert!(
        gone["tombstone"]["ended_at"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    // The name is free again, and the tombstone does not show through.
    service
        .post(SANDBOXES, r#"{"name":"box"}"#)
        .await
        .expect(201);
    let missing = service
        .get(&format!("{BOX}/files?path=/none"))
        .await
        .expect(404)
        .json();
    assert_eq!(missing.get("tombstone"), None);
}

#[tokio::test]
async fn a_sandbox_that_ran_out_of_memory_says_so() {
    let service = Service::with_box().await;
    let id = service.runtime.ids()[0].clone();
    service.runtime.kill(
        &id,
        Ended {
            out_of_memory: true,
            detail: "killed by signal 9".into(),
        },
    );
    // The end is noticed by a task of its own.
    let gone = loop {
        let answer = service.get(BOX).await;
        if answer.status != 200 {
            break answer.expect(404).json();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(gone["tombstone"]["reason"], "out_of_memory");
    assert!(
        gone["message"].as_str().unwrap().contains("memory"),
        "{gone}"
    );
}

#[tokio::test]
async fn the_same_key_makes_one_sandbox() {
    let service = Service::start().await;
    let create = |key: &'static str, body: &'static str| {
        let mut request = json_request(SANDBOXES, body);
        request
            .headers_mut()
            .insert("idempotency-key", key.parse().unwrap());
        service.send(request)
    };
    let first = create("k1", r#"{"spec":{}}"#).await.expect(201);
    assert_eq!(first.header("idempotent-replayed"), "");
    let again = create("k1", r#"{"spec":{}}"#).await.expect(201);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.json()["uid"], first.json()["uid"]);
    let other = create("k2", r#"{"spec":{}}"#).await.expect(201);
    assert_ne!(other.json()["uid"], first.json()["uid"]);
    let misused = create("k1", r#"{"spec":{"pids":50}}"#).await.expect(409);
    assert_eq!(misused.json()["kind"], "conflict");
    let empty = create("", "{}").await.expect(400);
    assert_eq!(empty.json()["field"], "Idempotency-Key");
}

#[tokio::test]
async fn a_creation_tells_where_its_time_went() {
    let service = Service::start().await;
    let created = service.post(SANDBOXES, "{}").await.expect(201);
    let timing = created.header("server-timing").to_owned();
    let phases: Vec<&str> = timing.split(", ").collect();
    assert!(phases[0].starts_with("total;dur="), "{timing}");
    assert!(phases.len() > 1, "{timing}");
    for phase in phases {
        let (_, milliseconds) = phase.split_once(";dur=").unwrap();
        assert!(milliseconds.parse::<f64>().unwrap() >= 0.0, "{timing}");
    }
}

#[tokio::test]
async fn pause_resume_usage_and_events() {
    let service = Service::with_box().await;
    let paused = service.post(&format!("{BOX}/pause"), "").await.expect(200);
    assert_eq!(paused.json()["status"]["state"], "paused");
    let resumed = service.post(&format!("{BOX}/resume"), "").await.expect(200);
    assert_eq!(resumed.json()["status"]["state"], "running");
    let usage = service
        .get(&format!("{BOX}/usage"))
        .await
        .expect(200)
        .json();
    for field in ["memory_bytes", "cpu_us", "pids", "oom_kills"] {
        assert!(usage[field].is_u64(), "{usage}");
    }
    let events = service
        .get(&format!("{BOX}/events"))
        .await
        .expect(200)
        .json();
    let events = events["events"].as_array().unwrap().clone();
    assert!(events.len() >= 2, "{events:?}");
    let first = events[0]["sequence"].as_i64().unwrap();
    let later = service
        .get(&format!("{BOX}/events?after={first}&limit=1"))
        .await
        .expect(200);
    assert_eq!(later.json()["events"][0], events[1]);
    assert_eq!(later.json()["events"].as_array().unwrap().len(), 1);
}
