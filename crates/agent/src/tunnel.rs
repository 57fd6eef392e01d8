//! Connections to TCP ports of the sandbox, handed through to the server.
//!
//! A browser with a remote desktop easily holds a hundred of them, most of them
//! quiet, so they have no threads of their own: one thread serves all, woken by
//! the kernel when something can move. Of each direction at most one piece is
//! held; until it is taken, nothing more is read.
//!
//! ```text
//! server ══unix socket══ client ──up──► service ══TCP══ program in the sandbox
//!                               ◄─down─
//! ```

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use agent_protocol::Failure;
use rustix::{
    buffer::spare_capacity,
    event::{
        EventfdFlags, Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
        eventfd,
    },
    io::Errno,
    net::sockopt::set_socket_send_buffer_size,
};

use self::flow::{Flow, Moved};
use crate::failure::limit_reached;

mod connect;
mod flow;

pub(crate) use connect::connect;

/// Most connections at once. With the sockets' buffers ([`connect()`]) and what
/// is held of each they fit into the memory that the agent has to itself.
const TUNNELS_MAX: usize = 256;

/// How long what the server sent before it closed the connection may take to
/// be read by the program.
const LINGER_MAX: Duration = Duration::from_secs(30);

/// Stack of the thread, which calls nothing deep.
const STACK_BYTES: usize = 64 << 10;

/// Events taken at once.
const EVENTS_MAX: usize = 64;

/// The token of what tells the thread about new connections; others count from 0.
const WAKE: u64 = u64::MAX;

/// See the module. Its thread runs only while there are connections.
#[derive(Debug)]
pub(crate) struct Tunnels {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: OwnedFd,
    seats: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    added: Vec<Tunnel>,
    is_running: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one connection.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.seats.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection through the agent.
#[derive(Debug)]
struct Tunnel {
    _seat: Seat,
    client: OwnedFd,
    service: OwnedFd,
    up: Flow,
    down: Flow,
    /// When to give up on what the server left behind; set once it has closed.
    linger: Option<Instant>,
}

impl Tunnels {
    /// No connections yet.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                seats: AtomicUsize::new(0),
            }),
        })
    }

    /// A place for one more connection.
    ///
    /// # Errors
    /// When there are too many.
    pub(crate) fn seat(&self) -> Result<Seat, Failure> {
        let taken = self.shared.seats.fetch_add(1, Ordering::Relaxed);
        // Dropped, it gives the place back.
        let seat = Seat(Arc::clone(&self.shared));
        if taken < TUNNELS_MAX {
            return Ok(seat);
        }
        Err(limit_reached(format!(
            "{TUNNELS_MAX} connections to ports of this sandbox are open; close some"
        )))
    }

    /// Hands bytes through between these two from now on, until both sides
    /// have closed. Without the means for it both are closed.
    pub(crate) fn add(&self, seat: Seat, client: OwnedFd, service: OwnedFd) {
        // What waits for a slow reader counts in the agent's memory too.
        let _ = set_socket_send_buffer_size(&client, connect::SOCKET_BYTES);
        let tunnel = Tunnel {
            _seat: seat,
            client,
            service,
            up: Flow::default(),
            down: Flow::default(),
            linger: None,
        };
        let mut state = self.shared.lock();
        state.added.push(tunnel);
        if state.is_running {
            let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("tunnels".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || Pump::run(&shared));
        state.is_running = thread.is_ok();
        if thread.is_err() {
            state.added.clear();
        }
    }
}

/// The thread.
struct Pump<'a> {
    shared: &'a Shared,
    epoll: OwnedFd,
    tunnels: HashMap<u64, Tunnel>,
    last_token: u64,
    /// Those that may have something to move.
    ready: HashSet<u64>,
    buffer: Vec<u8>,
}

