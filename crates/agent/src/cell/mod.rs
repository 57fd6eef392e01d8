//! Python cells: kernels with kept state, started on first use.
//!
//! Each context has a kernel process of its own in the workload's cgroup. In it
//! runs `driver.py`, which is carried in this program and needs only `python3`
//! and IPython from the image. One cell runs at a time in a context, others wait
//! in order.
//!
//! ```text
//!  connection ─► Kernels ─► Slot (context) ─► Execution ─► Kernel
//!                            turns in order    one cell     process, channel, pipes
//!                                 ▲
//!                                 └── Watcher: kernels between cells
//! ```
//!
//! What users can rely on:
//! * Output is what a plain IPython shell prints, in exact order and as it
//!   comes; `display` and results print their text and are also sent as MIME
//!   bundles, figures at the end of the cell. A last expression that ends with
//!   a semicolon prints nothing.
//! * What threads and background commands print between cells comes first in
//!   the next cell, the last 64 KiB of each stream.
//! * An interrupt (timeout, request, closed stream) goes to the kernel's whole
//!   process group, so it also ends commands the cell waits for. Programs that
//!   are to outlive it need a session of their own (`setsid`) or `&`.
//! * Top-level `await` uses one event loop, which runs only while a cell awaits.
//! * A cell that forks ends in the child without a word to the client.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_protocol::{Cell, CellEnd, Failure, FailureKind, Reply};
use rustix::{
    event::{PollFd, Timespec, poll},
    io::Errno,
};

use self::{
    client::Client,
    execution::{Execution, kernel_died},
    idle::Watcher,
    kernel::Kernel,
    turn::{Entered, Running, Slot, WAITING_MAX, wish},
};
use crate::{
    connection::Connection,
    context::Context,
    failure::{failure, invalid, limit_reached},
    process::now_ms,
};

mod channel;
mod client;
mod contexts;
mod execution;
mod idle;
mod kernel;
mod turn;

/// Most contexts with a kernel.
const CONTEXTS_MAX: usize = 16;

/// Longest name of a context, in bytes.
const CONTEXT_NAME_BYTES_MAX: usize = 64;

/// The context of cells that name none.
const DEFAULT_CONTEXT: &str = "default";

/// Longest code of a cell.
const CODE_BYTES_MAX: usize = 4 << 20;

/// All contexts of the sandbox.
#[derive(Debug)]
pub(crate) struct Kernels {
    context: Arc<Context>,
    slots: Arc<Slots>,
    watcher: Mutex<Option<Arc<Watcher>>>,
}

/// The contexts by name.
#[derive(Debug, Default)]
struct Slots(Mutex<Vec<Arc<Slot>>>);

impl Slots {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_id(&self, id: u64) -> Option<Arc<Slot>> {
        self.all().iter().find(|slot| slot.id == id).cloned()
    }

    fn by_name(&self, name: &str) -> Option<Arc<Slot>> {
        self.all().iter().find(|slot| slot.name == name).cloned()
    }

    /// The context of this name, a new one in this directory if need be.
    fn get_or_add(&self, name: &str, cwd: &Path) -> Result<Arc<Slot>, Failure> {
        let mut slots = self.all();
        if let Some(slot) = slots.iter().find(|slot| slot.name == name) {
            return Ok(Arc::clone(slot));
        }
        add(&mut slots, name, cwd)
    }

    /// A new context.
    fn add(&self, name: &str, cwd: &Path) -> Result<Arc<Slot>, Failure> {
        let mut slots = self.all();
        if slots.iter().any(|slot| slot.name == name) {
            return Err(failure(
                FailureKind::AlreadyExists,
                format!("context {name:?} exists already; end it or use it"),
            ));
        }
        add(&mut slots, name, cwd)
    }

    fn remove(&self, slot: &Arc<Slot>) {
        self.all().retain(|other| !Arc::ptr_eq(other, slot));
    }
}

