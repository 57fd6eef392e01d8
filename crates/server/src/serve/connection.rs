//! Accepting connections and speaking HTTP on them.

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::MapRequest;

use super::{forwarded::Peer, held::Held, stop::Stop};
use crate::config::Server;

/// Longest head of a request, bytes; what does not fit is answered with 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Pause after a failed accept (out of descriptors): time for others to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Data that the peer does not take for so long ends the connection.
const UNACKNOWLEDGED_MS_MAX: u32 = 120_000;

/// Serves until told to stop, then lets running requests end within the grace.
///
/// # Errors
/// When the listener cannot be used.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    server: &Server,
    stop: &Stop,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let free = Arc::new(Semaphore::new(server.connections_max));
    // The end of HTTP on a connection is waited for, that of a websocket is not.
    let (connections, ending) = (TaskTracker::new(), CancellationToken::new());
    // Not `pipeline_flush`: it copies every answer into one buffer that was seen
    // to double with each large download and is never given back.
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(server.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    loop {
        let next = async {
            // First the place: what is above the bound waits in the kernel's queue.
            let place = Arc::clone(&free).acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (place, (stream, peer)) = tokio::select! {
            next = next => next,
            () = stop.requested() => break,
        };
        let service = TowerToHyperService::new(MapRequest::new(
            router.clone(),
            move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(peer);
                request
            },
        ));
        // A semaphore that is never closed always gives a place.
        let stream = place.map(|place| TokioIo::new(Held::new(stream, place)));
        let Ok(stream) = stream else { break };
        let connection = http.serve_connection(stream, service).with_upgrades();
        let ending = ending.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = ending.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                // The peer went away or spoke no HTTP; nothing to do about it here.
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    ending.cancel();
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = tokio::time::sleep(server.shutdown_grace) => {
            tracing::info!("requests are still running after the grace period; ending them");
        }
        () = stop.at_once() => {}
    }
    Ok(())
}

async fn accept(listener: &tokio::net::TcpListener) -> (TcpStream, Peer) {
    loop {
        let error = match listener.accept().await {
            Ok((stream, peer)) => match prepare(&stream) {
                Ok(()) => return (stream, Peer(peer)),
                Err(error) => error,
            },
            Err(error) => error,
        };
        let peer_gone = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::NotConnected
        );
        if !peer_gone {
            tracing::error!(%error, "cannot accept a connection; are there too few file descriptors?");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Answers go out at once, and peers that vanished are noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX)?;
    Ok(())
}
