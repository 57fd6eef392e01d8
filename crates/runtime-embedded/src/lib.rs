//! Sandboxes from Linux namespaces, control groups, overlayfs and seccomp.
//!
//! Three kinds of process work together:
//!
//! ```text
//! server ── [`Embedded`]: asks, waits, connects; no privilege, no fork, no mount
//!   │ requests with a reply socket            ▲ answers: descriptors, step times
//!   ▼                                         │
//! spawner ── [`spawner_main`]: root, one thread, a few megabytes, forks one
//!   │        worker per request and holds no state that is not on disk
//!   ▼
//! worker ── does one request and exits; a creating worker makes
//!   ▼
//! init ── the agent, first process of the sandbox; see [`init_contract`]
//! ```
//!
//! The spawner believes nothing: a request carries names and numbers, from
//! which the spawner computes the plan itself. What exists is written below the
//! state folder before it is made, so that any process can be killed at any moment
//! and the next start cleans up.

mod cgroup;
mod config;
pub mod doctor;
mod embedded;
mod error;
pub mod image;
mod images;
pub mod init_contract;
mod kept;
mod layout;
pub mod network;
mod plan;
mod process;
mod record;
mod seccomp;
mod slot;
mod spawner;
mod wait;
mod wire;

pub use config::{Config, SpawnerProgram};
pub use embedded::Embedded;
pub use error::{Error, Step};
pub use spawner::{Spawner, spawner_main};
