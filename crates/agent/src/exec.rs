//! A command in the foreground: its output goes out as it comes, its input
//! comes in as it is taken, and no more than one piece of each is ever held.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::{
    Command, Exec, Exit, Failure, FailureKind, Reply,
    frame::{FrameKind, HEADER_BYTES, Header},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Access, FileType, Gid, Uid},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::Signal,
};

use crate::{
    account::{self, User},
    collector::Source,
    connection::{Connection, Input, Wait},
    context::Context,
    failure::{Stop, failure},
    reaper::ExitStatus,
    spawn::{Child, DEFAULT_PATH, SpawnSpec},
};

/// Bytes moved at once; as much as a pipe holds.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// The exit code of a command that was killed because its time was over, as by `timeout(1)`.
const TIMED_OUT_CODE: i32 = 124;

/// How long a killed command may take to be gone before it is given up on.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The program and its surroundings for a command.
///
/// # Errors
/// When there is no such user.
pub(crate) fn spec(context: &Context, exec: &Exec) -> Result<SpawnSpec, Failure> {
    let user = exec.user.as_deref().map(find_user).transpose()?;
    let mut env = exec.env.clone();
    if let Some(user) = &user {
        let own = [
            ("HOME", &user.home),
            ("USER", &user.name),
            ("LOGNAME", &user.name),
        ];
        for (name, value) in own {
            env.entry(name.to_owned()).or_insert_with(|| value.clone());
        }
    }
    let env = context.env_with(&env);
    let argv = match &exec.command {
        Command::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.into()],
        Command::Script(line) => vec![best_shell(&env), "-c".into(), line.into()],
        Command::Argv(argv) => argv.iter().map(Into::into).collect(),
    };
    let cwd = exec.cwd.as_deref().unwrap_or_default();
    Ok(SpawnSpec {
        argv,
        env,
        cwd: context.absolute(cwd),
        user,
        ..SpawnSpec::default()
    })
}

fn find_user(text: &str) -> Result<User, Failure> {
    account::find_user(text).ok_or_else(|| {
        let message = format!(
            "field `user`: there is no user {text:?} in the sandbox's /etc/passwd; create it or name another"
        );
        failure(FailureKind::InvalidRequest, message)
    })
}

/// The shell for scripts: bash where the image has it, as people expect it.
pub(crate) fn best_shell(env: &[(OsString, OsString)]) -> OsString {
    let path = env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value.as_os_str());
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("bash"))
        .find(|bash| is_program(bash))
        .map_or_else(|| "/bin/sh".into(), PathBuf::into_os_string)
}

fn is_program(path: &Path) -> bool {
    rustix::fs::stat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Our ends of a command's pipes. They do not block.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<OwnedFd>,
    /// Also what is read and written when it is a terminal.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) is_terminal: bool,
}

/// Pipes as the command wants them, the other ends put into `spec`.
pub(crate) fn make_pipes(exec: &Exec, spec: &mut SpawnSpec) -> io::Result<Pipes> {
    let pipe = || -> io::Result<(OwnedFd, OwnedFd)> { Ok(pipe_with(PipeFlags::CLOEXEC)?) };
    let mut pipes = Pipes::default();
    let (reader, writer) = pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    pipes.stdout = Some(reader);
    if exec.merge_output {
        spec.stderr = Some(writer.try_clone()?);
    } else {
        let (reader, writer) = pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        pipes.stderr = Some(reader);
        spec.stderr = Some(writer);
    }
    spec.stdout = Some(writer);
    if exec.stdin {
        let (reader, writer) = pipe()?;
        rustix::io::ioctl_fionbio(&writer, true)?;
        pipes.stdin = Some(writer);
        spec.stdin = Some(reader);
    }
    if let Some(user) = &spec.user {
        // Programs open their streams again by `/dev/stdout` and the like.
        let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
        for end in [&spec.stdin, &spec.stdout, &spec.stderr]
            .into_iter()
            .flatten()
        {
            rustix::fs::fchown(end, Some(uid), Some(gid))?;
        }
    }
    Ok(pipes)
}

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
    let mut spec = spec(context, exec)?;
    let pipes = make_pipes(exec, &mut spec).map_err(|error| {
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
