//! A language server that runs: a process in the sandbox that is spoken to in
//! JSON over its standard streams.
//!
//! While somebody listens to it, the sandbox counts as in use. So a server
//! that nobody has asked for a while is ended ([`Ending::Idle`]); the next
//! question starts another one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use control::{Command, Exec, Piece, PieceStream, Signal};
use futures_util::{StreamExt, stream};
use sandbox::{Kind, Result};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tracing::Instrument as _;

use super::framing::{Decoder, encode};
use crate::{
    error::{ApiError, ApiResult},
    target::Target,
    toolbox::process::user,
};

/// How long a server may take to get ready.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a server may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a server may take to get ready for its end.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a server runs that is asked nothing.
const IDLE_TIME_MAX: Duration = Duration::from_secs(120);
/// How often that is looked at.
const IDLE_CHECK: Duration = Duration::from_secs(10);
/// Messages on their way to a server.
const MESSAGES_AHEAD: usize = 64;
/// Questions without an answer.
const WAITING_MAX: usize = 256;
/// What servers say to a request that they do not know.
const METHOD_NOT_FOUND: i64 = -32601;

/// Why a server does not run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was asked nothing for a while.
    Idle,
    /// It ended by itself, or the sandbox did.
    Lost,
}

/// A server that runs, or ran.
#[derive(Debug)]
pub(super) struct Connection {
    target: Target,
    process: u64,
    outgoing: mpsc::Sender<Value>,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Of the project.
    folder: Value,
}

#[derive(Debug)]
struct State {
    last_id: i64,
    /// Who waits for which answer.
    waiting: HashMap<i64, oneshot::Sender<Value>>,
    asked: Instant,
    ending: Option<Ending>,
}

impl Connection {
    /// Starts a server for the project at an absolute path, by a command line.
    pub(super) async fn start(target: Target, argv: Vec<String>, project: &str) -> ApiResult<Self> {
        let process = start_process(&target, argv, project).await?;
        let output = target
            .control
            .process_output(target.space(), target.name(), process, true)
            .await?;
        let uri = file_uri(project);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                last_id: 0,
                waiting: HashMap::new(),
                asked: Instant::now(),
                ending: None,
            }),
            folder: json!({ "uri": uri, "name": project }),
        });
        let (outgoing, messages) = mpsc::channel(MESSAGES_AHEAD);
        let listening = listen(output, Arc::clone(&shared), outgoing.clone());
        let ended = end_after(listening, target.clone(), process, Arc::clone(&shared));
        let connection = Self {
            process,
            tasks: [
                tokio::spawn(talk(target.clone(), process, messages).in_current_span()),
                tokio::spawn(ended.in_current_span()),
            ],
            target,
            outgoing,
            shared,
        };
        if let Err(error) = connection.initialize(&uri).await {
            connection.kill().await;
            return Err(error);
        }
        Ok(connection)
    }

    async fn initialize(&self, uri: &str) -> ApiResult<()> {
        let parameters = json!({
            "processId": null,
            "rootUri": uri,
            "workspaceFolders": [self.shared.folder],
            "capabilities": {
                "textDocument": {
                    "synchronization": { "didSave": false },
                    "completion": {
                        "contextSupport": true,
                        "completionItem": {
                            "snippetSupport": false,
                            "documentationFormat": ["plaintext", "markdown"],
                        },
                    },
                    "documentSymbol": { "hierarchicalDocumentSymbolSupport": false },
                },
                "workspace": { "symbol": {}, "workspaceFolders": true, "configuration": true },
            },
        });
        self.ask_within("initialize", parameters, READY_TIME_MAX)
            .await?;
        self.tell("initialized", json!({})).await
    }

    /// Asks something; the result.
    pub(super) async fn ask(&self, method: &str, parameters: Value) -> ApiResult<Value> {
        self.ask_within(method, parameters, ANSWER_TIME_MAX).await
    }

    async fn ask_within(
        &self,
        method: &str,
        parameters: Value,
        time_max: Duration,
    ) -> ApiResult<Value> {
        let (id, answer) = self.shared.wait_for()?;
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": parameters });
        let asked = async {
            self.send(message).await?;
            answer.await.map_err(|_| lost())
        };
        let mut answer = match tokio::time::timeout(time_max, asked).await {
            Ok(answer) => answer?,
            Err(_) => {
                self.shared.lock().waiting.remove(&id);
                let message = format!("the language server did not answer within {time_max:?}");
                return Err(sandbox::Error::timeout(message).into());
            }
        };
        match answer.get("error") {
            None | Some(Value::Null) => Ok(answer["result"].take()),
            Some(error) => Err(refused(method, error)),
        }
    }

    /// Tells something that has no answer.
    pub(super) async fn tell(&self, method: &str, parameters: Value) -> ApiResult<()> {
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": parameters });
        let sent = tokio::time::timeout(ANSWER_TIME_MAX, self.send(message));
        sent.await.map_err(|_| lost())?
    }

    async fn send(&self, message: Value) -> ApiResult<()> {
        self.outgoing.send(message).await.map_err(|_| lost())
    }

    /// Why it does not run any more, if so.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.shared.lock().ending
    }

    /// Ends the server.
    pub(super) async fn stop(&self) {
        if self.ending().is_some() {
            return;
        }
        let shutdown = self
            .ask_within("shutdown", Value::Null, SHUTDOWN_TIME_MAX)
            .await;
        if shutdown.is_ok() && self.tell("exit", Value::Null).await.is_ok() {
            // It ends by itself now, and must not be waited for.
            tokio::task::yield_now().await;
        }
        self.kill().await;
    }

    async fn kill(&self) {
        kill(&self.target, self.process).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a question.
    fn wait_for(&self) -> ApiResult<(i64, oneshot::Receiver<Value>)> {
        let mut state = self.lock();
        if state.ending.is_some() {
            return Err(lost());
        }
        if state.waiting.len() >= WAITING_MAX {
            let message = format!("the language server has {WAITING_MAX} questions to answer");
            return Err(sandbox::Error::limit(message).into());
        }
        state.last_id += 1;
        state.asked = Instant::now();
        let id = state.last_id;
        let (sender, receiver) = oneshot::channel();
        state.waiting.insert(id, sender);
        Ok((id, receiver))
    }

    fn is_idle(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && state.asked.elapsed() > IDLE_TIME_MAX
    }

    /// Takes a message from the server; what is to be said to it.
    fn receive(&self, mut message: Value) -> Option<Value> {
        match (message.get("method"), message.get("id")) {
            (None, Some(id)) => {
                let waiting = id.as_i64().and_then(|id| self.lock().waiting.remove(&id));
                if let Some(waiting) = waiting {
                    // Who asked may have gone.
                    let _ = waiting.send(message);
                }
                None
            }
            (Some(method), Some(_)) => {
                let result = match method.as_str() {
                    Some("workspace/configuration") => {
                        let items = message["params"]["items"].as_array();
                        Value::from(vec![Value::Null; items.map_or(0, Vec::len)])
                    }
                    Some("workspace/workspaceFolders") => json!([self.folder]),
                    _ => Value::Null,
                };
                let id = message["id"].take();
                Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
            }
            // Progress, logs and diagnoses: nobody asked.
            _ => None,
        }
    }
}

