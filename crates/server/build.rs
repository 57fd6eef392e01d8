//! Builds the agent as a static binary, to be carried inside the server's.
//!
//! The agent runs in file systems that may hold nothing else, so it is linked
//! with `+crt-static`, which a plain dependency of this package could not be.
//! `SANDBOXAI_AGENT_BINARY` names a ready-made one instead.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the agent is made from, relative to the workspace.
const SOURCES: [&str; 5] = [
    "crates/agent",
    "crates/agent-protocol",
    "crates/sys",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() {
    println!("cargo::rerun-if-env-changed=SANDBOXAI_AGENT_BINARY");
    match agent() {
        Ok(path) => println!("cargo::rustc-env=SANDBOXAI_AGENT_PATH={}", path.display()),
        // Makes cargo fail after this program has ended.
        Err(problem) => println!("cargo::error={problem}"),
    }
}

fn agent() -> Result<PathBuf, String> {
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("../..");
    for source in SOURCES {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    let agent = match env::var_os("SANDBOXAI_AGENT_BINARY") {
        Some(path) => PathBuf::from(path),
        None => build(&workspace)?,
    };
    fs::canonicalize(&agent).map_err(|error| format!("the agent {}: {error}", agent.display()))
}

fn build(workspace: &Path) -> Result<PathBuf, String> {
    let target = variable("TARGET")?;
    // A folder of its own: the outer cargo holds the lock of the usual one.
    let folder = target_folder()?.join("agent-build");
    let status = Command::new(variable("CARGO")?)
        .current_dir(workspace)
        .args(["build", "--package", "sandboxai-agent", "--profile", "agent"])
        .args(["--target", &target, "--target-dir"])
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("RUSTFLAGS")
        // Set when a linter drives the outer build; the agent is only to be compiled.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .map_err(|error| format!("starting cargo to build the agent: {error}"))?;
    if !status.success() {
        return Err(format!("building the agent: {status}; see above"));
    }
    Ok(folder.join(target).join("agent/sandboxai-agent"))
}

/// The folder that all build results are in, found from `OUT_DIR`:
/// `TARGET_FOLDER[/TRIPLE]/PROFILE/build/PACKAGE/out`.
fn target_folder() -> Result<PathBuf, String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let above = out.ancestors().nth(4);
    above
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} is not where cargo builds", out.display()))
}

fn variable(name: &str) -> Result<String, String> {
    env::var_os(name)
        .and_then(|value| value.into_string().ok())
        .ok_or_else(|| format!("cargo did not set {name}"))
}
