//! The HTTP client of the commands.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use sandbox::{Name, Space};
use serde_json::Value;

use super::sse::{Event, Parser};
use crate::{config::Secret, exit_code::ExitCode, failure::Failure};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer that does no work inside a sandbox may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long `healthz` may take; a local server answers in a millisecond.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// A stream that is silent for so long is dead: the server sends a comment every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest error message taken from an answer that is not ours, characters.
const MESSAGE_CHARS_MAX: usize = 300;

/// A server and how to talk to it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    space: Space,
    key: Option<Secret>,
}

/// Events as they come.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<Event, Failure>> + Send>>;

impl Client {
    /// A client of the server at `url`, with or without `/v1`.
    pub(super) fn new(url: &str, space: Space, key: Option<Secret>) -> Result<Self, Failure> {
        let wrong = |problem: &str| {
            Failure::usage(format!("the server's address {url:?} {problem}"))
                .hint("use the form http://127.0.0.1:5266")
        };
        let base = url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let base = Url::parse(base).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(wrong("is neither an http nor an https address"));
        }
        let mut builder = reqwest::Client::builder();
        if base.scheme() == "http" {
            // Nothing to trust, so a machine without CA certificates does as well.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(Failure::to("cannot set up the HTTP client"))?;
        Ok(Self {
            http,
            base,
            space,
            key,
        })
    }

    /// Where the server is.
    pub(super) fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The sandboxes of the space.
    pub(super) fn sandboxes(&self) -> Target<'_> {
        self.path(&format!("/v1/spaces/{}/sandboxes", self.space))
    }

    /// Something of the server as a whole, below its address; `path` needs no escaping.
    pub(super) fn path(&self, path: &str) -> Target<'_> {
        Target {
            client: self,
            path: format!("{}{path}", self.base.path().trim_end_matches('/')),
            query: Vec::new(),
        }
    }

    /// One sandbox, or something below it such as `/files`.
    pub(super) fn sandbox(&self, name: &Name, below: &str) -> Target<'_> {
        let mut target = self.sandboxes();
        // Names have no characters that would need escaping.
        target.path += &format!("/{name}{below}");
        target
    }

    /// Whether a server of ours answers.
    pub(super) async fn is_healthy(&self) -> bool {
        let answer = self
            .path("/v1/healthz")
            .request(Method::GET)
            .timeout(HEALTH_TIMEOUT)
            .send()
            .await;
        match answer {
            Ok(answer) if answer.status() == StatusCode::OK => answer
                .json::<Value>()
                .await
                .is_ok_and(|health| health["status"] == "ok"),
            _ => false,
        }
    }

    /// Waits for a sandbox's answer and turns every other one into a failure.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(refused(answer).await)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        if error.is_connect() {
            return Failure::new(
                ExitCode::Unreachable,
                format!("there is no server at {}: {cause}", self.base()),
            )
            .hint("start one with `sudo sandboxai serve`, or name another with --server or SANDBOXAI_URL");
        }
        let what = if error.is_timeout() {
            "did not answer in time"
        } else {
            "broke the connection off"
        };
        Failure::new(
            ExitCode::Unreachable,
            format!("the server at {} {what}: {cause}", self.base()),
        )
    }
}

/// The failure that an answer tells.
async fn refused(answer: Response) -> Failure {
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    let message = serde_json::from_str::<Value>(&body)
        .ok()
        .and_then(|body| body["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| {
            let shown: String = body.trim().chars().take(MESSAGE_CHARS_MAX).collect();
            format!("the server answered {status}: {shown}")
        });
    let failure = Failure::general(message);
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => failure.with_code(ExitCode::NotFound),
        StatusCode::UNAUTHORIZED => {
            failure.hint("set SANDBOXAI_API_KEY to one of the server's keys")
        }
        _ => failure,
    }
}

/// A place on the server.
#[derive(Debug)]
pub(super) struct Target<'a> {
    client: &'a Client,
    path: String,
    query: Vec<(&'static str, String)>,
}

