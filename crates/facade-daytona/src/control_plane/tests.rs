//! The control plane over HTTP, with sandboxes that are pretended.

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{Facade, FacadeConfig, annotation::PREVIEW_TOKEN, testing};

const NEWEST: &str = "0.226.1";

struct Api {
    facade: Facade,
    router: Router,
    _folder: TempDir,
}

impl Api {
    async fn new() -> Self {
        let (control, folder) = testing::control().await;
        let config = FacadeConfig::new("sandboxai/box".to_owned());
        let facade = Facade::new(control, config);
        Self {
            router: crate::routes(facade.clone()),
            facade,
            _folder: folder,
        }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (
            status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        )
    }

    async fn ask_as(
        &self,
        version: &str,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api{path}"))
            .header(header::HOST, "box.test:5266")
            .header(header::AUTHORIZATION, "Bearer any")
            .header("x-daytona-sdk-version", version)
            .body(Body::from(body.to_string()))
            .unwrap();
        self.send(request).await
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask_as(NEWEST, Method::GET, path, json!({})).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask_as(NEWEST, Method::POST, path, body).await
    }

    async fn create(&self, body: Value) -> Value {
        let (status, sandbox) = self.post("/sandbox", body).await;
        assert_eq!(status, 200, "{sandbox}");
        sandbox
    }
}

#[tokio::test]
async fn a_created_sandbox_has_what_every_generation_requires() {
    let api = Api::new().await;
    let sandbox = api
        .create(json!({"env": {"A": "b"}, "labels": {"l": "m"}, "public": true, "target": "eu"}))
        .await;
    assert_eq!(sandbox["state"], "started");
    assert_eq!(sandbox["toolboxProxyUrl"], "http://box.test:5266/toolbox");
    assert_eq!(sandbox["env"], json!({"A": "b"}));
    assert_eq!(sandbox["labels"], json!({"l": "m"}));
    assert_eq!(
        (&sandbox["public"], &sandbox["target"]),
        (&json!(true), &json!("eu"))
    );
    assert_eq!(sandbox["name"], sandbox["id"], "where no name is given");
    for number in ["cpu", "gpu", "memory", "disk"] {
        assert!(sandbox[number].is_u64(), "{number}: {}", sandbox[number]);
    }
    for text in [
        "organizationId",
        "user",
        "snapshot",
        "createdAt",
        "updatedAt",
    ] {
        assert!(sandbox[text].is_string(), "{text}");
    }
    for switch in ["networkBlockAll", "kvm"] {
        assert_eq!(sandbox[switch], false);
    }
    assert_eq!(sandbox["autoStopInterval"], 15);
    assert_eq!(sandbox["autoDeleteInterval"], -1);
}

#[tokio::test]
async fn a_list_has_the_shape_of_the_callers_generation() {
    let api = Api::new().await;
    let one = api.create(json!({})).await;
    let list = |version, path| api.ask_as(version, Method::GET, path, json!({}));
    let (_, array) = list("0.21.0", "/sandbox?labels=null").await;
    assert_eq!(array[0]["id"], one["id"]);
    let (_, page) = list("0.115.0", "/sandbox/paginated?page=1&limit=1").await;
    assert_eq!(page["items"][0]["id"], one["id"]);
    assert_eq!(
        (&page["total"], &page["totalPages"]),
        (&json!(1), &json!(1))
    );
    let (_, cursor) = list(NEWEST, "/sandbox").await;
    assert_eq!(cursor["items"][0]["id"], one["id"]);
    assert_eq!(cursor.get("nextCursor"), Some(&Value::Null));
}

