//! Starting a background process.

use std::sync::{Arc, Mutex, OnceLock};

use agent_protocol::{Command, Exec, Failure};

use super::{Process, Subject, now_ms, streams::Streams};
use crate::{
    context::Context,
    failure::{Stop, limit_reached},
    output::Output,
    program, terminal,
};

/// How much of a command line is told in listings.
const SHOWN_CHARS_MAX: usize = 200;

/// Starts a program.
pub(super) fn start(context: &Arc<Context>, exec: &Exec, id: u64) -> Result<Process, Stop> {
    let mut spec = program::spec(context, exec)?;
    let pipes = match exec.tty {
        Some(size) => terminal::open(size, &mut spec)?,
        None => program::make_pipes(exec, &mut spec).map_err(|error| {
            limit_reached(format!("cannot make pipes for the command: {error}"))
        })?,
    };
    let killed_before = context.out_of_memory.count();
    let child = context.spawner.spawn(spec).map_err(Failure::from)?;
    let (streams, stdin) = Streams::new(pipes, Output::sharing(&context.kept));
    Ok(Process {
        context: Arc::clone(context),
        id,
        command: shown(&exec.command),
        tag: exec.tag.clone(),
        started_ms: now_ms(),
        subject: Subject::Program(child),
        killed_before,
        exit: OnceLock::new(),
        stdin: Mutex::new(stdin),
        streams: Mutex::new(streams),
        tty: Mutex::new(exec.tty),
    })
}

/// A command as listings show it.
fn shown(command: &Command) -> String {
    match command {
        Command::Shell(line) | Command::Script(line) => shortened(line),
        Command::Argv(argv) => shortened(&argv.join(" ")),
    }
}

/// The beginning of a long text.
pub(super) fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
