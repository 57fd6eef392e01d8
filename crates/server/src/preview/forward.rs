//! One request over one connection to the application.
//!
//! Connections inside are not kept for the next request: each one counts as
//! work in its sandbox as long as it is open.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::Request, http::StatusCode, response::Response};
use control::PortStream;
use facade_daytona::tunnel::{Pulse, Watched, carry};
use hyper::{
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    client::conn::http1,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::slots::Slot;

/// Longest head of an answer, bytes.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// Headers of an answer.
const HEADERS_MAX: usize = 256;

/// A connection inside and what ends with it.
#[derive(Debug)]
struct Lane {
    running: JoinHandle<()>,
    pulse: Pulse,
    _slot: Slot,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Sends a request and returns the answer, whose body comes as it is read.
/// The connection ends with the body, or when nothing moves for `idle_max`.
///
/// # Errors
/// When the application does not speak HTTP, or ends the connection.
pub(super) async fn forward(
    stream: PortStream,
    slot: Slot,
    idle_max: Duration,
    mut request: Request,
) -> hyper::Result<Response> {
    let visitor = request.extensions_mut().remove::<OnUpgrade>();
    let pulse = Pulse::new();
    let stream = TokioIo::new(Watched::new(stream, pulse.clone()));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(stream)
        .await?;
    let watch = pulse.clone();
    let run = async move {
        tokio::select! {
            ended = connection.with_upgrades() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to a port ended");
                }
            }
            () = watch.stops(idle_max) => {}
        }
    };
    let running = tokio::spawn(run.in_current_span());
    let lane = Lane {
        running,
        pulse,
        _slot: slot,
    };
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let application = hyper::upgrade::on(&mut response);
        if let Some(visitor) = visitor {
            tokio::spawn(tunnel(visitor, application, lane, idle_max));
        }
        return Ok(response.map(|_| Body::empty()));
    }
    Ok(response.map(|body| Body::new(Carried { body, _lane: lane })))
}

/// The body of an answer, together with the connection that it comes by.
#[derive(Debug)]
struct Carried {
    body: Incoming,
    _lane: Lane,
}

impl HttpBody for Carried {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Carries bytes between both until they end.
async fn tunnel(visitor: OnUpgrade, application: OnUpgrade, lane: Lane, idle_max: Duration) {
    let Ok((visitor, application)) = tokio::try_join!(visitor, application) else {
        return;
    };
    tokio::select! {
        () = carry(TokioIo::new(visitor), TokioIo::new(application)) => {}
        () = lane.pulse.stops(idle_max) => {}
    }
}
