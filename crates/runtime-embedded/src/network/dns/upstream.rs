//! Asking a resolver of the host's, with everything that makes a forged answer
//! unlikely: a port and a number of its own for each query, and an exact check.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{message::Query, resolver::Resolvers};

/// How long one resolver may take; two of them are asked, so that the sandbox has
/// an answer of some kind after 5 seconds.
const ATTEMPT_DEADLINE: Duration = Duration::from_millis(2500);
/// The first resolver, and one retry with the next.
const ATTEMPTS: usize = 2;
/// Longest answer taken from a datagram.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// How the query came, and so how it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transport {
    /// One datagram each way.
    Datagram,
    /// Messages with their lengths, on a stream.
    Stream,
}

/// Asks until a resolver answers; the answer has the sandbox's number.
pub(super) async fn ask(
    query: &Query,
    resolvers: &Resolvers,
    transport: Transport,
) -> io::Result<Vec<u8>> {
    let resolvers = resolvers.current().await;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for resolver in resolvers.iter().cycle().take(ATTEMPTS) {
        let attempt = async {
            match transport {
                Transport::Datagram => by_datagram(query, *resolver).await,
                Transport::Stream => by_stream(query, *resolver).await,
            }
        };
        match timeout(ATTEMPT_DEADLINE, attempt).await {
            Ok(Ok(answer)) => return Ok(query.answer(&answer)),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
        tracing::debug!(%resolver, error = %last, "a resolver did not answer");
    }
    Err(last)
}

async fn by_datagram(query: &Query, resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any = match resolver {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    // From here on the kernel drops what comes from any other address.
    socket.connect(resolver).await?;
    let number = random_number()?;
    socket.send(&query.with_number(number)).await?;
    // One byte more, to tell a longer answer, which is cut, from one that fits.
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = &buffer[..length];
        if length <= DATAGRAM_BYTES_MAX && query.is_answered_by(number, answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn by_stream(query: &Query, resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let number = random_number()?;
    write_message(&mut stream, &query.with_number(number)).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if query.is_answered_by(number, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer belongs to another query",
        ))
    }
}

/// Writes `message` with its length before it.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

fn random_number() -> io::Result<[u8; 2]> {
    let mut number = [0; 2];
    // Requests of up to 256 bytes are never answered in part.
    getrandom(&mut number, GetRandomFlags::empty())?;
    Ok(number)
}
