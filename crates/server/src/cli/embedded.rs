//! A server for one command, when the machine has none running.

use std::{io, process::Stdio, time::Duration};

use sandbox::{Id, Name, Space};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

use super::{Context, client::Client};
use crate::{config::Secret, exit_code::ExitCode, failure::Failure};

/// How long the server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server may take to remove its sandboxes.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// A child that ends, with its sandboxes, when this process does.
#[derive(Debug)]
pub(super) struct EmbeddedServer {
    child: Child,
    /// The server ends when nobody can read this any more.
    stdout: BufReader<ChildStdout>,
    client: Client,
}

impl EmbeddedServer {
    /// Starts it on a free port, with a key that only we know.
    pub(super) async fn start(context: &Context) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::to("cannot find this program"))?;
        let scope = format!("run-{}", Name::random()?);
        let key = Id::random()?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--host", "127.0.0.1", "--port", "0", "--scope", &scope])
            .args(["--delete-on-shutdown", "--exit-with-client", "--log-level", "warn"])
            .args(["--set", "server.api_keys_file="])
            .env("SANDBOXAI_SERVER_API_KEYS", key.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for us; the server still has a sandbox to delete then.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(file) = &context.global.config {
            command.arg("--config").arg(file);
        }
        let mut child = command
            .spawn()
            .map_err(Failure::to("cannot start a server"))?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| Failure::general("cannot read from the server"))?;
        let mut stdout = BufReader::new(stdout);
        let line = tokio::time::timeout(START_TIMEOUT, first_line(&mut stdout))
            .await
            .map_err(|_| Failure::general("the server did not start in time"))?
            .map_err(Failure::to("cannot read from the server"))?;
        // What was wrong is on standard error already, which is ours too.
        let url =
            url(&line).ok_or_else(|| Failure::new(ExitCode::Own, "no server could be started"))?;
        let space: Space = context
            .global
            .space
            .parse()
            .map_err(|error: sandbox::Error| Failure::usage(error.message))?;
        let client = Client::new(&url, space, Some(Secret::new(key.as_str())))?;
        Ok(Self {
            child,
            stdout,
            client,
        })
    }

    /// A client of it.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Ends it and waits until its sandboxes are gone.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        drop(self.stdout);
        match tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Failure::general(format!("the server ended with {status}"))),
            Ok(Err(error)) => Err(Failure::general(format!(
                "cannot wait for the server: {error}"
            ))),
            // Killed when dropped; its spawner then removes the sandboxes.
            Err(_) => Err(Failure::general("the server did not stop in time")),
        }
    }
}

async fn first_line(stdout: &mut BufReader<ChildStdout>) -> io::Result<String> {
    let mut line = String::new();
    stdout.read_line(&mut line).await?;
    Ok(line)
}

/// The address in the line that a server on a free port begins with.
fn url(line: &str) -> Option<String> {
    let address: Value = serde_json::from_str(line).ok()?;
    Some(format!(
        "http://{}:{}",
        address["host"].as_str()?,
        address["port"].as_u64()?
    ))
}
