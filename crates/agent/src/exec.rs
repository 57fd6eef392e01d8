//! A command in the foreground: its output goes out as it comes, its input
//! comes in as it is taken, and no more than one piece of each is ever held.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::{
    Exec, Exit, Failure, FailureKind, Reply,
    frame::{FrameKind, HEADER_BYTES, Header},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::Signal,
};

use crate::{
    collector::Source,
    connection::{Connection, Input, Wait},
    context::Context,
    failure::{Stop, failure},
    program::{self, Pipes},
    reaper::ExitStatus,
    spawn::Child,
};

/// Bytes moved at once; as much as a pipe holds.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// The exit code of a command that was killed because its time was over, as by `timeout(1)`.
const TIMED_OUT_CODE: i32 = 124;

/// How long a killed command may take to be gone before it is given up on.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a command to its end.
pub(crate) fn run(
    context: &Context,
    exec: &Exec,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    if exec.tty.is_some() {
        let message = "field `tty`: a terminal is for background processes; start it as one";
        return Err(failure(FailureKind::InvalidRequest, message).into());
    }
    // A time too long to be added is as good as none.
    let timeout = exec.timeout_ms.map(Duration::from_millis);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let killed_before = context.out_of_memory.count();
    let mut spec = program::spec(context, exec)?;
    let pipes = program::make_pipes(exec, &mut spec).map_err(|error| {
        failure(
            FailureKind::LimitReached,
            format!("cannot make pipes for the command: {error}"),
        )
    })?;
    let child = context.spawner.spawn(spec).map_err(Failure::from)?;
    let mut foreground = Foreground {
        context,
        child,
        is_input_open: exec.stdin,
        pipes,
        outgoing: Piece::default(),
        incoming: Piece::default(),
        deadline,
        timed_out: false,
    };
    let status = foreground.stream(connection).inspect_err(|_| {
        foreground.child.kill_group(Signal::KILL);
    })?;
    foreground.drain(connection)?;
    let mut exit = Exit::from(status);
    if foreground.timed_out {
        exit.code = TIMED_OUT_CODE;
        exit.timed_out = true;
    }
    exit.out_of_memory = context.out_of_memory.count() > killed_before;
    Ok(Reply::Exited(exit))
}

/// Bytes on their way, held until they are taken.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    taken: usize,
}

impl Piece {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
    }

    /// Room for a new piece, after `reserved` bytes.
    fn refill(&mut self, reserved: usize) -> &mut [u8] {
        self.taken = 0;
        self.bytes.resize(reserved + PIECE_BYTES, 0);
        &mut self.bytes[reserved..]
    }
}

struct Foreground<'a> {
    context: &'a Context,
    child: Child,
    pipes: Pipes,
    /// Input frames are still to come.
    is_input_open: bool,
    /// A frame for the server.
    outgoing: Piece,
    /// Input for the command.
    incoming: Piece,
    deadline: Option<Instant>,
    timed_out: bool,
}

/// What happened.
#[derive(Clone, Copy, Default)]
struct Ready {
    connection_readable: bool,
    connection_lost: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    exited: bool,
}

