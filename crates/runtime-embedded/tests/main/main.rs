//! Sandboxes for real: needs root, control groups, and busybox at `/bin/busybox`
//! (`apt-get install busybox-static`).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what is no test function here serves tests"
)]

mod doctor;
mod images;
mod isolation;
mod life;
mod measure;
mod support;