fn add(slots: &mut Vec<Arc<Slot>>, name: &str, cwd: &Path) -> Result<Arc<Slot>, Failure> {
    if slots.len() >= CONTEXTS_MAX {
        // Somebody else who holds one is about to use it.
        slots.retain(|slot| Arc::strong_count(slot) > 1 || !slot.is_unused());
    }
    if slots.len() >= CONTEXTS_MAX {
        return Err(limit_reached(format!(
            "there are {CONTEXTS_MAX} contexts with a kernel already; restart one that is not needed any more, or use one of them"
        )));
    }
    let id = slots.last().map_or(0, |slot| slot.id + 1);
    let slot = Slot::new(id, name, cwd);
    slots.push(Arc::clone(&slot));
    Ok(slot)
}

impl Kernels {
    /// No kernel yet: the first cell starts one.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            slots: Arc::default(),
            watcher: Mutex::new(None),
        }
    }

    /// Runs a cell and sends everything about it, the last reply included.
    ///
    /// # Errors
    /// When the connection cannot be used any more.
    pub(crate) fn run(&self, cell: &Cell, connection: &mut Connection) -> io::Result<()> {
        let entered = validate(cell).and_then(|()| {
            let slot = self
                .slots
                .get_or_add(&cell.context, &self.context.workdir)?;
            let entered = slot.enter(connection).map_err(|error| {
                limit_reached(format!(
                    "the cell cannot wait for its turn: {error}; try again"
                ))
            })?;
            Ok((slot, entered))
        });
        let failed = match entered {
            Ok((slot, Entered::Running(running))) => {
                return self.run_now(&slot, running, cell, connection);
            }
            Ok((_, Entered::ClientGone)) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Ok((slot, Entered::Full)) => limit_reached(format!(
                "{WAITING_MAX} cells wait in context {} already; wait for them, interrupt the running one, or use another context",
                slot.name
            )),
            Ok((slot, Entered::TooLong)) => failure(
                FailureKind::Timeout,
                format!(
                    "the cells before this one in context {} took too long; interrupt them",
                    slot.name
                ),
            ),
            Err(failure) => failure,
        };
        connection.send_message(&Reply::Failed(failed))
    }

    /// Interrupts the running cell of a context, if there is one.
    ///
    /// # Errors
    /// When the context does not exist.
    pub(crate) fn interrupt(&self, context: &str) -> Result<(), Failure> {
        if let Some(slot) = self.find(context)?
            && let Some(turn) = &slot.state().running
        {
            turn.wish(wish::INTERRUPT);
        }
        Ok(())
    }

    /// Ends the kernel of a context, with the cell it runs.
    ///
    /// # Errors
    /// When the context does not exist.
    pub(crate) fn restart(&self, context: &str) -> Result<(), Failure> {
        if let Some(slot) = self.find(context)? {
            let mut state = slot.state();
            match &state.running {
                Some(turn) => turn.wish(wish::RESTART),
                None => (state.kernel, state.lost) = (None, None),
            }
        }
        Ok(())
    }

    /// The context; the default one exists even before its first cell.
    fn find(&self, context: &str) -> Result<Option<Arc<Slot>>, Failure> {
        match self.slots.by_name(context) {
            None if context != DEFAULT_CONTEXT => Err(no_context(context)),
            found => Ok(found),
        }
    }

    fn run_now(
        &self,
        slot: &Slot,
        running: Running,
        cell: &Cell,
        connection: &mut Connection,
    ) -> io::Result<()> {
        let mut client = Client::new(connection);
        let (kernel, lost, is_ended) = {
            let mut state = running.state();
            (state.kernel.take(), state.lost.take(), state.is_ended)
        };
        let reply = match (lost, kernel) {
            _ if is_ended => Reply::Failed(ended_meanwhile(&slot.name)),
            (Some(reason), _) => Reply::CellEnded(lost_before(&reason)),
            (None, Some(kernel)) => self.execute(slot, &running, kernel, cell, &mut client),
            (None, None) => match self.start_kernel(slot, &running) {
                Ok(kernel) => self.execute(slot, &running, kernel, cell, &mut client),
                Err(failure) => Reply::Failed(failure),
            },
        };
        // The next cell need not wait until this client has read everything.
        drop(running);
        client.finish(&reply)
    }

    fn start_kernel(&self, slot: &Slot, running: &Running) -> Result<Kernel, Failure> {
        let kernel = Kernel::start(&self.context, &slot.cwd, &running.turn)?;
        running.state().started_ms = now_ms();
        Ok(kernel)
    }

    fn execute(
        &self,
        slot: &Slot,
        running: &Running,
        mut kernel: Kernel,
        cell: &Cell,
        client: &mut Client<'_>,
    ) -> Reply {
        let watcher = match self.watcher() {
            Ok(watcher) => watcher,
            Err(error) => {
                return Reply::Failed(limit_reached(format!(
                    "the agent cannot watch a Python kernel: {error}; try again"
                )));
            }
        };
        // Should it fail, the watcher wakes in vain.
        let _ = watcher.end(slot.id, &kernel);
        let oom = &self.context.out_of_memory;
        let outcome = Execution::new(&mut kernel, client, &running.turn, oom, cell).run();
        if !outcome.kernel_died && !running.state().is_ended {
            // Both under the lock, or the watcher might look in vain, and only once.
            let mut state = running.state();
            // Should it fail, output between cells stays in the pipes.
            let _ = watcher.begin(slot.id, &mut kernel);
            state.kernel = Some(kernel);
        }
        Reply::CellEnded(outcome.end)
    }

    fn watcher(&self) -> io::Result<Arc<Watcher>> {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = &*watcher {
            return Ok(Arc::clone(watcher));
        }
        let context = Arc::clone(&self.context);
        let look_after =
            Box::new(move |kernel: &mut Kernel| kernel.look_after(&context.out_of_memory));
        Ok(Arc::clone(
            watcher.insert(Watcher::start(&self.slots, look_after)?),
        ))
    }
}

