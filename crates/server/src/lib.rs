//! The one program `sandboxai`: configuration, server and command line.
//!
//! ```text
//! main ─► cli ─► serve ─► config, spawner, facade, control, runtime
//!            └─► client of a server, by HTTP
//! ```

pub mod agent;
pub mod cli;
pub mod config;
pub mod exit_code;
pub mod failure;
pub mod preview;
pub mod serve;
