//! Runs the driver's own tests, which are in Python.
#![expect(clippy::unwrap_used, reason = "a failure is what a test is for")]

#[path = "cells/agent.rs"]
#[expect(dead_code, reason = "only the path of the Python is needed here")]
mod agent;

#[test]
fn the_driver_passes_its_tests() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/driver_test.py");
    let output = std::process::Command::new(agent::python())
        .arg(tests)
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
}
