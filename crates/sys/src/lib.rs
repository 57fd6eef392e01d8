//! Linux calls that `std` and `rustix` do not offer safely.
//!
//! The only crate with `unsafe` code; each block carries its proof. It knows
//! nothing about sandboxes: no policy, no path of the product, no logging.
#![allow(unsafe_code, reason = "this crate exists to hold the unsafe code")]

pub mod clock;
pub mod credential;
pub mod file;
pub mod mount;
pub mod namespace;
pub mod pidfd;
pub mod process;
pub mod seccomp;
pub mod socket;
pub mod tree;
