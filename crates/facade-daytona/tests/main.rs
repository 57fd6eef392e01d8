//! The facade over a real `control` and a runtime in memory, one request at a time.

#![expect(clippy::unwrap_used, reason = "a step that fails, fails the test")]

mod files;
mod processes;
mod service;
mod sessions;
mod system;
