//! The language servers of all sandboxes: one for each language and project.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt;
use sandbox::Id;
use serde_json::json;

use super::{
    connection::{Connection, Ending, file_uri},
    language::Language,
};
use crate::{
    error::{ApiError, ApiResult},
    target::Target,
};

/// Servers of one sandbox.
const SERVERS_OF_ONE_MAX: usize = 8;
/// Servers of all sandboxes.
const SERVERS_MAX: usize = 1000;
/// Documents that are open at one server.
const DOCUMENTS_MAX: usize = 1000;
/// Bytes of a document.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;

/// Which server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) sandbox: Id,
    pub(super) language: Language,
    /// Absolute.
    pub(super) project: String,
}

/// All servers that were started and not stopped.
#[derive(Debug, Default)]
pub(super) struct Servers {
    servers: Mutex<HashMap<Key, Arc<Server>>>,
}

/// One server. It may be resting; its documents are remembered.
#[derive(Debug)]
struct Server {
    target: Target,
    state: tokio::sync::Mutex<ServerState>,
}

#[derive(Debug, Default)]
struct ServerState {
    connection: Option<Arc<Connection>>,
    /// Paths of the open documents.
    documents: BTreeSet<String>,
}

impl Servers {
    /// Starts a server; one that runs goes on.
    pub(super) async fn start(&self, target: &Target, key: &Key) -> ApiResult<()> {
        let server = self.reserve(target, key)?;
        let mut state = server.state.lock().await;
        let runs = state
            .connection
            .as_ref()
            .is_some_and(|connection| connection.ending().is_none());
        if runs {
            return Ok(());
        }
        match connect(target, key).await {
            Ok(connection) => {
                *state = ServerState {
                    connection: Some(Arc::new(connection)),
                    documents: BTreeSet::new(),
                };
                Ok(())
            }
            Err(error) => {
                self.lock().remove(key);
                Err(error)
            }
        }
    }

    /// Ends a server.
    pub(super) async fn stop(&self, key: &Key) -> ApiResult<()> {
        let server = self.lock().remove(key).ok_or_else(not_initialized)?;
        let connection = server.state.lock().await.connection.take();
        if let Some(connection) = connection {
            connection.stop().await;
        }
        Ok(())
    }

    /// Opens a document, or gives it anew.
    pub(super) async fn open(&self, key: &Key, path: &str) -> ApiResult<()> {
        let server = self.find(key)?;
        let (mut state, connection) = self.awake(&server, key).await?;
        if state.documents.contains(path) {
            close_document(&connection, path).await?;
        } else if state.documents.len() >= DOCUMENTS_MAX {
            let message = format!("{DOCUMENTS_MAX} documents are open; close some first");
            return Err(sandbox::Error::limit(message).into());
        }
        open_document(&server.target, &connection, key, path).await?;
        state.documents.insert(path.to_owned());
        Ok(())
    }

    /// Closes a document.
    pub(super) async fn close(&self, key: &Key, path: &str) -> ApiResult<()> {
        let server = self.find(key)?;
        let (mut state, connection) = self.awake(&server, key).await?;
        if state.documents.remove(path) {
            close_document(&connection, path).await?;
        }
        Ok(())
    }

    /// A server that can be asked; with a path, after it has opened that document.
    pub(super) async fn ready(&self, key: &Key, path: Option<&str>) -> ApiResult<Arc<Connection>> {
        let server = self.find(key)?;
        let is_open = {
            let (state, connection) = self.awake(&server, key).await?;
            match path {
                Some(path) if !state.documents.contains(path) => false,
                _ => return Ok(connection),
            }
        };
        if let (false, Some(path)) = (is_open, path) {
            self.open(key, path).await?;
        }
        let (_, connection) = self.awake(&server, key).await?;
        Ok(connection)
    }

    /// The server, awake: one that rests gets its documents again.
    async fn awake<'a>(
        &self,
        server: &'a Server,
        key: &Key,
    ) -> ApiResult<(tokio::sync::MutexGuard<'a, ServerState>, Arc<Connection>)> {
        let mut state = server.state.lock().await;
        let connection = match &state.connection {
            Some(connection) => match connection.ending() {
                None => Arc::clone(connection),
                Some(Ending::Idle) => {
                    let connection = Arc::new(connect(&server.target, key).await?);
                    for path in &state.documents {
                        // One that is gone by now is not open any more.
                        let _ = open_document(&server.target, &connection, key, path).await;
                    }
                    state.connection = Some(Arc::clone(&connection));
                    connection
                }
                Some(Ending::Lost) => {
                    self.lock().remove(key);
                    return Err(not_initialized());
                }
            },
            None => return Err(not_initialized()),
        };
        Ok((state, connection))
    }

    fn find(&self, key: &Key) -> ApiResult<Arc<Server>> {
        self.lock().get(key).cloned().ok_or_else(not_initialized)
    }

    /// The place of a server, which may be a new one.
    fn reserve(&self, target: &Target, key: &Key) -> ApiResult<Arc<Server>> {
        let mut servers = self.lock();
        if let Some(server) = servers.get(key) {
            return Ok(Arc::clone(server));
        }
        let of_one = servers.keys().filter(|other| other.sandbox == key.sandbox);
        if of_one.count() >= SERVERS_OF_ONE_MAX {
            return Err(sandbox::Error::limit(format!(
                "the sandbox has {SERVERS_OF_ONE_MAX} language servers; stop one first"
            ))
            .into());
        }
        if servers.len() >= SERVERS_MAX {
            servers.retain(|_, server| server.is_of_a_living_sandbox());
        }
        if servers.len() >= SERVERS_MAX {
            let message = format!("there are {SERVERS_MAX} language servers; stop some first");
            return Err(sandbox::Error::limit(message).into());
        }
        let server = Arc::new(Server {
            target: target.clone(),
            state: tokio::sync::Mutex::default(),
        });
        servers.insert(key.clone(), Arc::clone(&server));
        Ok(server)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Server>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    fn is_of_a_living_sandbox(&self) -> bool {
        let sandbox = &self.target.sandbox;
        let found = self
            .target
            .control
            .find(&sandbox.space, sandbox.id.as_str());
        found.is_ok()
    }
}

async fn connect(target: &Target, key: &Key) -> ApiResult<Connection> {
    let argv = key.language.find(target).await?;
    Connection::start(target.clone(), argv, &key.project).await
}

async fn open_document(
    target: &Target,
    connection: &Connection,
    key: &Key,
    path: &str,
) -> ApiResult<()> {
    let text = read(target, path).await?;
    let document = json!({
        "uri": file_uri(path),
        "languageId": key.language.of_file(path),
        "version": 1,
        "text": text,
    });
    connection
        .tell("textDocument/didOpen", json!({ "textDocument": document }))
        .await
}

async fn close_document(connection: &Connection, path: &str) -> ApiResult<()> {
    let document = json!({ "uri": file_uri(path) });
    connection
        .tell("textDocument/didClose", json!({ "textDocument": document }))
        .await
}

/// The text of a document.
async fn read(target: &Target, path: &str) -> ApiResult<String> {
    let (space, name) = (target.space(), target.name());
    let mut read = target.control.read_file(space, name, path, 0, None).await?;
    let mut text = Vec::new();
    while let Some(piece) = read.content.next().await {
        text.extend_from_slice(&piece?);
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(ApiError::bad_request(format!(
                "{path}: is over the limit of {DOCUMENT_BYTES_MAX} bytes for a document"
            )));
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn not_initialized() -> ApiError {
    ApiError::bad_request("the language server of this project is not started; start it first")
        .with_code("LSP_SERVER_NOT_INITIALIZED")
}
