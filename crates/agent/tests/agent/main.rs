//! The agent's promises, kept over its protocol.

mod client;
mod commands;
mod connections;
mod files;
mod hostile;
mod processes;
