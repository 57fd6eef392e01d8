//! Carries bytes between standard input and output and the agent's socket.
//!
//! Where no descriptor can be handed into a sandbox, the agent listens on a
//! socket in the abstract namespace of the sandbox's own network, and whoever
//! can start a program inside reaches it by this relay. The workload can reach
//! it too, which gains it nothing: the agent only does what the workload may.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::ExitCode,
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen,
        shutdown, socket_with,
    },
};

use crate::exec::poll_until;

/// The option before the socket's name.
pub(crate) const ARGUMENT: &str = "--relay";
/// What a relay says before anything else, once it has reached the agent: so
/// that whoever started it can tell its bytes from an engine's complaint.
const READY: &[u8] = &[6];
/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;
/// Bytes moved at once.
const PIECE_BYTES: usize = 64 << 10;

/// The agent's own end: a socket of that name that listens.
///
/// # Errors
/// When the name is taken or the socket cannot be made.
pub(crate) fn listener(name: &str) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    bind(&socket, &address(name)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Carries bytes until both directions have ended.
pub(crate) fn run(name: &str) -> ExitCode {
    match connected(name).and_then(|socket| {
        rustix::io::write(std::io::stdout(), READY)?;
        carry(&socket)
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn connected(name: &str) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    connect(&socket, &address(name)?)?;
    Ok(socket)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn address(name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?)
}

/// One direction: what was read and is still to be written.
struct Lane<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    buffer: Vec<u8>,
    written: usize,
    ended: bool,
}

impl<'a> Lane<'a> {
    fn new(from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Self {
        Self {
            from,
            to,
            buffer: Vec::with_capacity(PIECE_BYTES),
            written: 0,
            ended: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.written == self.buffer.len()
    }

    /// What to wait for next.
    fn waits_for(&self) -> PollFd<'a> {
        match self.is_empty() {
            true => PollFd::from_borrowed_fd(self.from, PollFlags::IN),
            false => PollFd::from_borrowed_fd(self.to, PollFlags::OUT),
        }
    }

    /// Moves bytes once.
    fn step(&mut self) -> io::Result<()> {
        if self.is_empty() {
            self.buffer.resize(PIECE_BYTES, 0);
            self.written = 0;
            let count = match rustix::io::read(self.from, &mut self.buffer) {
                Err(Errno::INTR | Errno::AGAIN) => {
                    self.buffer.clear();
                    return Ok(());
                }
                count => count?,
            };
            self.buffer.truncate(count);
            self.ended = count == 0;
            return Ok(());
        }
        match rustix::io::write(self.to, &self.buffer[self.written..]) {
            Err(Errno::INTR | Errno::AGAIN) => Ok(()),
            written => {
                self.written += written?;
                Ok(())
            }
        }
    }
}

fn carry(socket: &OwnedFd) -> io::Result<()> {
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let mut up = Lane::new(stdin.as_fd(), socket.as_fd());
    let mut down = Lane::new(socket.as_fd(), stdout.as_fd());
    // The agent's end is that of the relay; the other side may be half closed.
    while !down.ended {
        let mut polled = vec![down.waits_for()];
        if !up.ended {
            polled.push(up.waits_for());
        }
        poll_until(&mut polled, None)?;
        let ready: Vec<bool> = polled.iter().map(|one| !one.revents().is_empty()).collect();
        if ready[0] {
            down.step()?;
        }
        if ready.get(1) == Some(&true) {
            up.step()?;
            if up.ended {
                shutdown(socket, Shutdown::Write)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn bytes_go_through_a_socket_without_a_file() {
        let name = format!("relay-test-{}", std::process::id());
        let listener = std::os::unix::net::UnixListener::from(listener(&name).unwrap());
        let mut ours = std::os::unix::net::UnixStream::from(connected(&name).unwrap());
        let (mut theirs, _) = listener.accept().unwrap();
        ours.write_all(b"up").unwrap();
        theirs.write_all(b"down").unwrap();
        let mut buffer = [0; 4];
        theirs.read_exact(&mut buffer[..2]).unwrap();
        assert_eq!(&buffer[..2], b"up");
        ours.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"down");
        assert!(super::listener(&name).is_err(), "the name is taken");
    }

    #[test]
    fn a_lane_moves_everything_and_tells_the_end() {
        let (source, mut fed) = std::os::unix::net::UnixStream::pair().unwrap();
        let (sink, mut seen) = std::os::unix::net::UnixStream::pair().unwrap();
        fed.write_all(&vec![7; 100_000]).unwrap();
        drop(fed);
        let mut lane = Lane::new(source.as_fd(), sink.as_fd());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            seen.read_to_end(&mut all).unwrap();
            all
        });
        while !lane.ended {
            lane.step().unwrap();
        }
        drop(sink);
        assert_eq!(reader.join().unwrap(), vec![7; 100_000]);
    }
}