impl Pump<'_> {
    /// Serves until there is no connection.
    fn run(shared: &Shared) {
        let started = epoll::create(CreateFlags::CLOEXEC).and_then(|epoll| {
            let (data, flags) = (EventData::new_u64(WAKE), EventFlags::IN);
            epoll::add(&epoll, &shared.wake, data, flags)?;
            Ok(epoll)
        });
        let Ok(epoll) = started else {
            let mut state = shared.lock();
            state.added.clear();
            state.is_running = false;
            return;
        };
        let mut pump = Pump {
            shared,
            epoll,
            tunnels: HashMap::new(),
            last_token: 0,
            ready: HashSet::new(),
            buffer: vec![0; flow::PIECE_BYTES],
        };
        while pump.admit() {
            pump.wait();
            pump.move_all();
        }
    }

    /// Takes in new connections; whether there are any at all.
    fn admit(&mut self) -> bool {
        let mut state = self.shared.lock();
        for tunnel in state.added.drain(..) {
            self.last_token += 1;
            let data = EventData::new_u64(self.last_token);
            // Told once for every change: what can move is moved until it cannot.
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            let added = epoll::add(&self.epoll, &tunnel.client, data, flags)
                .and_then(|()| epoll::add(&self.epoll, &tunnel.service, data, flags));
            if added.is_ok() {
                self.tunnels.insert(self.last_token, tunnel);
                self.ready.insert(self.last_token);
            }
        }
        state.is_running = !self.tunnels.is_empty();
        state.is_running
    }

    /// Waits until something may move or is overdue.
    fn wait(&mut self) {
        let timeout = match self.ready.is_empty() {
            false => Some(Duration::ZERO),
            true => {
                let deadlines = self.tunnels.values().filter_map(|tunnel| tunnel.linger);
                let first = deadlines.min();
                first.map(|deadline| deadline.saturating_duration_since(Instant::now()))
            }
        };
        // Without a deadline when nobody lingers: connections may be quiet for days.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
        for event in &events {
            match event.data.u64() {
                WAKE => {
                    let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
                }
                token => {
                    self.ready.insert(token);
                }
            }
        }
        let now = Instant::now();
        let is_overdue = |tunnel: &Tunnel| tunnel.linger.is_some_and(|deadline| deadline <= now);
        self.tunnels.retain(|_, tunnel| !is_overdue(tunnel));
    }

    fn move_all(&mut self) {
        for token in std::mem::take(&mut self.ready) {
            let Some(tunnel) = self.tunnels.get_mut(&token) else {
                continue;
            };
            match tunnel.pump(&mut self.buffer) {
                Ok(Moved::All) if tunnel.is_over() => drop(self.tunnels.remove(&token)),
                Ok(Moved::All) => {}
                Ok(Moved::Some) => drop(self.ready.insert(token)),
                Err(_) => drop(self.tunnels.remove(&token)),
            }
        }
    }
}

impl Tunnel {
    /// Moves what can be moved, within bounds.
    ///
    /// # Errors
    /// When one side is lost.
    fn pump(&mut self, buffer: &mut [u8]) -> Result<Moved, Errno> {
        let up = match self.up.pump(&self.client, &self.service, buffer) {
            // The program reads no more; what it says may still tell why.
            Err(flow::Lost::Writer) => {
                self.up.abandon();
                Moved::All
            }
            Err(flow::Lost::Reader(error)) => return Err(error),
            Ok(moved) => moved,
        };
        let down = match self.down.pump(&self.service, &self.client, buffer) {
            Err(flow::Lost::Writer) => return Err(Errno::PIPE),
            Err(flow::Lost::Reader(error)) => return Err(error),
            Ok(moved) => moved,
        };
        if self.linger.is_none() && flow::is_gone(&self.client) {
            self.linger = Some(Instant::now() + LINGER_MAX);
        }
        Ok(if (up, down) == (Moved::All, Moved::All) {
            Moved::All
        } else {
            Moved::Some
        })
    }

    fn is_over(&self) -> bool {
        // Nobody takes what the program says to a server that has gone.
        self.up.is_over() && (self.down.is_over() || self.linger.is_some())
    }
}
