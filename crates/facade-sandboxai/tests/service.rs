//! The service under test and how to call it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use control::{Config, Control, Defaults, SystemClock};
use facade_sandboxai::FacadeConfig;
use http_body_util::BodyExt;
use sandbox::{Limits, NetworkMode};
use serde_json::Value;
use testkit::FakeRuntime;
use tower::ServiceExt;

/// Where the tests' sandbox lives.
pub(crate) const BOX: &str = "/v1/spaces/default/sandboxes/box";

/// Longest JSON body in these tests, bytes.
pub(crate) const JSON_BYTES_MAX: usize = 64 << 10;

pub(crate) struct Service {
    router: Router,
    pub(crate) runtime: FakeRuntime,
    _folder: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The same answer, whose status must be this.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

impl Service {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new();
        let config = Config {
            store: folder.path().join("store.sqlite"),
            delete_on_shutdown: false,
            defaults: Defaults {
                image: "sandboxai/box".parse().unwrap(),
                limits: Limits::default(),
                network: NetworkMode::None,
                idle_timeout: Some(Duration::from_secs(900)),
                lifetime_max: None,
            },
            limits_max: Limits {
                memory_bytes: 8 << 30,
                cpu_millis: 4000,
                pids: 4096,
            },
            sandboxes_max: 20,
            creations_at_once: 4,
            create_timeout: Duration::from_secs(10),
            tombstone_ttl: Duration::from_secs(24 * 60 * 60),
            image_aliases: BTreeMap::from([(
                "substratusai/sandboxai-box:*".to_owned(),
                "sandboxai/box".parse().unwrap(),
            )]),
        };
        let control = Control::start(config, Arc::new(runtime.clone()), Arc::new(SystemClock))
            .await
            .unwrap();
        let facade = FacadeConfig {
            json_bytes_max: JSON_BYTES_MAX,
            body_timeout: Duration::from_millis(300),
            ..FacadeConfig::default()
        };
        Self {
            router: facade_sandboxai::router(control, facade),
            runtime,
            _folder: folder,
        }
    }

    /// A service with one sandbox, `box` in space `default`.
    pub(crate) async fn with_box() -> Self {
        let service = Self::start().await;
        let created = service.post(
            "/v1/spaces/default/sandboxes",
            r#"{"name":"box","spec":{"env":{"MY_TEST_VAR":"value"}}}"#,
        );
        created.await.expect(201);
        service
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    /// A request whose answer is looked at before it is complete.
    pub(crate) async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn call(&self, method: &str, path: &str) -> Answer {
        self.send(request(method, path, Body::empty())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).await
    }

    /// Sends JSON.
    pub(crate) async fn post(&self, path: &str, json: impl Into<String>) -> Answer {
        self.send(json_request(path, json)).await
    }
}

pub(crate) fn request(method: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .unwrap()
}

pub(crate) fn json_request(path: &str, json: impl Into<String>) -> Request<Body> {
    let mut request = request("POST", path, Body::from(json.into()));
    let headers = request.headers_mut();
    headers.insert("content-type", "application/json".parse().unwrap());
    request
}
