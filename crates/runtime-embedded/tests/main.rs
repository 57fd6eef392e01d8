//! Sandboxes for real: needs root, control groups, and busybox at `/bin/busybox`
//! (`apt-get install busybox-static`).

mod isolation;
mod life;
mod measure;
mod support;
