//! The command line: what can be said, and where it goes.

mod cell;
mod client;
mod config;
mod cp;
mod create;
mod doctor;
mod embedded;
mod exec;
mod image;
mod logs;
mod ls;
mod output;
mod plain;
mod recipe;
mod rm;
mod rollout;
mod run;
mod serve;
mod signal;
mod sse;
mod stdin;
mod stop;
mod stream;
mod version;

use std::{collections::BTreeMap, ffi::OsString, future::Future, path::PathBuf, process};

use clap::Parser as _;
use sandbox::{Name, Space};

use crate::{
    config::{Config, DEFAULT_FILE, Environment, FlagValue, Secret, Sources, client_url},
    exit_code::{self, ExitCode},
    failure::Failure,
};
use client::Client;
use output::Output;

/// Isolated computers for AI agents, on your own machine.
#[derive(Debug, clap::Parser)]
#[command(name = "sandboxai", version, after_help = exit_code::HELP, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, clap::Args)]
struct Global {
    /// Configuration file [default: SANDBOXAI_CONFIG, else /etc/sandboxai/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the server [default: SANDBOXAI_URL, else the configured address of this machine's]
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// Space that sandboxes belong to
    #[arg(long, global = true, value_name = "SPACE", default_value = "default")]
    space: String,
    /// Write JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Serve),
    /// Run one command in a sandbox made for it
    Run(run::Run),
    /// Make a sandbox
    Create(create::Create),
    /// List the sandboxes
    Ls(ls::Ls),
    /// Run a command in a sandbox
    Exec(exec::Exec),
    /// Run Python in a sandbox; state is kept from cell to cell
    Cell(cell::Cell),
    /// Copy files and folders to and from a sandbox
    Cp(cp::Cp),
    /// Show what happened to a sandbox, and the output of its background processes
    Logs(logs::Logs),
    /// End the processes of sandboxes and keep their files
    Stop(stop::Names),
    /// Start stopped sandboxes again
    Start(stop::Names),
    /// Delete sandboxes
    Rm(rm::Rm),
    /// Make, import, list and remove images
    Image(image::Image),
    /// Divide new sandboxes between this server and a real Daytona behind it
    #[command(subcommand)]
    Rollout(rollout::Rollout),
    /// Check what this machine can do
    Doctor(doctor::Doctor),
    /// Show the configuration
    Config(config::Show),
    /// Show the version
    Version,
}

/// What a command works with.
struct Context {
    global: Global,
    environment: Environment,
    output: Output,
}

/// Runs the command that the arguments ask for.
#[must_use]
pub fn main(arguments: Vec<OsString>, environment: Environment) -> process::ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, with code 0.
            let code = if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Ok
            };
            drop(error.print());
            return code.into();
        }
    };
    let output = Output::new(arguments.global.json, &environment);
    let context = Context {
        global: arguments.global,
        environment,
        output,
    };
    finish(dispatch(&context, arguments.command))
}

/// Runs `serve` with what the environment says, as the original server's program does.
#[must_use]
pub fn original_server(environment: Environment) -> process::ExitCode {
    let global = Global {
        config: None,
        server: None,
        space: "default".to_owned(),
        json: false,
    };
    let output = Output::new(false, &environment);
    let context = Context {
        global,
        environment,
        output,
    };
    finish(serve::as_original(&context))
}

fn finish(result: Result<ExitCode, Failure>) -> process::ExitCode {
    match result {
        Ok(code) => code.into(),
        // It wants to hear no more.
        Err(failure) if failure.code == ExitCode::ReaderGone => failure.code.into(),
        Err(failure) => {
            output::notice(&failure.to_string());
            failure.code.into()
        }
    }
}

fn dispatch(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(serve) => serve::main(context, &serve),
        Command::Run(run) => own(block_on(run::main(context, run))),
        Command::Create(create) => block_on(create::main(context, &create)),
        Command::Ls(ls) => block_on(ls::main(context, &ls)),
        Command::Exec(exec) => own(block_on(exec::main(context, exec))),
        Command::Cell(cell) => block_on(cell::main(context, cell)),
        Command::Cp(cp) => block_on(cp::main(context, &cp)),
        Command::Logs(logs) => block_on(logs::main(context, &logs)),
        Command::Stop(names) => block_on(stop::stop(context, &names)),
        Command::Start(names) => block_on(stop::start(context, &names)),
        Command::Rm(rm) => block_on(rm::main(context, &rm)),
        Command::Image(image) => image::main(context, image),
        Command::Rollout(rollout) => block_on(rollout::main(context, &rollout)),
        Command::Doctor(doctor) => doctor::main(context, &doctor),
        Command::Config(show) => config::main(context, &show),
        Command::Version => version::main(context),
    }
}

/// `exec` and `run` pass their command's code, so our own failures need one that stands out.
fn own(result: Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    result.map_err(|failure| match failure.code {
        ExitCode::Usage | ExitCode::ReaderGone => failure,
        _ => failure.with_code(ExitCode::Own),
    })
}

/// Runs a command that talks to a server, on this one thread.
fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    wait_for(command)?
}

/// Waits for something, on this one thread.
fn wait_for<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::to("cannot start"))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(result)
}

impl Context {
    /// Everything that configuration is read from.
    fn sources(&self, flags: Vec<FlagValue>) -> Sources {
        Sources {
            file: self
                .global
                .config
                .clone()
                .or_else(|| self.environment.config_file()),
            default_file: Some(PathBuf::from(DEFAULT_FILE)),
            environment: self.environment.variables().clone(),
            flags,
        }
    }

    /// The configuration, for commands that work on this machine.
    fn config(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.sources(Vec::new()))?.0)
    }

    /// The server that was named, if one was.
    fn named_server(&self) -> Option<&str> {
        self.global
            .server
            .as_deref()
            .or_else(|| self.environment.get("SANDBOXAI_URL"))
    }

    /// A client of the server that was named, or of this machine's.
    fn client(&self) -> Result<Client, Failure> {
        match self.named_server() {
            Some(url) => self.client_of(url),
            None => self.client_of(&client_url(&self.sources(Vec::new()))?),
        }
    }

    fn client_of(&self, url: &str) -> Result<Client, Failure> {
        let space: Space = self
            .global
            .space
            .parse()
            .map_err(|error: sandbox::Error| Failure::usage(error.message))?;
        let key = self.environment.get("SANDBOXAI_API_KEY").map(Secret::new);
        Client::new(url, space, key)
    }
}

/// A sandbox's name from the command line.
fn name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error: sandbox::Error| error.message)
}

/// `KEY=VALUE` from the command line.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use the form KEY=VALUE".to_owned()),
    }
}

/// Variables as the body of a request has them; the last one of a name counts.
fn variables(pairs: &[(String, String)]) -> BTreeMap<&str, &str> {
    pairs
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

#[cfg(test)]
mod tests;
