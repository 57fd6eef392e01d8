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
//! What sandboxes in mode `open` reach is limited by rules of the host's firewall for
//! the bridge of their network, which whoever starts the runtime has made.
//!
//! What it does not do: give each sandbox user ids of its own (that is the engine's
//! `userns-remap`), and archive.

mod config;
mod container;
pub mod doctor;
mod engine;
mod error;
mod image;
mod stream;

pub use config::{Config, Guard};
pub use container::BRIDGE;
pub use engine::{Docker, put_agent};
