//! Rules that no lint knows: the dependency arrows, where `unsafe` may live,
//! and words that hide what a file is for.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// Which of our crates each crate may import, by library name.
/// `docs/architecture.md` draws the same picture.
const ARROWS: &[(&str, &[&str])] = &[
    ("sandboxai-sandbox", &[]),
    ("sandboxai-agent-protocol", &[]),
    ("sandboxai-sys", &[]),
    (
        "sandboxai-agent",
        &["sandboxai-agent-protocol", "sandboxai-sys"],
    ),
    (
        "sandboxai-runtime-embedded",
        &["sandboxai-sandbox", "sandboxai-sys"],
    ),
    ("sandboxai-edge", &["sandboxai-sandbox"]),
    ("sandboxai-image-pull", &["sandboxai-sandbox"]),
    ("sandboxai-runtime-docker", &["sandboxai-sandbox"]),
    (
        "sandboxai-control",
        &["sandboxai-sandbox", "sandboxai-agent-protocol"],
    ),
    (
        "sandboxai-facade-sandboxai",
        &["sandboxai-control", "sandboxai-edge", "sandboxai-sandbox"],
    ),
    (
        "sandboxai-facade-daytona",
        &["sandboxai-control", "sandboxai-edge", "sandboxai-sandbox"],
    ),
    (
        "sandboxai-server",
        &[
            "sandboxai-control",
            "sandboxai-edge",
            "sandboxai-facade-daytona",
            "sandboxai-facade-sandboxai",
            "sandboxai-image-pull",
            "sandboxai-runtime-docker",
            "sandboxai-runtime-embedded",
            "sandboxai-sandbox",
            "sandboxai-sys",
        ],
    ),
    (
        "sandboxai-testkit",
        &["sandboxai-sandbox", "sandboxai-agent-protocol"],
    ),
    ("xtask", &[]),
];

/// Foreign crates that a crate must never pull in directly, and why.
const NEVER: &[(&str, &str, &str)] = &[
    ("sandboxai-control", "axum", "control sees no HTTP type"),
    ("sandboxai-control", "hyper", "control sees no HTTP type"),
    ("sandboxai-control", "reqwest", "control sees no HTTP type"),
    (
        "sandboxai-runtime-docker",
        "axum",
        "a runtime serves no HTTP",
    ),
    (
        "sandboxai-runtime-embedded",
        "axum",
        "a runtime serves no HTTP",
    ),
    ("sandboxai-sandbox", "serde", "the words are no wire format"),
    ("sandboxai-agent", "tokio", "the agent must stay small"),
];

/// File and module names that say nothing about their subject.
const EMPTY_NAMES: &[&str] = &[
    "utils", "util", "helpers", "helper", "common", "misc", "manager", "base", "handler",
];

/// Longest file of code, its tests included, lines. Tables and generated data are no code.
const FILE_LINES_MAX: usize = 1_000;

/// Runs all rules.
///
/// # Errors
/// With every broken rule, one per line.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()?;
    let mut broken = Vec::new();
    arrows(&root, &mut broken)?;
    let mut files = Vec::new();
    rust_files(&root.join("crates"), &mut files)?;
    rust_files(&root.join("xtask"), &mut files)?;
    for file in &files {
        source(&root, file, &mut broken)?;
    }
    anyhow::ensure!(broken.is_empty(), "tidy:\n  {}", broken.join("\n  "));
    println!("tidy: {} files, all arrows as drawn", files.len());
    Ok(())
}

/// Compares `cargo metadata` with [`ARROWS`] and [`NEVER`].
fn arrows(root: &Path, broken: &mut Vec<String>) -> anyhow::Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            broken.push(format!(
                "{name}: not in the table of arrows in xtask/src/tidy.rs"
            ));
            continue;
        };
        for dependency in normal_dependencies(package) {
            if ours.contains(dependency) && !allowed.contains(&dependency) {
                broken.push(format!("{name} must not import {dependency}"));
            }
            if let Some((_, _, why)) = NEVER
                .iter()
                .find(|(from, to, _)| *from == name && *to == dependency)
            {
                broken.push(format!("{name} must not import {dependency}: {why}"));
            }
        }
        let manifest = fs::read_to_string(&package.manifest_path)?;
        if !manifest.contains("[lints]\nworkspace = true") {
            broken.push(format!(
                "{name}: Cargo.toml lacks `[lints] workspace = true`"
            ));
        }
    }
    Ok(())
}

fn normal_dependencies(package: &Package) -> impl Iterator<Item = &str> {
    package
        .dependencies
        .iter()
        .filter(|d| d.kind == DependencyKind::Normal)
        .map(|d| d.name.as_str())
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// Rules for one source file.
fn source(root: &Path, file: &Path, broken: &mut Vec<String>) -> anyhow::Result<()> {
    let text = fs::read_to_string(file)?;
    let shown = file
        .strip_prefix(root)
        .unwrap_or(file)
        .display()
        .to_string();
    let stem = file
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        broken.push(format!(
            "{shown}: the name {stem:?} says nothing about its subject"
        ));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        broken.push(format!(
            "{shown}: {lines} lines, split it by subject (at most {FILE_LINES_MAX})"
        ));
    }
    let in_sys = shown.starts_with("crates/sys/");
    let lifts = concat!("allow(unsafe", "_code");
    if !in_sys && text.contains(lifts) {
        broken.push(format!("{shown}: unsafe code lives in crates/sys only"));
    }
    for (index, line) in text.lines().enumerate() {
        let word = [
            concat!("FIX", "ME"),
            concat!("XX", "X"),
            concat!("TO", "DO"),
        ]
        .into_iter()
        .find(|word| line.contains(&format!("{word}:")) || line.contains(&format!("{word} ")));
        if let Some(word) = word {
            broken.push(format!("{shown}:{}: {word} may not land", index + 1));
        }
    }
    Ok(())
}
