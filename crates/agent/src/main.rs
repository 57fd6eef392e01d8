//! The program inside each sandbox, its first process.
//!
//! It runs commands, Python cells and file operations for the server, over
//! connections from a listening socket that it inherits, and reaps orphans. It
//! trusts nothing in the sandbox: the workload runs as the same user, in a
//! cgroup of its own, and may do its worst.
//!
//! ```text
//! sandboxai-agent --listen-fd N [--cgroup-fd N]... [--oom-fd N] --workdir DIR
//! sandboxai-agent --listen-socket NAME [--direct] --workdir DIR
//! sandboxai-agent --relay NAME
//! ```
//!
//! Threads that block, no async runtime: at rest there are two or three, and
//! the whole program must fit into a few hundred kilobytes.

mod account;
mod arguments;
mod cell;
mod collector;
mod connection;
mod context;
mod dispatch;
mod environment;
mod exec;
mod failure;
mod file;
mod limits;
mod output;
mod process;
mod program;
mod reaper;
mod relay;
mod request;
mod session;
mod spawn;
mod terminal;
mod tunnel;

use std::{ffi::OsString, io, os::fd::RawFd, process::ExitCode, sync::Arc};

use rustix::{
    fs::Mode,
    process::{DumpableBehavior, set_dumpable_behavior},
};

use crate::{
    arguments::{Arguments, Listen},
    collector::Collector,
    context::{Context, OutOfMemory},
    dispatch::Dispatch,
    environment::Environment,
    reaper::Reaper,
    request::Agent,
    spawn::Spawner,
};

/// Blocks of this size and more go back to the kernel as soon as they are freed.
const MAPPED_BYTES_MIN: i32 = 32 << 10;

/// Exit code for a wrong command line.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    // First of all: nobody in the sandbox may trace this process or look into it.
    let guarded = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    sys::process::frugal_allocator(MAPPED_BYTES_MIN);
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let [option] = arguments.as_slice()
        && option == spawn::server::ARGUMENT
    {
        return spawn::server::run();
    }
    if let [option, name] = arguments.as_slice()
        && option == relay::ARGUMENT
    {
        return relay::run(&name.to_string_lossy());
    }
    let arguments = match arguments::parse(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            complain(&error);
            return ExitCode::from(USAGE);
        }
    };
    match guarded
        .map_err(io::Error::from)
        .and_then(|()| serve(arguments))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// For whoever starts the agent by hand; the runtime gives it no standard error.
#[expect(clippy::print_stderr, reason = "the only words before it can serve")]
fn complain(error: &dyn std::error::Error) {
    eprintln!("sandboxai-agent: {error}");
}

fn serve(arguments: Arguments) -> io::Result<()> {
    let take = |number: RawFd| -> io::Result<_> {
        sys::process::take_inherited(number)
            .map_err(|error| io::Error::new(error.kind(), format!("descriptor {number}: {error}")))
    };
    let listener = match arguments.listen {
        Listen::Inherited(number) => take(number)?,
        Listen::Socket(name) => relay::listener(&name)?,
    };
    let cgroups = arguments
        .cgroups
        .into_iter()
        .map(take)
        .collect::<io::Result<_>>()?;
    let out_of_memory = arguments.out_of_memory.map(take).transpose()?;
    let open_files = limits::raise();
    // What else was inherited by mistake goes to nobody.
    let _ = sys::process::close_on_exec_from(3);
    // The image may lack the folder its commands are to run in.
    let _ = file::make_directories(&arguments.workdir);
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        // In a sandbox whose first process is another one, orphans come here nevertheless.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    }
    let reaper = Reaper::start()?;
    let context = Arc::new(Context {
        spawner: match arguments.direct {
            true => Spawner::direct(reaper, open_files),
            false => Spawner::new(reaper, cgroups, open_files),
        },
        collector: Collector::new()?,
        kept: Arc::default(),
        out_of_memory: OutOfMemory::new(out_of_memory),
        environment: Environment::new(std::env::vars_os().collect()),
        workdir: arguments.workdir,
    });
    // A failure shows again, with its cause, in the first command.
    let _ = context.spawner.warm_up();
    Dispatch::run(Agent::new(context)?, listener)
}
