//! How cells end, in the words of the protocol.

use agent_protocol::{CellEnd, CellStatus};

use super::{Cause, Execution, INTERRUPT_GRACE, SECOND_INTERRUPT_GRACE, Stage};
use crate::cell::channel::Ended;

/// How a cell ended, and whether the kernel can be used again.
#[derive(Debug)]
pub(in crate::cell) struct Outcome {
    /// For the client.
    pub(in crate::cell) end: CellEnd,
    /// The kernel is to be dropped.
    pub(in crate::cell) kernel_died: bool,
}

impl Execution<'_, '_> {
    pub(super) fn ended(&mut self, ended: Ended) -> Outcome {
        self.pass_on_written();
        let interrupted = ended.name.as_deref() == Some("KeyboardInterrupt");
        let (status, value) = match self.stop.map(|stop| stop.cause) {
            Some(Cause::Timeout(timeout)) => (
                CellStatus::TimedOut,
                Some(format!(
                    "the cell was interrupted because it ran longer than its timeout of {} ms",
                    timeout.as_millis()
                )),
            ),
            Some(Cause::Request | Cause::ClientGone) if interrupted => {
                (CellStatus::Interrupted, ended.value)
            }
            _ if ended.name.is_some() => (CellStatus::Error, ended.value),
            _ => (CellStatus::Ok, ended.value),
        };
        Outcome {
            end: CellEnd {
                status,
                error_name: ended.name,
                error_value: value,
                traceback: ended.traceback,
            },
            // A kernel that is being killed is of no use, even if its cell was faster.
            kernel_died: self.stop.is_some_and(|stop| stop.stage == Stage::Kill),
        }
    }

    pub(super) fn died(&mut self) -> Outcome {
        self.pass_on_written();
        let stopped = || {
            let (first, second) = (INTERRUPT_GRACE.as_secs(), SECOND_INTERRUPT_GRACE.as_secs());
            format!(
                "it was killed because the cell did not end within {} s of being interrupted",
                first + second
            )
        };
        let killed = self.stop.filter(|stop| stop.stage == Stage::Kill);
        let exit = self.kernel.child.exit.status();
        let reason = match (killed.map(|stop| stop.cause), exit) {
            (Some(Cause::Restart), _) => "it was restarted by request".to_owned(),
            (Some(Cause::Timeout(timeout)), _) => {
                format!("{} (timeout of {} ms)", stopped(), timeout.as_millis())
            }
            (Some(Cause::Request | Cause::ClientGone), _) => stopped(),
            (Some(Cause::Broken), _) => match &self.channel_error {
                Some(error) => format!("the cell broke the kernel's control channel: {error}"),
                None => "the cell broke the kernel's control channel".to_owned(),
            },
            (None, Some(status)) => self.kernel.describe_end(status, self.out_of_memory),
            (None, None) => "it cannot be reached".to_owned(),
        };
        Outcome {
            end: kernel_died(&reason),
            kernel_died: true,
        }
    }
}

/// The end of a cell that was interrupted before the driver got it.
pub(super) fn never_begun() -> Ended {
    Ended {
        name: Some("KeyboardInterrupt".to_owned()),
        value: Some(String::new()),
        traceback: Vec::new(),
    }
}

/// The end of a cell whose kernel died, for this reason.
pub(in crate::cell) fn kernel_died(reason: &str) -> CellEnd {
    CellEnd {
        status: CellStatus::KernelDied,
        error_name: Some("KernelDied".to_owned()),
        error_value: Some(format!(
            "the Python kernel died: {reason}; its variables are lost, the next cell starts a new kernel"
        )),
        traceback: Vec::new(),
    }
}
