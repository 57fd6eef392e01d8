//! The thread that watches all sessions.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_protocol::Failure;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use super::{Session, Shell};
use crate::{exec::poll_until, failure::limit_reached, spawn::Child};

/// Stack of the thread. It starts shells.
const STACK_BYTES: usize = 128 << 10;

/// See the module. Its thread runs only while there are sessions.
#[derive(Debug)]
pub(super) struct Watcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    sessions: Vec<Arc<Session>>,
    is_running: bool,
}

/// What is waited for in one session; kept alive here, because the session
/// may let go of it.
struct Awaited {
    session: Arc<Session>,
    status: Option<Arc<OwnedFd>>,
    children: Vec<Arc<Child>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = Mutex::default();
        Ok(Self {
            shared: Arc::new(Shared { state, wake }),
        })
    }

    /// Watches a session from now on.
    pub(super) fn watch(&self, session: &Arc<Session>) -> Result<(), Failure> {
        let mut state = self.shared.lock();
        state.sessions.push(Arc::clone(session));
        if !state.is_running {
            let shared = Arc::clone(&self.shared);
            std::thread::Builder::new()
                .name("sessions".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || while wait(&shared) {})
                .map_err(|error| {
                    limit_reached(format!("the session cannot be watched: {error}; try again"))
                })?;
            state.is_running = true;
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// Watches it no longer.
    pub(super) fn forget(&self, session: &Arc<Session>) {
        let mut state = self.shared.lock();
        state.sessions.retain(|other| !Arc::ptr_eq(other, session));
        drop(state);
        self.wake();
    }

    /// Something else is to be waited for.
    pub(super) fn wake(&self) {
        // The counter is far from its maximum: the write cannot fail.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }
}

/// Waits until something happens in a session, and lets it look; `false` when
/// there are no sessions any more.
fn wait(shared: &Shared) -> bool {
    let sessions = {
        let mut state = shared.lock();
        state.is_running = !state.sessions.is_empty();
        if !state.is_running {
            return false;
        }
        state.sessions.clone()
    };
    let awaited: Vec<Awaited> = sessions.into_iter().map(awaited).collect();
    let mut polled = vec![PollFd::new(&shared.wake, PollFlags::IN)];
    let mut owners = vec![None];
    for (index, awaited) in awaited.iter().enumerate() {
        if let Some(status) = &awaited.status {
            polled.push(PollFd::new(&**status, PollFlags::IN));
        }
        let exits = awaited.children.iter().map(|child| child.exit.as_fd());
        polled.extend(exits.map(|exit| PollFd::from_borrowed_fd(exit, PollFlags::IN)));
        owners.resize(polled.len(), Some(index));
    }
    // Without a deadline: it ends when something comes, ends or is changed.
    if poll_until(&mut polled, None).is_err() {
        return true;
    }
    let mut ready = vec![false; awaited.len()];
    for (polled, owner) in polled.iter().zip(owners) {
        if let Some(owner) = owner {
            ready[owner] |= !polled.revents().is_empty();
        }
    }
    let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
    for (awaited, is_ready) in awaited.iter().zip(ready) {
        if is_ready {
            awaited.session.look();
        }
    }
    true
}

fn awaited(session: Arc<Session>) -> Awaited {
    let state = session.lock();
    let status = state.shell.as_ref().map(|shell| Arc::clone(shell.status()));
    let current = state.shell.as_ref().map(Shell::child);
    let replaced = state.replaced.iter().map(|replaced| &replaced.child);
    let children = current.into_iter().chain(replaced).cloned().collect();
    drop(state);
    Awaited {
        session,
        status,
        children,
    }
}
