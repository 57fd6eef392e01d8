//! Log lines on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::{Environment, Log};

/// Starts logging. Called once; a second call changes nothing.
pub(super) fn start(config: &Log, environment: &Environment) {
    let filter = EnvFilter::builder().parse_lossy(&config.level);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !environment.no_color());
    let started = if config.json {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.try_init()
    };
    // Only tests start a server twice in one process, and they keep the first log.
    drop(started);
}
