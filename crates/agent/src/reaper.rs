//! Reaping: every process of the sandbox that loses its parent becomes a child
//! of the agent, beside those it started itself.
//!
//! One thread waits for ended children. It looks first and reaps under the lock,
//! so that a number cannot be given to another process while somebody may still
//! signal it. A process that ended while a spawn was under way may be the one
//! being spawned, whose number is not known yet: then the thread waits until
//! the spawn is registered.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_protocol::Exit;
use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Pid, Signal},
};
use sys::process::Ended;

/// How long an ended stranger is looked at while a spawn is under way, before
/// others are looked after and it is looked at again.
const DOUBT_MAX: Duration = Duration::from_millis(100);

/// Stack of the reaping thread, which calls nothing deep.
const STACK_BYTES: usize = 64 << 10;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExitStatus {
    /// The exit code; 128 plus the signal when a signal ended it.
    pub(crate) code: i32,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
}

impl From<Ended> for ExitStatus {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Exited(code) => Self { code, signal: None },
            Ended::Signalled(signal) => Self {
                code: 128 + signal,
                signal: Some(signal),
            },
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self {
            code: status.code,
            signal: status.signal,
            ..Self::default()
        }
    }
}

/// The end of one program, to be waited for by any number of threads.
#[derive(Debug)]
pub(crate) struct ExitWaiter {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
    event: OwnedFd,
}

impl ExitWaiter {
    /// Of something that runs.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            status: Mutex::new(None),
            changed: Condvar::new(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// It has ended.
    pub(crate) fn set(&self, status: ExitStatus) {
        *lock(&self.status) = Some(status);
        self.changed.notify_all();
        // The counter is far from its maximum: the write cannot fail.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// How it ended, if it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        *lock(&self.status)
    }

    /// Waits until it has ended, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        let mut status = lock(&self.status);
        while status.is_none() {
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(status, left);
            status = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *status
    }
}

/// Readable for ever from when it has ended, for `poll`.
impl AsFd for ExitWaiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// All children of the agent.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    children: Mutex<Children>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Children {
    waiters: HashMap<Pid, Arc<ExitWaiter>>,
    /// Spawns under way by ticket; at most a few.
    spawning: Vec<u64>,
    tickets: u64,
}

impl Children {
    /// Reaps a child if it has ended, and tells who waits for it.
    fn reap(&mut self, pid: Pid) {
        if let Ok(Some(ended)) = sys::process::try_reap(pid)
            && let Some(waiter) = self.waiters.remove(&pid)
        {
            waiter.set(ended.into());
        }
    }
}

/// A spawn under way. Dropped without [`Spawning::register`], it was in vain.
#[derive(Debug)]
pub(crate) struct Spawning<'a> {
    reaper: &'a Reaper,
    ticket: u64,
}

impl Spawning<'_> {
    /// The spawn was successful: whoever waits is told when this child ends.
    pub(crate) fn register(self, pid: Pid) -> io::Result<Arc<ExitWaiter>> {
        let waiter = Arc::new(ExitWaiter::new()?);
        let registered = Arc::clone(&waiter);
        lock(&self.reaper.children).waiters.insert(pid, registered);
        Ok(waiter)
    }
}

impl Drop for Spawning<'_> {
    fn drop(&mut self) {
        let mut children = lock(&self.reaper.children);
        children.spawning.retain(|ticket| *ticket != self.ticket);
        drop(children);
        self.reaper.changed.notify_all();
    }
}

impl Reaper {
    /// A reaper with its thread running.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self::default());
        let for_thread = Arc::clone(&reaper);
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                loop {
                    for_thread.reap_next();
                }
            })?;
        Ok(reaper)
    }

    /// To be called before a process is made that will be registered.
    pub(crate) fn begin(&self) -> Spawning<'_> {
        let mut children = lock(&self.children);
        children.tickets += 1;
        let ticket = children.tickets;
        children.spawning.push(ticket);
        Spawning {
            reaper: self,
            ticket,
        }
    }

    /// Sends a signal to the process group of a registered child; `false` when it has ended.
    pub(crate) fn kill_group(&self, pid: Pid, signal: Signal) -> bool {
        // Under the lock it is not reaped, so the number is still its own.
        let children = lock(&self.children);
        children.waiters.contains_key(&pid)
            && rustix::process::kill_process_group(pid, signal).is_ok()
    }

    fn reap_next(&self) {
        let Ok(pid) = sys::process::wait_ended() else {
            return self.wait_for_children();
        };
        let (mut children, is_known) = self.lock_when_known(pid);
        if is_known {
            children.reap(pid);
        } else {
            // Others need not wait for this one.
            let registered: Vec<Pid> = children.waiters.keys().copied().collect();
            for pid in registered {
                children.reap(pid);
            }
        }
    }

    /// The lock, and whether it is certain by now who waits for `pid`.
    fn lock_when_known(&self, pid: Pid) -> (MutexGuard<'_, Children>, bool) {
        let mut children = lock(&self.children);
        let newest = children.tickets;
        let deadline = Instant::now() + DOUBT_MAX;
        while !children.waiters.contains_key(&pid)
            && children.spawning.iter().any(|ticket| *ticket <= newest)
        {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return (children, false);
            };
            let waited = self.changed.wait_timeout(children, left);
            children = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (children, true)
    }

    /// There are no children: nothing can end before the next spawn.
    fn wait_for_children(&self) {
        let children = lock(&self.children);
        let tickets = children.tickets;
        // Without a deadline, because nothing else could wake it sensibly; a
        // spawn always does, when it ends.
        let _unused = self
            .changed
            .wait_while(children, |children| {
                children.tickets == tickets && children.waiters.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Locks; a thread that panicked cannot have left these maps half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
