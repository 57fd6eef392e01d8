//! `sandboxai stop` and `sandboxai start`

use sandbox::Name;
use serde_json::{Value, json};

use super::Context;
use crate::{exit_code::ExitCode, failure::Failure};

/// Arguments of `stop` and of `start`.
#[derive(Debug, clap::Args)]
pub(super) struct Names {
    /// Names of sandboxes
    #[arg(required = true, value_parser = super::name)]
    names: Vec<Name>,
}

/// Ends the processes of sandboxes and keeps their files.
pub(super) async fn stop(context: &Context, names: &Names) -> Result<ExitCode, Failure> {
    each(context, names, "/stop").await
}

/// Starts stopped and archived sandboxes, resumes paused ones.
pub(super) async fn start(context: &Context, names: &Names) -> Result<ExitCode, Failure> {
    each(context, names, "/start").await
}

/// Asks for every sandbox that it can, and fails with the first that it could not.
async fn each(context: &Context, names: &Names, what: &str) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let mut first = None;
    let mut done: Vec<Value> = Vec::new();
    for name in &names.names {
        match client.sandbox(name, what).post(&json!({})).await {
            Ok(sandbox) if context.output.json => done.push(sandbox),
            Ok(_) => context.output.line(name.as_str())?,
            Err(failure) if first.is_none() => first = Some(failure),
            Err(failure) => super::output::notice(&failure.to_string()),
        }
    }
    if context.output.json {
        context.output.json(&Value::Array(done))?;
    }
    first.map_or(Ok(ExitCode::Ok), Err)
}
