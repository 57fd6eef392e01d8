//! `sandboxai doctor`: what this machine can do, and whether a move may go on.

mod checklist;

use std::path::PathBuf;

use runtime_docker::doctor::{Change, DAEMON_JSON};
use runtime_embedded::doctor as embedded;
use sandbox::check::{Check, Status};
use serde_json::{Value, json};

use super::{Context, output::Output};
use crate::{
    config::{Config, RuntimeChoice},
    exit_code::ExitCode,
    failure::Failure,
    serve::{docker_config, embedded_config},
};
use checklist::Checklist;

/// Flags of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Which runtime to look at [default: the configured one]
    #[arg(long, value_name = "RUNTIME", value_parser = ["embedded", "docker"])]
    runtime: Option<String>,
    /// The Docker engine's configuration
    #[arg(long, value_name = "FILE", default_value = DAEMON_JSON)]
    daemon_json: PathBuf,
    /// Instead: what on this machine belongs to no known sandbox
    #[arg(long, conflicts_with_all = ["runtime", "daemon_json", "checklist"])]
    leaks: bool,
    #[command(flatten)]
    checklist: checklist::Options,
}

/// What was found about the runtime.
struct Findings {
    checks: Vec<Check>,
    /// What the engine's configuration should be.
    change: Option<Change>,
}

/// Fails when a check fails, or when there are leaks.
pub(super) fn main(context: &Context, doctor: &Doctor) -> Result<ExitCode, Failure> {
    let config = context.config()?;
    if doctor.leaks {
        return leaks(context, &embedded_config(&config));
    }
    if let Some(list) = doctor.checklist.checklist {
        // Before there are threads; and as root, so only where a line needs it.
        let runtime = match list {
            Checklist::BeforeMigration => examine(&config, doctor)?.checks,
            _ => Vec::new(),
        };
        return super::block_on(checklist::main(context, list, &doctor.checklist, runtime));
    }
    let findings = examine(&config, doctor)?;
    let failed = findings
        .checks
        .iter()
        .any(|check| check.status == Status::Fail);
    if context.output.json {
        context.output.json(&json!({
            "ok": !failed,
            "checks": findings.checks.iter().map(as_json).collect::<Vec<_>>(),
            "daemon_json": findings.change.as_ref().map(|change| json!({
                "path": change.path,
                "content": change.content,
                "commands": change.commands,
            })),
        }))?;
    } else {
        for check in &findings.checks {
            show(context.output, check)?;
        }
        if let Some(change) = &findings.change {
            propose(context.output, change)?;
        }
    }
    Ok(code(!failed))
}

fn code(ok: bool) -> ExitCode {
    if ok { ExitCode::Ok } else { ExitCode::Failure }
}

/// Looks at what the runtime needs.
fn examine(config: &Config, doctor: &Doctor) -> Result<Findings, Failure> {
    let runtime = match doctor.runtime.as_deref() {
        Some("docker") => RuntimeChoice::Docker,
        Some(_) => RuntimeChoice::Embedded,
        None => config.runtime,
    };
    let mut findings = match runtime {
        // In a process that has no threads yet, which the trial of image layers needs.
        RuntimeChoice::Embedded => Findings {
            checks: embedded::checks(&embedded_config(config)),
            change: None,
        },
        RuntimeChoice::Docker => {
            let engine = docker_config(config);
            let image = config.defaults.image.to_string();
            let report = super::wait_for(runtime_docker::doctor::examine(
                &engine,
                &image,
                &doctor.daemon_json,
            ))?;
            Findings {
                checks: report.checks,
                change: report.change,
            }
        }
    };
    findings.checks.push(authorities());
    Ok(findings)
}

/// What the server fetches over TLS is checked by the machine's own CA certificates.
fn authorities() -> Check {
    const NAME: &str = "certificate authorities";
    match reqwest::Client::builder().build() {
        Ok(_) => Check::pass(NAME, "this machine has CA certificates"),
        Err(_) => Check::warn(
            NAME,
            "this machine has no CA certificates: no image can be pulled",
        )
        .fix("apt-get install ca-certificates"),
    }
}

fn as_json(check: &Check) -> Value {
    json!({
        "name": check.name,
        "status": check.status.as_str(),
        "finding": check.finding,
        "fix": check.fix,
    })
}

fn show(output: Output, check: &Check) -> Result<(), Failure> {
    let color = match check.status {
        Status::Pass => "32",
        Status::Warn => "33",
        Status::Fail => "31",
    };
    let status = output.paint(color, check.status.as_str());
    output.line(format!("{status}  {}: {}", check.name, check.finding))?;
    match &check.fix {
        Some(fix) => output.line(format!("      fix: {fix}")),
        None => Ok(()),
    }
}

/// The engine's file to write, and what to run then.
fn propose(output: Output, change: &Change) -> Result<(), Failure> {
    let path = change.path.display();
    output.line(format!("\nWrite this to {path}:\n\n{}", change.content))?;
    output.line(format!("and run:\n\n{}", change.commands.join("\n")))
}

fn leaks(context: &Context, config: &runtime_embedded::Config) -> Result<ExitCode, Failure> {
    let leaks = embedded::leaks(config);
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
    Ok(code(leaks.is_empty()))
}
