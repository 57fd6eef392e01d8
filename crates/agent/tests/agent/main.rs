//! The agent's promises, kept over its protocol.
#![expect(clippy::unwrap_used, reason = "a failure is what a test is for")]

mod bombs;
mod changes;
mod client;
mod commands;
mod connections;
mod file_client;
mod files;
mod hostile;
mod ports;
mod processes;
mod search;
mod sessions;
mod terminals;
