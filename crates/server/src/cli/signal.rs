//! Ctrl-C and SIGTERM while a command runs.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{exit_code::ExitCode, failure::Failure};

/// Exit codes as shells report them: 128 plus the signal.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// Signals that ask this program to end, caught from now on.
#[derive(Debug)]
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Begins to catch.
    pub(super) fn catch() -> Result<Self, Failure> {
        let catch = |kind| signal(kind).map_err(Failure::to("cannot catch signals"));
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one and returns how the program then ends.
    pub(super) async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::Command(INTERRUPTED),
            _ = self.terminate.recv() => ExitCode::Command(TERMINATED),
        }
    }
}
