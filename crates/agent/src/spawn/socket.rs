//! The socket between the agent and its spawner.
//!
//! A request is its length (u32), with the descriptors, then the message. An
//! answer is three numbers (i32): the process id, written by the process itself
//! right before it becomes the program; then, from the spawner, the failed step
//! (0: none) and the OS error. The first may be the last words: the program may
//! have killed the spawner.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::{
    cmsg_space,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg,
        socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::Pid,
};
use sys::process::SpawnStep;

use super::{EXTRA_DESCRIPTORS_MAX, wire};

/// Most descriptors of one request: the standard streams and the others.
const DESCRIPTORS_MAX: usize = 3 + EXTRA_DESCRIPTORS_MAX;

/// A pair; the first end, the agent's, waits at most for `timeout`.
pub(super) fn pair(timeout: Duration) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&ours, Timeout::Send, Some(timeout))?;
    set_socket_timeout(&ours, Timeout::Recv, Some(timeout))?;
    Ok((ours, theirs))
}

/// Sends a request.
pub(super) fn send(
    socket: &OwnedFd,
    message: &[u8],
    descriptors: &[(&OwnedFd, RawFd)],
) -> io::Result<()> {
    let length = u32::try_from(message.len())
        .map_err(|_| io::ErrorKind::InvalidInput)?
        .to_le_bytes();
    let borrowed: Vec<_> = descriptors.iter().map(|(file, _)| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(&length), IoSlice::new(message)];
    let sent = sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    let mut rest = message
        .get(sent.saturating_sub(length.len())..)
        .unwrap_or(&[]);
    while !rest.is_empty() {
        let sent = rustix::net::send(socket, rest, SendFlags::NOSIGNAL)?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// The spawner's side: the next request; `None` when the agent is gone.
pub(super) fn receive(socket: &OwnedFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut length)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    receive_exactly(socket, &mut length[received.bytes..])?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > wire::MESSAGE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    receive_exactly(socket, &mut message)?;
    Ok(Some((message, descriptors)))
}

/// The spawner's side: answers a request.
pub(super) fn send_answer(
    socket: &OwnedFd,
    answer: Result<(), (SpawnStep, i32)>,
) -> io::Result<()> {
    let (step, errno) = match answer {
        Ok(()) => (0, 0),
        Err((step, errno)) => (step as i32, errno),
    };
    let is_announced = matches!(
        answer,
        Ok(())
            | Err((
                SpawnStep::Descriptors | SpawnStep::Terminal | SpawnStep::Execute,
                _
            ))
    );
    let numbers = [0, step, errno].map(i32::to_le_bytes).concat();
    // In place of the process that got nowhere, a number that none has.
    let bytes = &numbers[if is_announced { 4 } else { 0 }..];
    // A few bytes fit into the socket's buffer at once.
    if rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)? == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// The program runs.
    Started(Pid),
    /// It may run, and the spawner is lost or stopped.
    StartedLast(Pid),
    /// It does not run.
    Failed(SpawnStep, io::Error),
}

/// The answer; an error is about the spawner.
pub(super) fn receive_answer(socket: &OwnedFd) -> io::Result<Answer> {
    let mut bytes = [0; 12];
    // All at once, so that this thread wakes up once.
    let (received, _) = recv(socket, &mut bytes, RecvFlags::WAITALL)?;
    let [pid, step, errno] = [0, 4, 8]
        .map(|at| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    // Never 1 or less: such a number would address the agent or everybody.
    let pid = Some(pid).filter(|pid| *pid > 1).and_then(Pid::from_raw);
    match (received, pid, SpawnStep::from_number(step)) {
        (0..4, ..) => Err(io::ErrorKind::UnexpectedEof.into()),
        (4..12, Some(pid), _) => Ok(Answer::StartedLast(pid)),
        (12, Some(pid), None) if step == 0 => Ok(Answer::Started(pid)),
        (12, _, Some(step)) => Ok(Answer::Failed(step, io::Error::from_raw_os_error(errno))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn receive_exactly(socket: &OwnedFd, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let (received, _) = recv(socket, &mut *buffer, RecvFlags::empty())?;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[received..];
    }
    Ok(())
}
