//! The name service of a sandbox: a forwarder in the server, on sockets that were
//! bound inside the sandbox.
//!
//! It spares the sandbox any access to the host's resolvers, which are often in
//! private networks, and passes on plain queries alone: no zone transfers and no
//! updates, which a resolver may grant to the host.

mod message;
mod resolver;
#[cfg(test)]
mod tests;
mod upstream;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::Instrument as _;

use super::{DnsSockets, NetworkConfig};
use message::{Failure, Query, Verdict, examine};
use resolver::Resolvers;
pub(super) use resolver::now as resolvers;
use upstream::{Transport, ask, write_message};

/// Longest query taken from the sandbox.
const QUERY_BYTES_MAX: usize = 4096;
/// Queries of one sandbox that wait for a resolver at the same time; further
/// datagrams are dropped, as a busy network would, and streams wait.
const IN_FLIGHT_MAX: usize = 64;
/// Streams of one sandbox that are open at the same time; others wait unaccepted.
const STREAMS_MAX: usize = 16;
/// How long a stream may stay silent, or refuse to take an answer.
const STREAM_IDLE: Duration = Duration::from_secs(10);
/// How long to rest after an error of a listening socket, e.g. too many open files.
const REST_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Answers the names of one sandbox until it is dropped, which also closes the sockets.
#[derive(Debug)]
pub struct DnsForwarder {
    task: JoinHandle<()>,
}

impl DnsForwarder {
    /// Starts answering on `sockets`.
    ///
    /// # Errors
    /// Outside of a tokio runtime, or when the sockets cannot be registered with it.
    pub fn spawn(sockets: DnsSockets, config: &NetworkConfig) -> io::Result<Self> {
        Self::spawn_with(sockets, Resolvers::new(&config.resolvers))
    }

    fn spawn_with(sockets: DnsSockets, resolvers: Resolvers) -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        sockets.udp.set_nonblocking(true)?;
        sockets.tcp.set_nonblocking(true)?;
        let service = Arc::new(Service {
            udp: UdpSocket::from_std(sockets.udp)?,
            resolvers,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        });
        let tcp = TcpListener::from_std(sockets.tcp)?;
        Ok(Self {
            task: runtime.spawn(serve(service, tcp).in_current_span()),
        })
    }
}

impl Drop for DnsForwarder {
    fn drop(&mut self) {
        // The task owns all others and the sockets.
        self.task.abort();
    }
}

#[derive(Debug)]
struct Service {
    udp: UdpSocket,
    resolvers: Resolvers,
    in_flight: Arc<Semaphore>,
}

async fn serve(service: Arc<Service>, tcp: TcpListener) {
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    let mut tasks = JoinSet::new();
    // One byte more, to tell a longer query, which is cut, from one that fits.
    let mut buffer = vec![0; QUERY_BYTES_MAX + 1];
    loop {
        tokio::select! {
            received = service.udp.recv_from(&mut buffer) => match received {
                Ok((length, _)) if length > QUERY_BYTES_MAX => {}
                Ok((length, client)) => {
                    if let Ok(permit) = Arc::clone(&service.in_flight).try_acquire_owned() {
                        answer_datagram(&mut tasks, &service, permit, &buffer[..length], client);
                    }
                }
                Err(error) => rest(&error).await,
            },
            accepted = accept(&tcp, &streams) => match accepted {
                Ok((stream, permit)) => {
                    let service = Arc::clone(&service);
                    let serving = async move {
                        // The client's mistake or its going away; there is nobody to tell.
                        let _ = serve_stream(&service, stream).await;
                        drop(permit);
                    };
                    tasks.spawn(serving.in_current_span());
                }
                Err(error) => rest(&error).await,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn accept(
    tcp: &TcpListener,
    streams: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = acquire(streams).await?;
    let (stream, _) = tcp.accept().await?;
    Ok((stream, permit))
}

async fn acquire(semaphore: &Arc<Semaphore>) -> io::Result<OwnedSemaphorePermit> {
    Arc::clone(semaphore)
        .acquire_owned()
        .await
        .map_err(io::Error::other)
}

async fn rest(error: &io::Error) {
    tracing::debug!(%error, "the name service of a sandbox rests");
    sleep(REST_AFTER_ERROR).await;
}

/// Answers a datagram in a task of its own, or at once where no resolver is needed.
fn answer_datagram(
    tasks: &mut JoinSet<()>,
    service: &Arc<Service>,
    permit: OwnedSemaphorePermit,
    packet: &[u8],
    client: SocketAddr,
) {
    match examine(packet) {
        Verdict::Ignore => {}
        Verdict::Answer(answer) => {
            // A full buffer loses the answer, as a busy network would.
            let _ = service.udp.try_send_to(&answer, client);
        }
        Verdict::Forward(query) => {
            let service = Arc::clone(service);
            let answering = async move {
                let answer = resolve(&service, &query, Transport::Datagram).await;
                let _ = service.udp.try_send_to(&answer, client);
                drop(permit);
            };
            tasks.spawn(answering.in_current_span());
        }
    }
}

async fn serve_stream(service: &Service, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let packet = timeout(STREAM_IDLE, read_query(&mut stream)).await??;
        let answer = match examine(&packet) {
            Verdict::Ignore => return Ok(()),
            Verdict::Answer(answer) => answer,
            Verdict::Forward(query) => {
                let _permit = timeout(STREAM_IDLE, acquire(&service.in_flight)).await??;
                resolve(service, &query, Transport::Stream).await
            }
        };
        timeout(STREAM_IDLE, write_message(&mut stream, &answer)).await??;
    }
}

async fn read_query(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > QUERY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

async fn resolve(service: &Service, query: &Query, transport: Transport) -> Vec<u8> {
    match ask(query, &service.resolvers, transport).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%error, "no resolver answered a sandbox");
            query.failed(Failure::Server)
        }
    }
}
