//! One context: at most one kernel, one cell at a time, the others in order.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use super::{kernel::Kernel, poll_until};
use crate::connection::Connection;

/// How many cells may wait for the one that runs.
pub(super) const WAITING_MAX: usize = 32;

/// How long a cell may wait for others before it.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What others want of a running cell; bits.
pub(super) mod wish {
    /// It is this cell's turn.
    pub(in crate::cell) const BEGIN: u8 = 1;
    /// Interrupt it.
    pub(in crate::cell) const INTERRUPT: u8 = 2;
    /// Kill the kernel.
    pub(in crate::cell) const RESTART: u8 = 4;
}

/// A cell that runs or waits, as others see it.
#[derive(Debug)]
pub(super) struct Turn {
    wishes: AtomicU8,
    event: OwnedFd,
}

/// Readable when there is a wish.
impl AsFd for Turn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Turn {
    fn new() -> io::Result<Arc<Self>> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Arc::new(Self {
            wishes: AtomicU8::new(0),
            event: eventfd(0, flags)?,
        }))
    }

    /// Tells whoever serves this cell.
    pub(super) fn wish(&self, wish: u8) {
        self.wishes.fetch_or(wish, Ordering::AcqRel);
        // The counter is far from its maximum: the write cannot fail.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// What was wished since the last call.
    pub(super) fn take_wishes(&self) -> u8 {
        let mut count = [0; 8];
        // Nothing to read means nothing was wished.
        let _ = rustix::io::read(&self.event, &mut count);
        self.wishes.swap(0, Ordering::AcqRel)
    }
}

/// What a context holds.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The cell that runs, kernel in its hands.
    pub(super) running: Option<Arc<Turn>>,
    waiting: VecDeque<Arc<Turn>>,
    /// The kernel between cells.
    pub(super) kernel: Option<Kernel>,
    /// The kernel died between cells, for this reason, and nobody was told yet.
    pub(super) lost: Option<String>,
    /// When its kernel was started last, milliseconds since the epoch.
    pub(super) started_ms: u64,
    /// The context was ended: who still holds it is not to use it.
    pub(super) is_ended: bool,
}

/// A context; see the module.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its number for the watcher.
    pub(super) id: u64,
    /// Its name.
    pub(super) name: String,
    /// Where its kernels start.
    pub(super) cwd: PathBuf,
    state: Mutex<State>,
}

/// How a cell's waiting ended.
#[derive(Debug)]
pub(super) enum Entered {
    /// It may run.
    Running(Running),
    /// Too many wait already.
    Full,
    /// The others took too long.
    TooLong,
    /// The client closed the stream.
    ClientGone,
}

/// The right to use the context's kernel. Dropped, the next cell gets it.
#[derive(Debug)]
pub(super) struct Running {
    slot: Arc<Slot>,
    pub(super) turn: Arc<Turn>,
}

impl Slot {
    pub(super) fn new(id: u64, name: &str, cwd: &Path) -> Arc<Self> {
        Arc::new(Self {
            id,
            name: name.to_owned(),
            cwd: cwd.to_owned(),
            state: Mutex::default(),
        })
    }

    /// What it holds; never locked over a wait.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked cannot have left it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_unused(&self) -> bool {
        let state = self.state();
        state.running.is_none() && state.kernel.is_none()
    }

    /// Waits for the kernel to be free.
    ///
    /// # Errors
    /// When the system lacks what waiting needs.
    pub(super) fn enter(self: &Arc<Self>, connection: &Connection) -> io::Result<Entered> {
        let turn = Turn::new()?;
        {
            let mut state = self.state();
            if state.running.is_none() {
                state.running = Some(Arc::clone(&turn));
                return Ok(Entered::Running(self.running(turn)));
            }
            if state.waiting.len() >= WAITING_MAX {
                return Ok(Entered::Full);
            }
            state.waiting.push_back(Arc::clone(&turn));
        }
        let waited = wait(&turn, connection);
        let mut state = self.state();
        let waiting = state.waiting.len();
        state.waiting.retain(|other| !Arc::ptr_eq(other, &turn));
        if state.waiting.len() < waiting {
            // Nobody has handed it the kernel.
            return waited.map(|gone| {
                if gone {
                    Entered::ClientGone
                } else {
                    Entered::TooLong
                }
            });
        }
        drop(state);
        // The client may have gone at the same time: the cell will notice.
        turn.take_wishes();
        Ok(Entered::Running(self.running(turn)))
    }

    fn running(self: &Arc<Self>, turn: Arc<Turn>) -> Running {
        Running {
            slot: Arc::clone(self),
            turn,
        }
    }
}

/// Until it is its turn, or the client has gone (`true`), or too much time has passed.
fn wait(turn: &Turn, connection: &Connection) -> io::Result<bool> {
    let mut sources = [
        PollFd::new(turn, PollFlags::IN),
        PollFd::new(connection, PollFlags::RDHUP),
    ];
    poll_until(&mut sources, Some(Instant::now() + WAIT_MAX))?;
    Ok(!sources[1].revents().is_empty())
}

impl Running {
    /// What the context holds.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.slot.state()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.slot.state();
        let next = state.waiting.pop_front();
        if let Some(turn) = &next {
            turn.wish(wish::BEGIN);
        }
        state.running = next;
    }
}
