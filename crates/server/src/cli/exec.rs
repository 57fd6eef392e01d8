//! `sandboxai exec`, and the part of `run` that is the same.

use std::time::Duration;

use reqwest::Method;
use sandbox::Name;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Context,
    client::Client,
    output::{self, Output},
    signal::Interrupts,
    stdin, stream,
};
use crate::{config::parse::duration, exit_code::ExitCode, failure::Failure};

/// The code of a command whose time was over, as of `timeout(1)`.
const TIMED_OUT: u8 = 124;

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    /// The sandbox
    #[arg(value_parser = super::name)]
    name: Name,
    /// Environment variable of the command
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = super::variable)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    work: Work,
}

/// A command and how to run it.
#[derive(Debug, clap::Args)]
pub(super) struct Work {
    /// Working directory
    #[arg(long, value_name = "FOLDER")]
    cwd: Option<String>,
    /// Kill the command after so long, e.g. 90s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Forward standard input
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Program and arguments; run by no shell
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<String>,
}

pub(super) async fn main(context: &Context, exec: Exec) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let mut interrupts = Interrupts::catch()?;
    let env = json!(super::variables(&exec.env));
    execute(
        &client,
        &exec.name,
        &exec.work,
        env,
        context.output,
        &mut interrupts,
    )
    .await
}

/// Runs the command and returns its exit code.
pub(super) async fn execute(
    client: &Client,
    name: &Name,
    work: &Work,
    env: Value,
    to: Output,
    interrupts: &mut Interrupts,
) -> Result<ExitCode, Failure> {
    if work.stdin {
        if to.json {
            return Err(Failure::usage("--json and --stdin do not go together"));
        }
        return with_stdin(client, name, work, env, to, interrupts).await;
    }
    let body = json!({
        "argv": work.command,
        "env": env,
        "cwd": work.cwd,
        "timeout_s": work.timeout.map(|timeout| timeout.as_secs_f64()),
        "split_output": true,
    });
    let running = async {
        if to.json {
            let result = client
                .sandbox(name, "/tools:run_shell_command")
                .post(&body)
                .await?;
            to.json(&result)?;
            return stream::exit_code(&result);
        }
        let target = client.sandbox(name, "/tools:stream_shell_command");
        let result = stream::print(target.events(Some(&body)).await?, to).await?;
        stream::exit_code(&result)
    };
    tokio::select! {
        code = running => code,
        // Dropping the request makes the server kill the command.
        code = interrupts.next() => Ok(code),
    }
}

/// A command that reads what this program reads: as a background process, since
/// a request's own output cannot be read while its input is still coming.
async fn with_stdin(
    client: &Client,
    name: &Name,
    work: &Work,
    env: Value,
    to: Output,
    interrupts: &mut Interrupts,
) -> Result<ExitCode, Failure> {
    let body = json!({ "argv": work.command, "env": env, "cwd": work.cwd, "stdin": true });
    let started = client.sandbox(name, "/processes").post(&body).await?;
    let process = started["id"]
        .as_u64()
        .ok_or_else(|| Failure::general("the server's answer has no id of a process"))?;
    let place = format!("/processes/{process}");
    let events = client
        .sandbox(name, &format!("{place}/output"))
        .query("follow", "true")
        .events(None)
        .await?;
    let signal = async |signal: &str| {
        let target = client.sandbox(name, &format!("{place}/signal"));
        target.post(&json!({ "signal": signal })).await.map(drop)
    };
    let output = stream::print(events, to);
    let input = forward(client, name, &place);
    let over = async {
        match work.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(output, input, over);
    let mut input_ended = false;
    let mut interrupted = false;
    loop {
        tokio::select! {
            result = &mut output => return ended(&result?),
            // A command may end without having read everything.
            _ = &mut input, if !input_ended => input_ended = true,
            () = &mut over => {
                signal("SIGKILL").await?;
                return Ok(ExitCode::Command(TIMED_OUT));
            }
            code = interrupts.next() => {
                if interrupted {
                    signal("SIGKILL").await?;
                    return Ok(code);
                }
                interrupted = true;
                signal("SIGINT").await?;
            }
        }
    }
}

/// Standard input, a request per piece: a request that waits for a person to
/// type would look like one that is stuck.
async fn forward(client: &Client, name: &Name, place: &str) -> Result<(), Failure> {
    let mut pieces: mpsc::Receiver<Vec<u8>> = stdin::pieces();
    let target = || client.sandbox(name, &format!("{place}/input"));
    while let Some(piece) = pieces.recv().await {
        target().upload(Method::POST, piece.into()).await?;
    }
    target()
        .query("close", "true")
        .upload(Method::POST, Vec::new().into())
        .await
}

fn ended(result: &Value) -> Result<ExitCode, Failure> {
    if result["truncated"] == true {
        output::notice("warning: some output was dropped, because it came faster than it was read");
    }
    stream::exit_code(&result["exit"])
}
