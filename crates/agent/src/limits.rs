//! How many files the agent may have open.
//!
//! It holds up to three for each background process and two for each connection
//! to a port, which is more than programs may have by custom. What it starts
//! begins with the custom again: some programs look through all that they may
//! have, or keep them in sets of 1024.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of this process to what is allowed; what it was before.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Without it the agent refuses some work that it could do.
    let _ = setrlimit(Resource::Nofile, raised);
    limit.current
}
