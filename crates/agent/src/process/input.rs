//! Standard input of background processes.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::FailureKind;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::{Process, streams::Stdin};
use crate::{
    connection::{Connection, Input, Wait},
    exec::{PIECE_BYTES, poll_until},
    failure::{Stop, failure, invalid},
};

/// How long a process may take to read from its standard input.
const INPUT_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the end of a request may be on its way when the process has ended.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// What a person types to end the input at a terminal: Ctrl-D.
const END_OF_TRANSMISSION: u8 = 4;

/// Writes the input frames of a request to a process, and closes its standard
/// input afterwards if asked to.
pub(super) fn forward(
    process: &Process,
    close: bool,
    connection: &mut Connection,
) -> Result<(), Stop> {
    let stdin = std::mem::replace(&mut *process.lock_stdin(), Stdin::Busy);
    let stdin = match stdin {
        Stdin::Open(stdin) => stdin,
        Stdin::Terminal(terminal) => {
            // Any number of people may type at the same time.
            *process.lock_stdin() = Stdin::Terminal(Arc::clone(&terminal));
            forward_input(process, &terminal, connection)?;
            if close {
                write_all(process, &terminal, &[END_OF_TRANSMISSION], connection)?;
            }
            return Ok(());
        }
        Stdin::Busy => {
            let message = format!(
                "another request is writing to background process {}",
                process.id
            );
            return Err(invalid(message).into());
        }
        Stdin::Closed => {
            *process.lock_stdin() = Stdin::Closed;
            let message = format!(
                "standard input of background process {} is closed; start it with `stdin`",
                process.id
            );
            return Err(invalid(message).into());
        }
    };
    let result = forward_input(process, &stdin, connection);
    let is_closed = match &result {
        Ok(()) => close,
        Err(Stop::Failed(failure)) => failure.kind == FailureKind::InvalidRequest,
        Err(Stop::Disconnected(_)) => false,
    };
    let mut place = process.lock_stdin();
    // It may have been closed meanwhile, because the command has ended.
    *place = match is_closed || matches!(*place, Stdin::Closed) {
        true => Stdin::Closed,
        false => Stdin::Open(stdin),
    };
    result
}

fn forward_input(
    process: &Process,
    stdin: &OwnedFd,
    connection: &mut Connection,
) -> Result<(), Stop> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = match connection.next_input(&mut buffer, Wait::No)? {
            Input::Bytes(count) => count,
            Input::End => return Ok(()),
            Input::Later => {
                wait_input(process, connection)?;
                continue;
            }
        };
        write_all(process, stdin, &buffer[..count], connection)?;
    }
}

fn write_all(
    process: &Process,
    stdin: &OwnedFd,
    mut rest: &[u8],
    connection: &Connection,
) -> Result<(), Stop> {
    while !rest.is_empty() {
        match rustix::io::write(stdin, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::AGAIN) => wait_writable(process, stdin, connection)?,
            Err(Errno::INTR) => {}
            Err(error) => {
                let message = format!(
                    "background process {} does not read its standard input any more: {error}",
                    process.id
                );
                return Err(invalid(message).into());
            }
        }
    }
    Ok(())
}

/// Waits for more input. Without a deadline: a person may be typing.
fn wait_input(process: &Process, connection: &Connection) -> Result<(), Stop> {
    let mut polled = [
        PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN | PollFlags::RDHUP),
        PollFd::from_borrowed_fd(process.subject.exit().as_fd(), PollFlags::IN),
    ];
    poll_until(&mut polled, None)?;
    if polled[0].revents().is_empty() && !polled[1].revents().is_empty() {
        // It may have ended because of what it got: the end of this request is
        // on its way then, and all went well.
        poll_until(&mut polled[..1], Some(Instant::now() + END_TIMEOUT))?;
        if polled[0].revents().is_empty() {
            return Err(has_ended(process));
        }
    }
    Ok(())
}

fn has_ended(process: &Process) -> Stop {
    invalid(format!("background process {} has ended", process.id)).into()
}

fn wait_writable(process: &Process, stdin: &OwnedFd, connection: &Connection) -> Result<(), Stop> {
    let deadline = Instant::now() + INPUT_TIMEOUT;
    let mut polled = [
        PollFd::new(stdin, PollFlags::OUT),
        PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::RDHUP),
        PollFd::from_borrowed_fd(process.subject.exit().as_fd(), PollFlags::IN),
    ];
    poll_until(&mut polled, Some(deadline))?;
    if !polled[1].revents().is_empty() {
        return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
    }
    if !polled[2].revents().is_empty() {
        return Err(has_ended(process));
    }
    if polled[0].revents().is_empty() && Instant::now() >= deadline {
        let message = format!(
            "background process {} did not read its standard input for {} s",
            process.id,
            INPUT_TIMEOUT.as_secs()
        );
        return Err(failure(FailureKind::Timeout, message).into());
    }
    Ok(())
}
