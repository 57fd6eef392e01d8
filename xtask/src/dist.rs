//! What is given to users: the static program and the wheel that carries it.

use std::{path::Path, process::Command};

use anyhow::Context;

/// Builds the release program, static, and the wheel, into `dist/`.
///
/// # Errors
/// When a build fails or maturin is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()?;
    let dist = root.join("dist");
    std::fs::create_dir_all(&dist)?;
    // A host triple must be named: without it the flag would also reach proc-macros.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run_in(
        &root,
        "cargo",
        &[
            "build",
            "--release",
            "--locked",
            "--package",
            "sandboxai-server",
            "--target",
            &triple,
        ],
    )?;
    let built = root.join("target").join(&triple).join("release/sandboxai");
    std::fs::copy(&built, dist.join("sandboxai")).with_context(|| built.display().to_string())?;
    let out = dist
        .to_str()
        .context("the path of the checkout is not UTF-8")?;
    run_in(
        &root.join("python"),
        "maturin",
        &[
            "build",
            "--release",
            "--locked",
            "--target",
            &triple,
            "--out",
            out,
        ],
    )?;
    println!("dist: {}", dist.display());
    Ok(())
}

fn run_in(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(folder)
        .status()
        .with_context(|| format!("{program} could not be started; is it installed?"))?;
    anyhow::ensure!(status.success(), "{program} {} failed", arguments.join(" "));
    Ok(())
}
