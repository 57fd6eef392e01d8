//! Sending the output of a background process.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use agent_protocol::{Exit, Failure, Reply};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

use super::Process;
use crate::{
    connection::Connection,
    exec::{PIECE_BYTES, poll_until},
    failure::{Stop, limit_reached},
    output::Stream,
};

/// Which part of the output is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Also what comes later, until it ends.
    pub(crate) follow: bool,
    /// Not what came before.
    pub(crate) skip_kept: bool,
}

/// Sends the output of a process, with `follow` until it has ended.
pub(super) fn send(
    process: &Process,
    extent: Extent,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    let news = news(process)?;
    let position = {
        let mut streams = process.lock_streams();
        streams.followers.push(Arc::clone(&news));
        match extent.skip_kept {
            true => {
                streams.take_available();
                streams.kept.end()
            }
            false => 0,
        }
    };
    let result = send_from(process, position, extent.follow, &news, connection);
    let mut streams = process.lock_streams();
    let followers = &mut streams.followers;
    followers.retain(|other| !Arc::ptr_eq(other, &news));
    result
}

fn news(process: &Process) -> Result<Arc<OwnedFd>, Failure> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    eventfd(0, flags).map(Arc::new).map_err(|error| {
        let id = process.id;
        limit_reached(format!("cannot follow background process {id}: {error}"))
    })
}

fn send_from(
    process: &Process,
    mut position: u64,
    follow: bool,
    news: &OwnedFd,
    connection: &mut Connection,
) -> Result<Reply, Stop> {
    loop {
        // Asked before the pipes are read: what it wrote is in them then.
        let exit = process.exit();
        process.lock_streams().take_available();
        let _ = rustix::io::read(news, &mut [0; 8]);
        loop {
            let piece = process.lock_streams().kept.piece(position, PIECE_BYTES);
            let Some((stream, bytes, after)) = piece else {
                break;
            };
            position = after;
            match stream {
                Stream::Output => connection.send_output(&bytes)?,
                Stream::Error => connection.send_error(&bytes)?,
            }
        }
        let truncated = process.lock_streams().kept.is_truncated();
        if let Some(exit) = exit {
            return Ok(Reply::Exited(Exit { truncated, ..exit }));
        }
        if !follow {
            return Ok(Reply::Done { truncated });
        }
        // Without a deadline: following ends with the process or the connection.
        let mut polled = [
            PollFd::new(news, PollFlags::IN),
            PollFd::from_borrowed_fd(process.subject.exit().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::RDHUP),
        ];
        poll_until(&mut polled, None)?;
        if !polled[2].revents().is_empty() {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
    }
}
