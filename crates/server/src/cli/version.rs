//! `sandboxai version`

use serde_json::json;

use super::Context;
use crate::{exit_code::ExitCode, failure::Failure};

pub(super) fn main(context: &Context) -> Result<ExitCode, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if context.output.json {
        context.output.json(&json!({ "version": version }))?;
    } else {
        context.output.line(format!("sandboxai {version}"))?;
    }
    Ok(ExitCode::Ok)
}