#[tokio::test]
async fn a_cursor_leads_through_all_sandboxes_once() {
    let api = Api::new().await;
    let mut made = Vec::new();
    for number in 0..5 {
        let body =
            json!({"name": format!("s{number}"), "labels": {"odd": (number % 2 == 1).to_string()}});
        made.push(api.create(body).await["name"].clone());
    }
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let path = format!("/sandbox?limit=2&sort=name&order=asc&cursor={cursor}");
        let (_, page) = api.get(&path).await;
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["name"].clone()));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, made);
    let (_, odd) = api
        .get("/sandbox?labels=%7B%22odd%22%3A%22true%22%7D&states=started&states=stopped")
        .await;
    assert_eq!(odd["items"].as_array().unwrap().len(), 2);
    let (_, none) = api.get("/sandbox?states=stopped").await;
    assert_eq!(none["items"], json!([]));
    let (_, named) = api.get("/sandbox?name=S3").await;
    assert_eq!(named["items"][0]["name"], "s3");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_field() {
    let api = Api::new().await;
    for (body, status, told) in [
        (json!({"snapshot": "sandboxai/box", "cpu": 2}), 400, "cpu"),
        (json!({"gpu": 1}), 400, "gpu"),
        (json!({"cpu": 0}), 400, "cpu"),
        (json!({"autoStopInterval": -1}), 400, "autoStopInterval"),
        (json!({"env": {"A": 1}}), 400, "env.A"),
        (json!({"name": "a b"}), 400, "name"),
        (json!({"volumes": [{"volumeId": "v"}]}), 501, "volume"),
        (json!({"secrets": [{"A": "b"}]}), 501, "secret"),
        (
            json!({"networkAllowList": "10.0.0.0/8"}),
            501,
            "networkBlockAll",
        ),
        (json!({"linkedSandbox": "none"}), 404, "not found"),
        (
            json!({"buildInfo": {"dockerfileContent": "FROM a\nCOPY b /", "contextHashes": ["x"]}}),
            400,
            "upload them again",
        ),
    ] {
        let (answered, error) = api.post("/sandbox", body.clone()).await;
        assert_eq!(answered, status, "{body}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(told),
            "{body}: {error}"
        );
    }
    let (_, list) = api.get("/sandbox").await;
    assert_eq!(list["items"], json!([]), "nothing was made");
}

#[tokio::test]
async fn a_name_is_taken_once_and_works_as_an_id() {
    let api = Api::new().await;
    let one = api.create(json!({"name": "one"})).await;
    let (status, error) = api.post("/sandbox", json!({"name": "one"})).await;
    assert_eq!(
        (status.as_u16(), &error["error"]),
        (409, &json!("Conflict"))
    );
    let (_, found) = api.get("/sandbox/one").await;
    assert_eq!(found["id"], one["id"]);
}

#[tokio::test]
async fn a_deleted_sandbox_is_destroyed_and_then_not_found() {
    let api = Api::new().await;
    api.create(json!({"name": "one"})).await;
    let delete = || api.ask_as(NEWEST, Method::DELETE, "/sandbox/one", json!({}));
    let (status, deleted) = delete().await;
    assert_eq!(
        (status.as_u16(), &deleted["state"]),
        (200, &json!("destroyed"))
    );
    for (status, error) in [delete().await, api.get("/sandbox/one").await] {
        assert_eq!(status, 404);
        assert!(error["message"].as_str().unwrap().contains("not found"));
        assert_eq!(
            (&error["statusCode"], &error["source"]),
            (&json!(404), &json!("DAYTONA_API"))
        );
        assert_eq!(error["path"], "/api/sandbox/one");
    }
}

#[tokio::test]
async fn an_image_string_is_a_dockerfile_of_one_line() {
    let api = Api::new().await;
    let body = json!({"buildInfo": {"dockerfileContent": "FROM sandboxai/box\n"}, "cpu": 1, "memory": 2, "disk": 4});
    let sandbox = api.create(body).await;
    assert_eq!(sandbox["snapshot"], "sandboxai/box");
    let resources = (&sandbox["cpu"], &sandbox["memory"], &sandbox["disk"]);
    assert_eq!(resources, (&json!(1), &json!(2), &json!(4)));
}

