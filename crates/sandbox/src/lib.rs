//! The words of the product.
//!
//! Every other crate speaks in these types. What is deliberately absent: no
//! wire format (nothing here derives `Serialize`), no HTTP, no Linux call, no
//! notion of a command, a cell or a file. A type that needs one of those
//! belongs to a facade, to `agent-protocol` or to `control`.

pub mod check;
mod error;
mod fetch;
mod id;
mod images;
mod limits;
mod runtime;
mod spec;
mod state;

pub use error::{Error, Kind, Result};
pub use fetch::{Fetch, Sink};
pub use id::{Id, Name, Space};
pub use images::{FoundImage, ImageConfig, Images, NewImage};
pub use limits::{Limits, Usage};
pub use runtime::{
    AgentStream, ByteStream, Capabilities, Condition, Created, Ended, Found, Leftovers, Runtime,
    StepTime,
};
pub use spec::{Image, Lease, NetworkMode, RuntimeClass, Spec};
pub use state::{EndReason, State};
