//! Keeps sandboxes alive.
//!
//! Facades translate, runtimes obey, the agent reports; only this crate decides.
//! It knows no HTTP, no wire format of a facade, and no particular runtime.
//!
//! One task owns each sandbox ([`owner`]); what it decides is a pure function
//! ([`lifecycle`]). Work inside a sandbox (commands, cells, files) does not
//! queue behind that task: it opens a stream to the agent of its own ([`agent`]).

mod api;

pub use api::*;
