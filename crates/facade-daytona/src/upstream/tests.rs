//! A server in front of another one, which stands in for the real Daytona; and
//! in front of a recorder, which shows what really arrives there.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use super::{Upstream, UpstreamConfig, UpstreamKey};
use crate::{Facade, FacadeConfig, side::Side, testing};

const OURS: &str = "key-of-this-server";
const THEIRS: &str = "key-of-the-upstream";
/// What the caller calls this server.
const HOST: &str = "front.test:5266";

/// A facade that takes one key.
async fn facade(key: &'static str, upstream: Option<Upstream>) -> (Facade, TempDir) {
    let (control, folder) = testing::control().await;
    let config = FacadeConfig {
        accepts_key: Arc::new(move |given| given == key.as_bytes()),
        has_keys: true,
        upstream,
        ..FacadeConfig::new("sandboxai/box".to_owned())
    };
    (Facade::new(control, config), folder)
}

async fn listen(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn upstream(address: SocketAddr) -> Upstream {
    Upstream::new(UpstreamConfig {
        api_url: format!("http://{address}/api/"),
        key: UpstreamKey::new(THEIRS).unwrap(),
        ca_certificates: Vec::new(),
    })
    .unwrap()
}

/// What a caller gets.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    side: Option<Side>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        self
    }
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        side: parts.extensions.get().copied(),
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    }
}

fn request(method: Method, path: &str, key: &str) -> axum::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, HOST)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header("x-daytona-sdk-version", "0.226.1")
}

/// Two servers: `front` stands in front of `behind`.
struct Pair {
    front: Facade,
    behind: Facade,
    router: Router,
    _folders: [TempDir; 2],
}

impl Pair {
    async fn new() -> Self {
        let (behind, folder) = facade(THEIRS, None).await;
        let address = listen(crate::routes(behind.clone())).await;
        let (front, other) = facade(OURS, Some(upstream(address))).await;
        Self {
            router: crate::routes(front.clone()),
            front,
            behind,
            _folders: [folder, other],
        }
    }

    /// A sandbox that only the upstream has.
    async fn made_behind(&self, body: Value) -> Value {
        let request = request(Method::POST, "/api/sandbox", THEIRS);
        let request = request.body(Body::from(body.to_string())).unwrap();
        send(&crate::routes(self.behind.clone()), request)
            .await
            .expect(200)
            .json()
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Answer {
        let request = request(method, path, OURS).body(Body::from(body.to_owned()));
        send(&self.router, request.unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "").await
    }
}

/// One request as it arrived at the upstream.
#[derive(Clone, Debug)]
struct Arrived {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

type Log = Arc<Mutex<Vec<Arrived>>>;
type Answering = Arc<dyn Fn(&Arrived) -> Response + Send + Sync>;

async fn record(State((log, answer)): State<(Log, Answering)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let arrived = Arrived {
        method: parts.method,
        target: parts.uri.to_string(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    };
    log.lock().unwrap().push(arrived.clone());
    answer(&arrived)
}

/// A server in front of a recorder that answers as it is told.
struct Recorded {
    router: Router,
    address: SocketAddr,
    log: Log,
    _folder: TempDir,
}

impl Recorded {
    async fn new(answer: impl Fn(&Arrived) -> Response + Send + Sync + 'static) -> Self {
        let log = Log::default();
        let answer: Answering = Arc::new(answer);
        let recorder = Router::new()
            .fallback(record)
            .with_state((log.clone(), answer));
        let address = listen(recorder).await;
        let (facade, folder) = facade(OURS, Some(upstream(address))).await;
        Self {
            router: crate::routes(facade),
            address,
            log,
            _folder: folder,
        }
    }

    fn arrived(&self) -> Vec<Arrived> {
        self.log.lock().unwrap().clone()
    }

    async fn get(&self, path: &str) -> Answer {
        send(
            &self.router,
            request(Method::GET, path, OURS)
                .body(Body::empty())
                .unwrap(),
        )
        .await
    }
}

mod control_plane;
mod event;
mod list;
mod preview;
mod toolbox;
