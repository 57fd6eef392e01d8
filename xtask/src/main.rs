//! The project's own tasks: `cargo xtask check`, `tidy`, `dist`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool for developers"
)]

mod check;
mod dist;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "The project's own tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, lints, arrows, docs and tests; reports all failures together.
    Check {
        /// Leave the tests out.
        #[arg(long)]
        no_tests: bool,
    },
    /// The project's own style rules and the dependency arrows.
    Tidy,
    /// Builds the static release program and the wheel into `dist/`.
    Dist,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Check { no_tests } => check::run(!no_tests),
        Task::Tidy => tidy::run(),
        Task::Dist => dist::run(),
    }
}
