//! Contexts that are started, listed and ended by request.

use std::sync::Arc;

use agent_protocol::{Failure, KernelInfo, Reply};

use super::{
    Kernels, ended_meanwhile,
    kernel::Kernel,
    no_context,
    turn::{Entered, Slot, wish},
    validate_name,
};
use crate::{
    connection::Connection,
    failure::{Stop, limit_reached},
};

impl Kernels {
    /// Starts the kernel of a new context.
    ///
    /// # Errors
    /// When the context exists, or its kernel does not start.
    pub(crate) fn start(
        &self,
        context: &str,
        cwd: Option<&str>,
        connection: &mut Connection,
    ) -> Result<(), Stop> {
        validate_name(context)?;
        let cwd = self.context.absolute(cwd.unwrap_or_default());
        let slot = self.slots.add(context, &cwd)?;
        let started = self.start_in(&slot, connection);
        if started.is_err() {
            self.slots.remove(&slot);
        }
        started
    }

    fn start_in(&self, slot: &Arc<Slot>, connection: &mut Connection) -> Result<(), Stop> {
        let entered = slot.enter(connection).map_err(|error| {
            limit_reached(format!("the kernel cannot be started: {error}; try again"))
        })?;
        let Entered::Running(running) = entered else {
            // Cells were faster: they start the kernel.
            return Ok(());
        };
        if running.state().kernel.is_some() {
            return Ok(());
        }
        let mut kernel = self.start_kernel(slot, &running)?;
        let watcher = self.watcher().map_err(|error| {
            limit_reached(format!(
                "the agent cannot watch a Python kernel: {error}; try again"
            ))
        })?;
        let mut state = running.state();
        if state.is_ended {
            return Err(ended_meanwhile(&slot.name).into());
        }
        // Should it fail, output between cells stays in the pipes.
        let _ = watcher.begin(slot.id, &mut kernel);
        state.kernel = Some(kernel);
        Ok(())
    }

    /// Ends the kernel of a context and forgets the context.
    ///
    /// # Errors
    /// When the context does not exist.
    pub(crate) fn end(&self, context: &str) -> Result<(), Failure> {
        let Some(slot) = self.slots.by_name(context) else {
            return Err(no_context(context));
        };
        self.slots.remove(&slot);
        let mut state = slot.state();
        state.is_ended = true;
        match &state.running {
            Some(turn) => turn.wish(wish::RESTART),
            None => (state.kernel, state.lost) = (None, None),
        }
        Ok(())
    }

    /// All contexts that have or had a kernel.
    pub(crate) fn list(&self) -> Reply {
        let slots = self.slots.all().clone();
        let kernels = slots.iter().filter_map(|slot| {
            let state = slot.state();
            let kernel = state.kernel.as_ref();
            let lives = |kernel: &Kernel| kernel.child.exit.status().is_none();
            let is_known = state.running.is_some() || kernel.is_some() || state.lost.is_some();
            is_known.then(|| KernelInfo {
                context: slot.name.clone(),
                cwd: slot.cwd.display().to_string(),
                started_ms: state.started_ms,
                alive: state.running.is_some() || kernel.is_some_and(lives),
            })
        });
        Reply::Kernels {
            kernels: kernels.collect(),
        }
    }
}