/// Starts the process; one that an earlier server of ours left goes.
async fn start_process(target: &Target, argv: Vec<String>, project: &str) -> ApiResult<u64> {
    let tag = format!(
        "language-server:{}:{project}",
        argv.first().map_or("", String::as_str)
    );
    let exec = Exec {
        command: Command::Argv(argv),
        cwd: Some(project.to_owned()),
        stdin: true,
        tag: Some(tag.clone()),
        user: user(target),
        ..Exec::default()
    };
    let control = &target.control;
    let start = || control.start_process(target.space(), target.name(), exec.clone());
    let started = match start().await {
        Err(error) if error.kind == Kind::AlreadyExists => {
            let processes = control.processes(target.space(), target.name()).await?;
            let left = processes
                .iter()
                .filter(|process| process.tag.as_ref() == Some(&tag) && process.exit.is_none());
            for process in left {
                kill(target, process.process).await;
                ended(target, process.process).await?;
            }
            start().await
        }
        started => started,
    };
    Ok(started?.process)
}

/// Waits for the end of a process that was killed.
async fn ended(target: &Target, process: u64) -> Result<()> {
    let control = &target.control;
    let mut output = control
        .process_output(target.space(), target.name(), process, true)
        .await?;
    let end = async { while let Some(Ok(_)) = output.next().await {} };
    let _late = tokio::time::timeout(SHUTDOWN_TIME_MAX, end).await;
    Ok(())
}

async fn kill(target: &Target, process: u64) {
    let control = &target.control;
    let killed = control.signal_process(target.space(), target.name(), process, Signal::Sigkill);
    if let Err(error) = killed.await {
        tracing::debug!(%error, "a language server had ended already");
    }
}

/// Hands messages to the process, one after the other.
async fn talk(target: Target, process: u64, mut messages: mpsc::Receiver<Value>) {
    while let Some(message) = messages.recv().await {
        let input: PieceStream<Bytes> = Box::pin(stream::once(async move { Ok(encode(&message)) }));
        let control = &target.control;
        let sent = control.process_input(target.space(), target.name(), process, input, false);
        if let Err(error) = sent.await {
            tracing::debug!(%error, "a language server takes no more input");
            return;
        }
    }
}