impl Foreground<'_> {
    /// Moves bytes until the command has ended.
    fn stream(&mut self, connection: &mut Connection) -> io::Result<ExitStatus> {
        loop {
            if !self.outgoing.rest().is_empty() {
                let sent = connection.send_some(self.outgoing.rest())?;
                self.outgoing.take(sent);
            }
            let ready = self.wait(connection)?;
            if ready.connection_lost {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if ready.exited
                && let Some(status) = self.child.exit.status()
            {
                return Ok(status);
            }
            self.enforce_deadline()?;
            if ready.connection_readable {
                self.receive_input(connection)?;
            }
            if ready.stdin {
                self.feed();
            }
            // One frame at a time: the other stream stays ready meanwhile.
            if ready.stdout {
                read_piece(
                    &mut self.pipes.stdout,
                    FrameKind::Output,
                    &mut self.outgoing,
                );
            } else if ready.stderr {
                read_piece(&mut self.pipes.stderr, FrameKind::Error, &mut self.outgoing);
            }
        }
    }

    fn wait(&self, connection: &Connection) -> io::Result<Ready> {
        let is_free = self.outgoing.rest().is_empty();
        let mut of_connection = PollFlags::RDHUP;
        of_connection.set(PollFlags::OUT, !is_free);
        of_connection.set(
            PollFlags::IN,
            self.is_input_open && self.incoming.rest().is_empty(),
        );
        let mut polled = vec![
            PollFd::from_borrowed_fd(connection.as_fd(), of_connection),
            PollFd::from_borrowed_fd(self.child.exit.as_fd(), PollFlags::IN),
        ];
        let has_input = !self.incoming.rest().is_empty();
        let wanted = [
            (&self.pipes.stdout, PollFlags::IN, is_free),
            (&self.pipes.stderr, PollFlags::IN, is_free),
            (&self.pipes.stdin, PollFlags::OUT, has_input),
        ];
        let [stdout, stderr, stdin] = wanted.map(|(pipe, flags, is_wanted)| {
            let pipe = pipe.as_ref().filter(|_| is_wanted)?;
            polled.push(PollFd::new(pipe, flags));
            Some(polled.len() - 1)
        });
        poll_until(&mut polled, self.deadline)?;
        let happened =
            |index: Option<usize>| index.is_some_and(|i| !polled[i].revents().is_empty());
        let lost = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        Ok(Ready {
            connection_readable: polled[0].revents().contains(PollFlags::IN),
            connection_lost: polled[0].revents().intersects(lost),
            exited: happened(Some(1)),
            stdin: happened(stdin),
            stdout: happened(stdout),
            stderr: happened(stderr),
        })
    }

    /// Kills the command when its time is over.
    fn enforce_deadline(&mut self) -> io::Result<()> {
        if self
            .deadline
            .is_none_or(|deadline| Instant::now() < deadline)
        {
            return Ok(());
        }
        if self.timed_out {
            // It was killed and is still there: stuck in the kernel.
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.timed_out = true;
        self.deadline = Some(Instant::now() + KILL_TIMEOUT);
        self.child.kill_group(Signal::KILL);
        Ok(())
    }

    fn receive_input(&mut self, connection: &mut Connection) -> io::Result<()> {
        let buffer = self.incoming.refill(0);
        let received = match connection.next_input(buffer, Wait::No) {
            Ok(Input::Bytes(count)) => count,
            Ok(Input::Later) => 0,
            Ok(Input::End) => {
                self.is_input_open = false;
                self.pipes.stdin = None;
                0
            }
            Err(error) => {
                self.incoming.bytes.clear();
                return Err(error);
            }
        };
        self.incoming.bytes.truncate(received);
        if self.pipes.stdin.is_none() {
            // The command does not read any more: skipped, so that the server is not held up.
            self.incoming.bytes.clear();
        }
        Ok(())
    }

    fn feed(&mut self) {
        let Some(stdin) = &self.pipes.stdin else {
            return;
        };
        match rustix::io::write(stdin, self.incoming.rest()) {
            Ok(count) => self.incoming.take(count),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.pipes.stdin = None;
                self.incoming.bytes.clear();
            }
        }
    }

    /// Sends what the command wrote before it ended. Others may hold its pipes
    /// open and go on writing: what they write is not waited for.
    fn drain(&mut self, connection: &mut Connection) -> io::Result<()> {
        let result = self.send_rest(connection);
        // Closing the pipes would kill those others when they write.
        let open = [self.pipes.stdout.take(), self.pipes.stderr.take()];
        for pipe in open.into_iter().flatten() {
            let pipe = Arc::new(pipe);
            self.context.collector.add(Source::Discarded(pipe));
        }
        result
    }

    fn send_rest(&mut self, connection: &mut Connection) -> io::Result<()> {
        connection.send_raw(self.outgoing.rest())?;
        self.outgoing.bytes.clear();
        let streams = [
            (&mut self.pipes.stdout, FrameKind::Output),
            (&mut self.pipes.stderr, FrameKind::Error),
        ];
        for (pipe, kind) in streams {
            let Some(open) = pipe else { continue };
            let mut left = rustix::io::ioctl_fionread(&*open).unwrap_or(0);
            // The read that finds nothing tells whether the pipe is still held open.
            loop {
                let is_last = left == 0;
                let count = read_piece(pipe, kind, &mut self.outgoing);
                connection.send_raw(self.outgoing.rest())?;
                self.outgoing.bytes.clear();
                left = left.saturating_sub(count);
                if is_last || count == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Reads a piece from a pipe into a frame; closes the pipe at its end. Returns
/// how many bytes were read.
fn read_piece(pipe: &mut Option<OwnedFd>, kind: FrameKind, frame: &mut Piece) -> u64 {
    let Some(open) = pipe else { return 0 };
    let buffer = frame.refill(HEADER_BYTES);
    let count = match rustix::io::read(&*open, &mut *buffer) {
        Ok(0) => {
            *pipe = None;
            0
        }
        Ok(count) => count,
        Err(Errno::AGAIN | Errno::INTR) => 0,
        Err(_) => {
            *pipe = None;
            0
        }
    };
    if count == 0 {
        frame.bytes.clear();
        return 0;
    }
    frame.bytes.truncate(HEADER_BYTES + count);
    frame.bytes[..HEADER_BYTES].copy_from_slice(&Header::encode(kind, count));
    count as u64
}

/// `poll` until something happens or the deadline has passed.
pub(crate) fn poll_until(polled: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    // Longer than the kernel can count is as good as for ever.
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(polled, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
