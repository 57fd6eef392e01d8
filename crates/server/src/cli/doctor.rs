//! `sandboxai doctor`

use runtime_embedded::doctor::{self, Check, Status};
use serde_json::json;

use super::Context;
use crate::{exit_code::ExitCode, failure::Failure, serve::embedded_config};

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Instead: what on this machine belongs to no known sandbox
    #[arg(long)]
    leaks: bool,
}

/// Fails when a check fails, or when there are leaks.
pub(super) fn main(context: &Context, doctor: &Doctor) -> Result<ExitCode, Failure> {
    let config = embedded_config(&context.config()?);
    if doctor.leaks {
        return leaks(context, &config);
    }
    let checks = doctor::checks(&config);
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    if context.output.json {
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                json!({
                    "name": check.name,
                    "status": word(check.status),
                    "finding": check.finding,
                    "fix": check.fix,
                })
            })
            .collect();
        context
            .output
            .json(&json!({ "ok": !failed, "checks": checks }))?;
    } else {
        for check in &checks {
            show(context, check)?;
        }
    }
    Ok(if failed {
        ExitCode::Failure
    } else {
        ExitCode::Ok
    })
}

fn show(context: &Context, check: &Check) -> Result<(), Failure> {
    let color = match check.status {
        Status::Pass => "32",
        Status::Warn => "33",
        Status::Fail => "31",
    };
    let status = context.output.paint(color, word(check.status));
    context
        .output
        .line(format!("{status}  {}: {}", check.name, check.finding))?;
    match &check.fix {
        Some(fix) => context.output.line(format!("      fix: {fix}")),
        None => Ok(()),
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Pass => "pass",
        Status::Warn => "warn",
        Status::Fail => "fail",
    }
}

fn leaks(context: &Context, config: &runtime_embedded::Config) -> Result<ExitCode, Failure> {
    let leaks = doctor::leaks(config);
    if context.output.json {
        let leaks: Vec<_> = leaks
            .iter()
            .map(|leak| json!({ "kind": leak.kind, "object": leak.object }))
            .collect();
        context.output.json(&json!({ "leaks": leaks }))?;
    } else if leaks.is_empty() {
        context.output.line("nothing is left behind")?;
    } else {
        for leak in &leaks {
            context
                .output
                .line(format!("{}: {}", leak.kind, leak.object))?;
        }
    }
    Ok(if leaks.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Failure
    })
}
