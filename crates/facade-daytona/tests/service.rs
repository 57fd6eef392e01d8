//! The service under test and how to call it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, request::Builder},
};
use control::{Config, Control, Create, Defaults, SystemClock};
use facade_daytona::{FacadeConfig, annotation};
use http_body_util::BodyExt;
use sandbox::{Limits, NetworkMode};
use serde_json::Value;
use testkit::FakeRuntime;
use tower::ServiceExt;

/// Where new SDKs find the tests' sandbox.
pub(crate) const NEW: &str = "/toolbox/box";
/// Where old SDKs find it.
pub(crate) const OLD: &str = "/api/toolbox/box/toolbox";
/// What signs URLs of its files.
pub(crate) const SIGNING_KEY: &str = "signing-key-of-the-tests";

pub(crate) struct Service {
    router: Router,
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

    /// An error with this status and code.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, code: &str) -> Value {
        let error = self.expect(status).json();
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(error["source"], "DAYTONA_DAEMON");
        error
    }
}

impl Service {
    /// A service with one sandbox, `box`.
    pub(crate) async fn with_box() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            store: folder.path().join("store.sqlite"),
            delete_on_shutdown: false,
            defaults: Defaults {
                image: "sandboxai/box".parse().unwrap(),
                limits: Limits::default(),
                network: NetworkMode::None,
                idle_timeout: None,
                lifetime_max: None,
            },
            limits_max: Limits::default(),
            sandboxes_max: 20,
            creations_at_once: 4,
            create_timeout: Duration::from_secs(10),
            tombstone_ttl: Duration::from_secs(24 * 60 * 60),
            image_aliases: BTreeMap::new(),
        };
        let runtime = Arc::new(FakeRuntime::new());
        let control = Control::start(config, runtime, Arc::new(SystemClock))
            .await
            .unwrap();
        let create = Create {
            name: Some("box".parse().unwrap()),
            annotations: BTreeMap::from([(
                annotation::SIGNING_KEY.to_owned(),
                SIGNING_KEY.to_owned(),
            )]),
            ..Create::default()
        };
        control.create(create).await.unwrap();
        Self {
            router: facade_daytona::router(control, FacadeConfig::new("sandboxai/box".to_owned())),
            _folder: folder,
        }
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

    pub(crate) async fn call(&self, method: &str, path: &str) -> Answer {
        self.send(request(method, path).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).await
    }

    /// Sends JSON.
    pub(crate) async fn post(&self, path: &str, json: Value) -> Answer {
        let request = request("POST", path).header("content-type", "application/json");
        self.send(request.body(Body::from(json.to_string())).unwrap())
            .await
    }
}

/// A request by the newest SDK.
pub(crate) fn request(method: &str, path: &str) -> Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer key")
}
