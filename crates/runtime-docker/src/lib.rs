//! Sandboxes from a Docker-compatible engine, as an alternative to namespaces of our own.
//!
//! A sandbox is a container whose first process is the agent, mounted into it
//! read-only. No port is published. A byte stream to the agent is an `exec` of
//! the agent as a relay to its own socket, which works with every engine and
//! every OCI runtime, also where no socket can be shared with the host
//! (`runsc`, `kata`).
//!
//! Everything that must survive the server is in the engine: labels say which
//! scope a container belongs to, its name whether it was stopped on purpose.
//!
//! What it does not do: filter what a sandbox can reach (the engine's bridge
//! network decides; sandboxes cannot reach each other), give each sandbox user
//! ids of its own (that is the engine's `userns-remap`), and archive.

mod config;
mod container;
mod engine;
mod error;
mod image;
mod stream;

pub use config::Config;
pub use engine::{Docker, put_agent};
