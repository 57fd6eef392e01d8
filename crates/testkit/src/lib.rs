//! What tests are made of: fakes that behave like the real parts, without
//! their cost, and suites that every real part must pass.
//!
//! Only ever a dev-dependency. It knows neither `control` nor any facade, so
//! that both can be tested with it.

mod fake_agent;
mod fake_images;
mod fake_runtime;
mod runtime_suite;

pub use fake_agent::{FakeAgent, Misbehaviour};
pub use fake_runtime::{Behaviour, Calls, FakeRuntime};
pub use runtime_suite::{SuiteFailure, check_runtime};