impl Target<'_> {
    /// The same with a parameter.
    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    fn request(&self, method: Method) -> RequestBuilder {
        let mut url = self.client.base.clone();
        url.set_path(&self.path);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        let request = self.client.http.request(method, url);
        match &self.client.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    /// GET of JSON.
    pub(super) async fn get(self) -> Result<Value, Failure> {
        let request = self.request(Method::GET).timeout(ANSWER_TIMEOUT);
        self.value(request).await
    }

    /// POST of JSON, for JSON, without a deadline of our own: the server has one.
    pub(super) async fn post(self, body: &Value) -> Result<Value, Failure> {
        let request = self.request(Method::POST).json(body);
        self.value(request).await
    }

    /// PUT of JSON, for JSON.
    pub(super) async fn put(self, body: &Value) -> Result<Value, Failure> {
        let request = self.request(Method::PUT).timeout(ANSWER_TIMEOUT);
        self.value(request.json(body)).await
    }

    /// POST of a body of some type, for JSON.
    pub(super) async fn post_as(self, content_type: &str, body: String) -> Result<Value, Failure> {
        let request = self
            .request(Method::POST)
            .header(reqwest::header::CONTENT_TYPE, content_type)
            .timeout(ANSWER_TIMEOUT)
            .body(body);
        self.value(request).await
    }

    /// GET of a text.
    pub(super) async fn text(self) -> Result<String, Failure> {
        let request = self.request(Method::GET).timeout(ANSWER_TIMEOUT);
        let answer = self.client.send(request).await?;
        answer
            .text()
            .await
            .map_err(|error| self.client.unreachable(&error))
    }

    /// DELETE.
    pub(super) async fn delete(self) -> Result<(), Failure> {
        let request = self.request(Method::DELETE).timeout(ANSWER_TIMEOUT);
        self.client.send(request).await.map(drop)
    }

    /// Sends a body as it comes, by PUT or POST.
    pub(super) async fn upload(self, method: Method, body: reqwest::Body) -> Result<(), Failure> {
        self.client
            .send(self.request(method).body(body))
            .await
            .map(drop)
    }

    /// GET of a body as it comes.
    pub(super) async fn download(self) -> Result<Response, Failure> {
        self.client.send(self.request(Method::GET)).await
    }

    /// Events that answer a GET, or a POST when there is a body.
    pub(super) async fn events(self, body: Option<&Value>) -> Result<Events, Failure> {
        let request = match body {
            Some(body) => self.request(Method::POST).json(body),
            None => self.request(Method::GET),
        };
        let request = request.header(reqwest::header::ACCEPT, "text/event-stream");
        let answer = self.client.send(request).await?;
        Ok(events(self.client.clone(), answer))
    }

    async fn value(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let answer = self.client.send(request).await?;
        let bytes = answer
            .bytes()
            .await
            .map_err(|error| self.client.unreachable(&error))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(Failure::to(format!(
            "{} does not answer in JSON",
            self.client.base()
        )))
    }
}

fn events(client: Client, answer: Response) -> Events {
    let pieces = answer.bytes_stream();
    let state = (client, pieces, Parser::default(), Vec::new().into_iter());
    Box::pin(futures_util::stream::try_unfold(
        state,
        |(client, mut pieces, mut parser, mut ready)| async move {
            loop {
                if let Some(event) = ready.next() {
                    return Ok(Some((event, (client, pieces, parser, ready))));
                }
                let piece = tokio::time::timeout(SILENCE_MAX, pieces.next())
                    .await
                    .map_err(|_| Failure::new(ExitCode::Unreachable, "the server went silent"))?;
                let Some(piece) = piece else {
                    return Ok(None);
                };
                let piece = piece.map_err(|error| client.unreachable(&error))?;
                ready = parser
                    .push(&piece)
                    .map_err(|error| Failure::general(error.to_string()))?
                    .into_iter();
            }
        },
    ))
}