/// Takes what the process says, until it ends or is idle.
async fn listen(
    mut output: PieceStream<Piece>,
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Value>,
) -> Ending {
    let mut decoder = Decoder::default();
    loop {
        let piece = match tokio::time::timeout(IDLE_CHECK, output.next()).await {
            Ok(Some(Ok(Piece::Stdout(piece)))) => piece,
            Ok(Some(Ok(Piece::Stderr(_)))) => continue,
            Ok(_) => return Ending::Lost,
            Err(_) if shared.is_idle() => return Ending::Idle,
            Err(_) => continue,
        };
        decoder.push(&piece);
        loop {
            match decoder.next() {
                Ok(Some(message)) => {
                    if let Some(reply) = shared.receive(message) {
                        // A server that does not listen gets no answer.
                        let _ = outgoing.try_send(reply);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "a language server does not keep to the protocol");
                    return Ending::Lost;
                }
            }
        }
    }
}

/// Ends the process when nobody listens to it any more.
async fn end_after(
    listening: impl Future<Output = Ending>,
    target: Target,
    process: u64,
    shared: Arc<Shared>,
) {
    let ending = listening.await;
    {
        let mut state = shared.lock();
        state.ending = Some(ending);
        state.waiting.clear();
    }
    kill(&target, process).await;
}

fn lost() -> ApiError {
    ApiError::bad_request("the language server ended; start it again")
        .with_code("LSP_SERVER_NOT_INITIALIZED")
}

fn refused(method: &str, error: &Value) -> ApiError {
    let told: String = error["message"]
        .as_str()
        .unwrap_or("?")
        .chars()
        .take(1000)
        .collect();
    match error["code"].as_i64() {
        Some(METHOD_NOT_FOUND) => ApiError::bad_request(format!(
            "the language server in this sandbox does not serve `{method}`: {told}"
        )),
        _ => ApiError::bad_request(format!("the language server refused `{method}`: {told}")),
    }
}

/// The URI of a file.
pub(super) fn file_uri(path: &str) -> String {
    let mut uri = String::from("file://");
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        Shared {
            state: Mutex::new(State {
                last_id: 0,
                waiting: HashMap::new(),
                asked: Instant::now(),
                ending: None,
            }),
            folder: json!({ "uri": "file:///p", "name": "/p" }),
        }
    }

    #[tokio::test]
    async fn answers_go_to_those_who_asked() {
        let shared = shared();
        let (first, first_answer) = shared.wait_for().unwrap();
        let (second, second_answer) = shared.wait_for().unwrap();
        assert_eq!(shared.receive(json!({ "id": second, "result": 2 })), None);
        assert_eq!(shared.receive(json!({ "id": first, "error": {} })), None);
        assert_eq!(shared.receive(json!({ "id": 99, "result": 3 })), None);
        assert_eq!(second_answer.await.unwrap()["result"], 2);
        assert!(first_answer.await.unwrap()["error"].is_object());
    }

    #[tokio::test]
    async fn questions_of_the_server_are_answered() {
        let shared = shared();
        let ask = |method: &str, parameters: Value| {
            shared.receive(json!({ "id": "x", "method": method, "params": parameters }))
        };
        let configuration = ask("workspace/configuration", json!({ "items": [{}, {}] })).unwrap();
        assert_eq!(configuration["result"], json!([null, null]));
        assert_eq!(configuration["id"], "x");
        let folders = ask("workspace/workspaceFolders", Value::Null).unwrap();
        assert_eq!(folders["result"][0]["uri"], "file:///p");
        assert_eq!(
            ask("client/registerCapability", json!({})).unwrap()["result"],
            Value::Null
        );
        assert_eq!(
            shared.receive(json!({ "method": "window/logMessage" })),
            None
        );
    }

    #[tokio::test]
    async fn only_so_many_questions_wait() {
        let shared = shared();
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| shared.wait_for().unwrap())
            .collect();
        assert_eq!(shared.wait_for().unwrap_err().status.as_u16(), 429);
        drop(waiting);
        shared.lock().ending = Some(Ending::Lost);
        assert_eq!(
            shared.wait_for().unwrap_err().code,
            "LSP_SERVER_NOT_INITIALIZED"
        );
    }

    #[test]
    fn uris_have_nothing_special_in_them() {
        assert_eq!(file_uri("/a b/ü#.py"), "file:///a%20b/%C3%BC%23.py");
    }
}
