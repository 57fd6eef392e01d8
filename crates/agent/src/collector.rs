//! Reads pipes that no request waits for, all in one thread: the output of
//! background processes, and pipes that a command left open in others' hands.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd},
    io::Errno,
};

use crate::{
    exec::{PIECE_BYTES, poll_until},
    process::Process,
};

/// Stack of the thread, which calls nothing deep.
const STACK_BYTES: usize = 64 << 10;

/// Most pipes read only to throw away what comes. Pipes beyond are closed, and
/// who still writes to them gets a `SIGPIPE`.
const DISCARDED_MAX: usize = 128;

/// Something to read from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A pipe whose content nobody wants, read so that nobody blocks on it. It does not block.
    Discarded(Arc<OwnedFd>),
    /// A background process.
    Process(Arc<Process>),
}

/// See the module. Its thread runs only while there is something to read.
#[derive(Debug)]
pub(crate) struct Collector {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells the thread that something was added.
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    added: Vec<Source>,
    discarded: usize,
    is_running: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector {
    /// A collector with nothing to read.
    pub(crate) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = Mutex::default();
        let shared = Arc::new(Shared { state, wake });
        Ok(Self { shared })
    }

    /// Reads from this source until its end. Without the means for it the
    /// source is dropped, and its output with it.
    pub(crate) fn add(&self, source: Source) {
        let mut state = self.shared.lock();
        if matches!(source, Source::Discarded(_)) {
            if state.discarded >= DISCARDED_MAX {
                return;
            }
            state.discarded += 1;
        }
        state.added.push(source);
        if state.is_running {
            let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("collector".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || collect(&shared));
        state.is_running = thread.is_ok();
    }
}

/// The thread: until nothing is left to read.
fn collect(shared: &Shared) {
    let mut sources = Vec::new();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        {
            let mut state = shared.lock();
            sources.append(&mut state.added);
            if sources.is_empty() {
                state.is_running = false;
                return;
            }
        }
        let is_ready = wait(shared, &sources);
        let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
        let mut ready = is_ready.into_iter();
        let mut discarded_ended = 0;
        sources.retain_mut(|source| {
            if !ready.next().unwrap_or(false) {
                return true;
            }
            match source {
                Source::Process(process) => !process.collect(),
                Source::Discarded(pipe) => {
                    let is_open = !is_at_end(pipe, &mut buffer);
                    discarded_ended += usize::from(!is_open);
                    is_open
                }
            }
        });
        shared.lock().discarded -= discarded_ended;
    }
}

/// Waits until a source is ready or added; which ones are ready.
fn wait(shared: &Shared, sources: &[Source]) -> Vec<bool> {
    // Kept alive here, because the processes may let go of their pipes.
    let pipes: Vec<Vec<Arc<OwnedFd>>> = sources
        .iter()
        .map(|source| match source {
            Source::Process(process) => process.open_pipes(),
            Source::Discarded(_) => Vec::new(),
        })
        .collect();
    let mut polled = vec![PollFd::new(&shared.wake, PollFlags::IN)];
    let mut owners = vec![None];
    for (index, (source, pipes)) in sources.iter().zip(&pipes).enumerate() {
        match source {
            Source::Discarded(pipe) => polled.push(PollFd::new(&**pipe, PollFlags::IN)),
            Source::Process(process) => {
                polled.extend(pipes.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
                if let Some(exit) = process.awaited_exit() {
                    polled.push(PollFd::from_borrowed_fd(exit, PollFlags::IN));
                }
            }
        }
        owners.resize(polled.len(), Some(index));
    }
    let mut ready = vec![false; sources.len()];
    // Without a deadline: it ends when something comes, ends or is added.
    if poll_until(&mut polled, None).is_err() {
        return ready;
    }
    for (polled, owner) in polled.iter().zip(owners) {
        if let Some(owner) = owner {
            ready[owner] |= !polled.revents().is_empty();
        }
    }
    ready
}

/// Throws away a piece; whether there will be no more.
fn is_at_end(pipe: &OwnedFd, buffer: &mut [u8]) -> bool {
    match rustix::io::read(pipe, buffer) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error, Errno::AGAIN | Errno::INTR),
    }
}
