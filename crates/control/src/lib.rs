//! Keeps sandboxes alive.
//!
//! Facades translate, runtimes obey, the agent reports; only this crate decides.
//! It knows no HTTP, no wire format of a facade, and no particular runtime.
//!
//! One task owns each sandbox (`owner`); what it decides is a pure function
//! (`lifecycle`). Work inside a sandbox (commands, cells, files) does not
//! queue behind that task: it opens a stream to the agent of its own (`agent`).
//! What must survive the server is in one SQLite file (`store`), and is brought
//! together with what the runtime still has when the next one starts (`recover`).

mod activity;
mod agent;
mod api;
mod change;
mod clock;
mod collect;
mod control;
mod core;
mod image;
mod inside;
mod jobs;
mod leak;
mod lease;
mod lifecycle;
mod metrics;
mod moment;
mod owner;
mod recover;
mod registry;
mod request;
mod resident;
#[cfg(test)]
mod simulation;
mod store;
#[cfg(test)]
mod testing;
mod work;

pub use api::*;
pub use clock::{Clock, SystemClock};
pub use collect::{Collected, End, Output, collect};
pub use control::Control;
pub use image::{ImageBuild, ImageInfo, ImageJob, ImageJobKind, ImageJobState};
