//! `sandboxai rm`

use sandbox::Name;
use serde_json::json;

use super::Context;
use crate::{exit_code::ExitCode, failure::Failure};

/// Arguments of `rm`.
#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// Names of sandboxes
    #[arg(required = true, value_parser = super::name)]
    names: Vec<Name>,
}

/// Deletes every sandbox that it can, and fails with the first that it could not.
pub(super) async fn main(context: &Context, rm: &Rm) -> Result<ExitCode, Failure> {
    let client = context.client()?;
    let mut first = None;
    let mut deleted = Vec::new();
    for name in &rm.names {
        match client.sandbox(name, "").delete().await {
            Ok(()) if context.output.json => deleted.push(name.as_str()),
            Ok(()) => context.output.line(name.as_str())?,
            Err(failure) if first.is_none() => first = Some(failure),
            Err(failure) => super::output::notice(&failure.to_string()),
        }
    }
    if context.output.json {
        context.output.json(&json!({ "deleted": deleted }))?;
    }
    first.map_or(Ok(ExitCode::Ok), Err)
}
