//! What can go wrong with the network of a sandbox, one variant per step.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use super::address::Ipv4Network;

/// Which step of the network failed, with what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The pool holds fewer addresses than there are sandboxes.
    #[error(
        "network pool {pool} has no addresses left for sandbox number {slot}; configure a larger pool, e.g. 10.231.0.0/16"
    )]
    PoolTooSmall {
        /// The configured pool.
        pool: Ipv4Network,
        /// The number of the sandbox.
        slot: u32,
    },
    /// The pool is in use by somebody else.
    #[error(
        "network pool {pool} contains {address}, an address of this host; configure another pool, e.g. 10.232.0.0/16"
    )]
    PoolInUse {
        /// The configured pool.
        pool: Ipv4Network,
        /// The address.
        address: Ipv4Addr,
    },
    /// The host cannot give sandboxes a network.
    #[error("network mode \"open\" does not work on this host: {reason}; use mode \"none\"")]
    Unavailable {
        /// What is missing and how to get it.
        reason: String,
    },
    /// The lock of the host's firewall could not be taken.
    #[error("cannot lock the firewall by {}: {source}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program `nft` could not be run.
    #[error("cannot run {}: {source}", path.display())]
    FilterProgram {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program `nft` refused the rules.
    #[error(
        "the firewall refused to {action}: {detail}; the kernel may lack a module of nf_tables"
    )]
    FilterRefused {
        /// What was tried.
        action: &'static str,
        /// What the program said, shortened.
        detail: String,
    },
    /// The kernel refused a change of links, addresses, routes or firewall elements.
    #[error("cannot {action} {object}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// With what.
        object: String,
        /// Why.
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error("cannot set {path} to {value}: {source}; is /proc/sys read-only?")]
    Setting {
        /// The file.
        path: String,
        /// What it should hold.
        value: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The network namespace of a sandbox could not be entered or left.
    #[error("cannot {action}: {source}")]
    Namespace {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The name service of a sandbox could not be bound.
    #[error("cannot listen for name lookups at {address} inside the sandbox: {source}")]
    Bind {
        /// The address inside the sandbox.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}
