//! Everything that must hold before a change lands.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// One check: a name for people and the command that makes it.
struct Step {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// Additional environment.
    env: &'static [(&'static str, &'static str)],
}

const STEPS: &[Step] = &[
    Step {
        name: "format",
        program: "cargo",
        arguments: &["fmt", "--all", "--check"],
        env: &[],
    },
    Step {
        name: "tidy",
        program: "cargo",
        arguments: &["xtask", "tidy"],
        env: &[],
    },
    Step {
        name: "lints",
        program: "cargo",
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
        env: &[],
    },
    Step {
        name: "docs",
        program: "cargo",
        arguments: &[
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--locked",
        ],
        env: &[(
            "RUSTDOCFLAGS",
            "-D warnings -A rustdoc::private_intra_doc_links",
        )],
    },
    Step {
        name: "generated python",
        program: "python3",
        arguments: &["python/generate_sync.py", "--check"],
        env: &[],
    },
];

const TESTS: Step = Step {
    name: "tests",
    program: "cargo",
    arguments: &["test", "--workspace", "--locked", "--no-fail-fast"],
    env: &[],
};

/// Runs all checks, then tells which failed.
///
/// # Errors
/// When a check failed or could not be started.
pub(crate) fn run(with_tests: bool) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let steps = STEPS.iter().chain(with_tests.then_some(&TESTS));
    let mut outcomes: Vec<(&str, bool, Duration)> = Vec::new();
    for step in steps {
        println!(
            "── {}: {} {}",
            step.name,
            step.program,
            step.arguments.join(" ")
        );
        let started = Instant::now();
        let status = Command::new(step.program)
            .args(step.arguments)
            .envs(step.env.iter().copied())
            .current_dir(&root)
            .status()?;
        outcomes.push((step.name, status.success(), started.elapsed()));
    }
    println!();
    for (name, passed, took) in &outcomes {
        let word = if *passed { "ok    " } else { "FAILED" };
        println!("{word} {name} ({:.1} s)", took.as_secs_f64());
    }
    let failed: Vec<_> = outcomes.iter().filter(|o| !o.1).map(|o| o.0).collect();
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