#[tokio::test]
async fn settings_are_kept() {
    let api = Api::new().await;
    let sandbox = api.create(json!({"name": "one"})).await;
    let labels = json!({"labels": {"x": "y"}});
    let (_, put) = api
        .ask_as(NEWEST, Method::PUT, "/sandbox/one/labels", labels.clone())
        .await;
    assert_eq!(put, labels);
    api.post("/sandbox/one/public/true", json!({})).await;
    let (_, found) = api.get("/sandbox/one").await;
    assert_eq!(
        (&found["labels"]["x"], &found["public"]),
        (&json!("y"), &json!(true))
    );
    let (_, key) = api.get("/sandbox/one/signing-key").await;
    let (_, rotated) = api.post("/sandbox/one/signing-key/rotate", json!({})).await;
    let (_, again) = api.get("/sandbox/one/signing-key").await;
    assert!(key.is_string() && key != rotated && rotated == again);
    let (status, _) = api.post("/sandbox/one/last-activity", json!({})).await;
    assert_eq!(status, 201);
    let (_, toolbox) = api.get("/sandbox/one/ports/2280/preview-url").await;
    let expected = format!(
        "http://box.test:5266/toolbox/{}",
        sandbox["id"].as_str().unwrap()
    );
    assert_eq!(toolbox["url"], expected);
    for (port, status) in [("0", 400), ("x", 400), ("70000", 400), ("80", 200)] {
        let (answered, _) = api
            .get(&format!("/sandbox/one/ports/{port}/preview-url"))
            .await;
        assert_eq!(answered, status, "{port}");
    }
}

#[tokio::test]
async fn a_preview_token_opens_its_toolbox_and_nothing_else() {
    let api = Api::new().await;
    api.create(json!({"name": "one"})).await;
    api.create(json!({"name": "two"})).await;
    let one = api
        .facade
        .control
        .find(&api.facade.config.space, "one")
        .unwrap();
    let token = &one.annotations[PREVIEW_TOKEN];
    // A path that no toolbox has: 404 is what those see who may enter.
    for (path, status) in [
        ("/toolbox/one/nowhere", 404),
        ("/api/toolbox/one/toolbox/nowhere", 404),
        ("/toolbox/two/nowhere", 401),
        ("/toolbox/none/nowhere", 401),
        ("/api/sandbox/one", 401),
    ] {
        let request = |name: &str, value: &str| {
            let builder = Request::builder().uri(path).header(header::HOST, "h");
            builder.header(name, value).body(Body::empty()).unwrap()
        };
        let cookie = format!("daytona-sandbox-auth-{}={token}", one.id);
        let sent = [
            request("x-daytona-preview-token", token),
            request("cookie", &cookie),
        ];
        for request in sent {
            assert_eq!(api.send(request).await.0, status, "{path}");
        }
        let query = format!("{path}?DAYTONA_SANDBOX_AUTH_KEY={token}");
        let request = Request::builder().uri(query).header(header::HOST, "h");
        assert_eq!(
            api.send(request.body(Body::empty()).unwrap()).await.0,
            status,
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_is_not_served_says_so_and_what_is_unknown_too() {
    let api = Api::new().await;
    api.create(json!({"name": "one"})).await;
    for path in [
        "/volumes",
        "/volumes/by-name/x",
        "/sandbox/one/ssh-access",
        "/sandbox/one/fork",
        "/sandbox/one/telemetry/metrics",
        "/toolbox/one/toolbox/computeruse/start",
    ] {
        let (status, error) = api.post(path, json!({})).await;
        assert_eq!(status, 501, "{path}");
        assert!(
            error["message"].as_str().unwrap().contains("not served"),
            "{error}"
        );
    }
    assert_eq!(api.get("/volumes").await.1, json!([]));
    assert_eq!(api.get("/secret/paginated").await.1["items"], json!([]));
    assert_eq!(api.get("/nowhere").await.0, 404);
    assert_eq!(api.get("/sandbox/one/start").await.0, 405);
}

#[tokio::test]
async fn images_are_snapshots() {
    let api = Api::new().await;
    let (_, page) = api.get("/snapshots?limit=1").await;
    let listed = &page["items"][0];
    assert_eq!(listed["state"], "active");
    for key in [
        "errorReason",
        "lastUsedAt",
        "sourceSandboxId",
        "size",
        "entrypoint",
    ] {
        assert!(
            listed.get(key).is_some(),
            "{key} must be there, if only as null"
        );
    }
    let id = listed["id"].as_str().unwrap();
    let (_, by_id) = api.get(&format!("/snapshots/{id}")).await;
    assert_eq!(&by_id, listed);
    let (status, by_name) = api.get("/snapshots/sandboxai%2Fbox").await;
    assert_eq!(status, 200, "{by_name}");
    let (status, error) = api.get("/snapshots/none").await;
    assert_eq!(status, 404, "{error}");
    let (status, error) = api.post("/snapshots", json!({"name": "x"})).await;
    assert_eq!(status, 400, "{error}");
}