/// The end of a cell that was not begun, because variables it may need are gone.
fn lost_before(reason: &str) -> CellEnd {
    let mut end = kernel_died(&format!("between cells, {reason}"));
    if let Some(value) = &mut end.error_value {
        value.push_str("; this cell was not run");
    }
    end
}

fn no_context(context: &str) -> Failure {
    failure(
        FailureKind::NotFound,
        format!("there is no context {context:?}; a context begins with its first cell"),
    )
}

fn ended_meanwhile(context: &str) -> Failure {
    failure(
        FailureKind::NotFound,
        format!("context {context:?} was ended meanwhile"),
    )
}

fn validate_name(name: &str) -> Result<(), Failure> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > CONTEXT_NAME_BYTES_MAX || !name.bytes().all(is_plain) {
        return Err(invalid(format!(
            "context {name:?}: a name is 1 to {CONTEXT_NAME_BYTES_MAX} letters, digits, dots, dashes or underscores"
        )));
    }
    Ok(())
}

fn validate(cell: &Cell) -> Result<(), Failure> {
    validate_name(&cell.context)?;
    if cell.code.len() > CODE_BYTES_MAX {
        return Err(invalid(format!(
            "code: {} bytes are over the limit of {CODE_BYTES_MAX}; write it to a file and run that with %run",
            cell.code.len()
        )));
    }
    for (name, value) in &cell.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!(
                "env {name:?}: a name must not be empty or contain `=`, and neither name nor value a NUL"
            )));
        }
    }
    Ok(())
}

/// Waits until one of the sources is ready or `deadline` has come.
fn poll_until(sources: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            timespec(left)
        });
        match poll(sources, left.as_ref()) {
            Err(Errno::INTR) => {}
            result => return Ok(result.map(|_| ())?),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests;
