//! `sandboxai doctor --checklist`: the four lists of a move from Daytona, each
//! line decided by something that was read or tried.
//!
//! One module per subject reads and judges; [`items`] says which line needs what.

mod env_file;
mod items;
mod log;
mod metrics;
mod prometheus;
mod rollout;
mod source;
mod trial;

use std::path::PathBuf;

use sandbox::check::{Check, Status};
use serde_json::json;

use crate::{
    cli::{Context, client::Client},
    exit_code::ExitCode,
    failure::Failure,
};
use env_file::EnvFile;
use log::Log;

/// A list, by the moment that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Checklist {
    /// Before anything is moved
    BeforeMigration,
    /// Before a share of the sandboxes is made here
    BeforeAb,
    /// Before Daytona is given up
    BeforeFull,
    /// After it was given up
    After,
}

/// What only people can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Confirmation {
    /// The users are content
    Users,
    /// Whoever runs this was trained
    Team,
    /// The adapter's percentage went from 10 to 50 to 100
    Ab,
}

/// Which list, and where its evidence is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Checklists of a move from Daytona")]
pub(super) struct Options {
    /// Instead: whether the move may go on
    #[arg(long, value_enum, value_name = "LIST")]
    pub(super) checklist: Option<Checklist>,
    /// SUNA's environment
    #[arg(long, value_name = "FILE", requires = "checklist")]
    env_file: Option<PathBuf>,
    /// The environment that SUNA had with Daytona, kept for the way back
    #[arg(long, value_name = "FILE", requires = "checklist")]
    old_env_file: Option<PathBuf>,
    /// Source of SUNA's backend
    #[arg(long, value_name = "FOLDER", requires = "checklist")]
    backend: Option<PathBuf>,
    /// Where the backend may import Daytona's SDK: the factory, below --backend
    #[arg(long, value_name = "FOLDER", default_value = "core/sandbox")]
    factory: PathBuf,
    /// SUNA's own documents
    #[arg(long, value_name = "FOLDER", requires = "checklist")]
    docs: Option<PathBuf>,
    /// A Python with the adapter, `sandboxai.suna`
    #[arg(long, value_name = "PROGRAM", requires = "checklist")]
    python: Option<PathBuf>,
    /// Prometheus
    #[arg(long, value_name = "URL", requires = "checklist")]
    prometheus: Option<String>,
    /// The server's log [default: the journal of --log-unit]
    #[arg(long, value_name = "FILE", requires = "checklist")]
    log_file: Option<PathBuf>,
    /// The server's unit in systemd
    #[arg(long, value_name = "UNIT", default_value = "sandboxai")]
    log_unit: String,
    /// Say what only people can say
    #[arg(long, value_enum, value_name = "WHAT", requires = "checklist")]
    confirm: Vec<Confirmation>,
}

impl Options {
    fn log(&self) -> Log {
        match &self.log_file {
            Some(path) => Log::File(path.clone()),
            None => Log::Unit(self.log_unit.clone()),
        }
    }
}

/// What the lines are decided by.
struct Evidence<'a> {
    client: Client,
    options: &'a Options,
    /// SUNA's environment, when it was named.
    env: Option<EnvFile>,
    /// What was found about the runtime; for the first list only.
    runtime: Vec<Check>,
    /// The server's filter of log lines.
    log_level: String,
}

/// Decides a list and shows it. Fails when a line does.
pub(super) async fn main(
    context: &Context,
    list: Checklist,
    options: &Options,
    runtime: Vec<Check>,
) -> Result<ExitCode, Failure> {
    let evidence = Evidence {
        client: context.client()?,
        options,
        env: options.env_file.as_deref().map(EnvFile::read).transpose()?,
        runtime,
        log_level: context.config()?.log.level,
    };
    let items = items::of(list, &evidence).await;
    let ok = items.iter().all(|item| item.status == Status::Pass);
    if context.output.json {
        let name = clap::ValueEnum::to_possible_value(&list);
        context.output.json(&json!({
            "checklist": name.as_ref().map(clap::builder::PossibleValue::get_name),
            "ok": ok,
            "items": items.iter().map(super::as_json).collect::<Vec<_>>(),
        }))?;
    } else {
        for item in &items {
            super::show(context.output, item)?;
        }
    }
    Ok(super::code(ok))
}
