//! Connecting to a port of the sandbox.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use agent_protocol::{Failure, FailureKind};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, connect as start_connect, ipproto, socket_with,
        sockopt::{
            set_socket_recv_buffer_size, set_socket_send_buffer_size, set_tcp_nodelay, socket_error,
        },
    },
};

use crate::{
    connection::Connection,
    exec::poll_until,
    failure::{Stop, failure, from_os, invalid},
};

/// How long a connection may take: a program that does not accept any holds it up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Buffers of the socket. The kernel would let them grow to megabytes, which
/// count in the agent's memory; within one host there is nothing to gain by that.
pub(super) const SOCKET_BYTES: usize = 64 << 10;

/// Connects to a port of the loopback address, by IPv6 when nothing listens by IPv4.
pub(crate) fn connect(port: u16, connection: &Connection) -> Result<OwnedFd, Stop> {
    if port == 0 {
        return Err(invalid("field `port`: 0 is no port; give 1 to 65535").into());
    }
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let addresses: [SocketAddr; 2] = [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ];
    for address in addresses {
        match connect_to(&address, connection, deadline)? {
            Ok(socket) => return Ok(socket),
            // A sandbox without IPv6 has nothing there either.
            Err(
                Errno::CONNREFUSED | Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::NETUNREACH,
            ) => {}
            Err(error) => return Err(told(port, error).into()),
        }
    }
    let message = format!("nothing listens on port {port} of the sandbox");
    Err(failure(FailureKind::NotFound, message).into())
}

fn told(port: u16, error: Errno) -> Failure {
    match error {
        Errno::TIMEDOUT => failure(
            FailureKind::Timeout,
            format!(
                "port {port} of the sandbox did not accept a connection within {} s; its program is busy or stopped",
                CONNECT_TIMEOUT.as_secs()
            ),
        ),
        error => from_os(format!("port {port} of the sandbox"), &error.into()),
    }
}

/// A connection, or why there is none.
fn connect_to(
    address: &SocketAddr,
    connection: &Connection,
    deadline: Instant,
) -> Result<Result<OwnedFd, Errno>, Stop> {
    let socket = match open(address) {
        Ok(socket) => socket,
        Err(error) => return Ok(Err(error)),
    };
    match start_connect(&socket, address) {
        Ok(()) => return Ok(Ok(socket)),
        Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Ok(Err(error)),
    }
    let mut polled = [
        PollFd::new(&socket, PollFlags::OUT),
        PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::RDHUP),
    ];
    loop {
        poll_until(&mut polled, Some(deadline))?;
        if !polled[1].revents().is_empty() {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
        if !polled[0].revents().is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            return Ok(Err(Errno::TIMEDOUT));
        }
    }
    Ok(match socket_error(&socket) {
        Ok(Ok(())) => Ok(socket),
        Ok(Err(error)) | Err(error) => Err(error),
    })
}

fn open(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    set_socket_recv_buffer_size(&socket, SOCKET_BYTES)?;
    set_socket_send_buffer_size(&socket, SOCKET_BYTES)?;
    // The programs at both ends know better when to wait for more.
    set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}
