//! Connections and the threads that serve them.
//!
//! Idle connections wait in one epoll set and cost no thread. The threads wait
//! there too; one that gets an event serves it to the end. So that somebody is
//! always waiting, a thread that is about to be busy starts another one if it
//! was the last. At rest there are one or two threads.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_protocol::{Reply, frame::encode_message};
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
    net::{SendFlags, SocketFlags, accept_with, send},
};

use crate::{
    connection::{Connection, Received},
    failure::limit_reached,
    request::{Agent, Served, Standby},
};

/// Most connections at once.
const CONNECTIONS_MAX: usize = 256;

/// Most requests that run at once; each has a thread.
const BUSY_MAX: usize = 48;

/// Threads beyond these end when they have nothing to do.
const IDLE_MAX: usize = 2;

/// Stack of a serving thread. Only what is touched costs memory.
const STACK_BYTES: usize = 256 << 10;

/// The token of the listening socket; connections count from 1.
const LISTENER: u64 = 0;

/// See the module.
#[derive(Debug)]
pub(crate) struct Dispatch {
    agent: Agent,
    epoll: OwnedFd,
    listener: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that wait for their next request.
    idle_connections: HashMap<u64, Connection>,
    connections: usize,
    last_token: u64,
    idle_threads: usize,
    busy_threads: usize,
    /// Accepting failed for lack of descriptors; to be resumed when one is free.
    is_accepting_paused: bool,
}

impl Dispatch {
    /// Serves connections from a listening socket until the process ends.
    ///
    /// # Errors
    /// When the socket or the epoll set cannot be used.
    pub(crate) fn run(agent: Agent, listener: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let once = EventFlags::IN | EventFlags::ONESHOT;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), once)?;
        let dispatch = Arc::new(Self {
            agent,
            epoll,
            listener,
            state: Mutex::new(State {
                idle_threads: 1,
                ..State::default()
            }),
        });
        loop {
            dispatch.serve_next()?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread beside the first one: until there are enough others idle.
    fn work(self: &Arc<Self>) {
        loop {
            if self.serve_next().is_err() || self.lock().idle_threads > IDLE_MAX {
                self.lock().idle_threads -= 1;
                return;
            }
        }
    }

    /// Waits for one event and serves it.
    fn serve_next(self: &Arc<Self>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); 1];
        let events = match epoll::wait(&self.epoll, &mut space, None) {
            Err(Errno::INTR) => return Ok(()),
            result => result?.0,
        };
        let Some(event) = events.first() else {
            return Ok(());
        };
        match event.data.u64() {
            LISTENER => self.accept(),
            token => {
                let connection = self.lock().idle_connections.remove(&token);
                if let Some(connection) = connection {
                    self.serve(token, connection);
                }
                Ok(())
            }
        }
    }

    /// Accepts what waits.
    fn accept(&self) -> io::Result<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => self.add(socket),
                Err(Errno::AGAIN) => return self.listen(),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    self.lock().is_accepting_paused = true;
                    return Ok(());
                }
            }
        }
    }

    fn listen(&self) -> io::Result<()> {
        let once = EventFlags::IN | EventFlags::ONESHOT;
        let data = EventData::new_u64(LISTENER);
        Ok(epoll::modify(&self.epoll, &self.listener, data, once)?)
    }

    fn add(&self, socket: OwnedFd) {
        let mut state = self.lock();
        if state.connections >= CONNECTIONS_MAX {
            drop(state);
            let failure = limit_reached(format!(
                "{CONNECTIONS_MAX} connections to this sandbox are open; close some"
            ));
            if let Ok(bytes) = encode_message(&Reply::Failed(failure)) {
                let _ = send(&socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
            return;
        }
        let Ok(connection) = Connection::new(socket) else {
            return;
        };
        state.last_token += 1;
        let token = state.last_token;
        let once = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        // Added under the lock, so that whoever gets the event finds it.
        if epoll::add(&self.epoll, &connection, EventData::new_u64(token), once).is_ok() {
            state.connections += 1;
            state.idle_connections.insert(token, connection);
        }
    }

    /// Serves what came on a connection, and keeps or closes it.
    fn serve(self: &Arc<Self>, token: u64, mut connection: Connection) {
        let standby = self.become_busy();
        let served = match connection.next_request() {
            Ok(Received::Request(request)) => self.agent.serve(&request, &mut connection, standby),
            Ok(Received::Refused(failure)) => connection
                .send_message(&Reply::Failed(failure))
                .map(|()| Served::Answered),
            Ok(Received::Nothing) => Ok(Served::Answered),
            Ok(Received::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        };
        let mut state = self.lock();
        state.busy_threads -= 1;
        state.idle_threads += 1;
        let once = EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT;
        if matches!(served, Ok(Served::Answered))
            && epoll::modify(&self.epoll, &connection, EventData::new_u64(token), once).is_ok()
        {
            state.idle_connections.insert(token, connection);
            return;
        }
        state.connections -= 1;
        let is_resumed = std::mem::take(&mut state.is_accepting_paused);
        drop(state);
        match served {
            Ok(Served::Connected(seat, service)) => self.agent.tunnel(seat, connection, service),
            Ok(Served::Answered) | Err(_) => drop(connection),
        }
        if is_resumed {
            // Could only fail for a closed listener, which is ours.
            let _ = self.listen();
        }
    }

    /// This thread will be busy; whether another one is idle, started if need be.
    fn become_busy(self: &Arc<Self>) -> Standby {
        let mut state = self.lock();
        state.idle_threads -= 1;
        state.busy_threads += 1;
        if state.idle_threads > 0 {
            return Standby::Present;
        }
        if state.busy_threads > BUSY_MAX {
            return Standby::Absent;
        }
        state.idle_threads += 1;
        drop(state);
        let dispatch = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("requests".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || dispatch.work());
        match thread {
            Ok(_) => Standby::Present,
            Err(_) => {
                self.lock().idle_threads -= 1;
                Standby::Absent
            }
        }
    }
}
