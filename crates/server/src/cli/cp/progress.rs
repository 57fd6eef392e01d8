//! How far a copy is, on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line is drawn again.
const TICK: Duration = Duration::from_millis(100);

/// A line on standard error; nothing when that is no terminal.
#[derive(Clone, Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        bar.set_style(style);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// The next file.
    pub(super) fn file(&self, name: &str) {
        // Names may come from a sandbox; nothing that they hold may act on the terminal.
        let shown: String = name
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        self.0.set_message(shown);
    }

    /// So many more bytes.
    pub(super) fn add(&self, bytes: usize) {
        self.0.inc(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The end.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
