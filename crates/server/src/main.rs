//! The program `sandboxai`, and under the name `sandboxaid` the original's server.

use std::{env, path::Path, process::ExitCode};

use server::{cli, config::Environment, serve::SPAWNER_COMMAND};

/// The name of the original server's program.
const ORIGINAL_NAME: &str = "sandboxaid";

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().collect();
    // First of all: the spawner must stay small and have one thread.
    if arguments
        .get(1)
        .is_some_and(|first| first == SPAWNER_COMMAND)
    {
        return runtime_embedded::spawner_main();
    }
    let name = arguments
        .first()
        .and_then(|path| Path::new(path).file_name());
    // With arguments it is ours, whatever its file is called.
    if arguments.len() == 1 && name.is_some_and(|name| name == ORIGINAL_NAME) {
        return cli::original_server(Environment::of_process());
    }
    cli::main(arguments, Environment::of_process())
}
