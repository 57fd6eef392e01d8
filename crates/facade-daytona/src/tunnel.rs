//! Two connections that carry each other's bytes, and the end of connections on
//! which nothing moves any more.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy, split},
    time::Instant,
};

/// How long one side of a tunnel may go on when the other has ended.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(30);

/// Carries bytes between both until they end. Where one is done, the other may
/// finish what it was saying.
pub async fn carry<A, B>(here: A, there: B)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut from_here, mut to_here) = split(here);
    let (mut from_there, mut to_there) = split(there);
    let mut away = std::pin::pin!(async {
        let _carried = copy(&mut from_here, &mut to_there).await;
        let _closed = to_there.shutdown().await;
    });
    let mut back = std::pin::pin!(async {
        let _carried = copy(&mut from_there, &mut to_here).await;
        let _closed = to_here.shutdown().await;
    });
    tokio::select! {
        () = &mut away => drop(tokio::time::timeout(HALF_CLOSED_MAX, back).await),
        () = &mut back => drop(tokio::time::timeout(HALF_CLOSED_MAX, away).await),
    }
}

/// When something last moved on a connection.
#[derive(Clone, Debug)]
pub struct Pulse {
    begun: Instant,
    moved_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// Begins now.
    #[expect(
        clippy::new_without_default,
        reason = "it begins, which no default does"
    )]
    #[must_use]
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            moved_ms: Arc::default(),
        }
    }

    fn beat(&self) {
        let elapsed = self.begun.elapsed().as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.moved_ms.store(elapsed, Ordering::Relaxed);
    }

    /// Waits until nothing has moved for `longest`.
    pub async fn stops(&self, longest: Duration) {
        loop {
            let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
            let end = self.begun + moved + longest;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// A stream that tells its pulse.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    pulse: Pulse,
}

impl<S> Watched<S> {
    /// Watches a stream.
    #[must_use]
    pub fn new(stream: S, pulse: Pulse) -> Self {
        Self { stream, pulse }
    }

    fn beat_if<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Ok(_)) = &poll {
            self.pulse.beat();
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.beat_if(poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.beat_if(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test(start_paused = true)]
    async fn a_pulse_stops_when_nothing_moves() {
        let longest = Duration::from_secs(60);
        let begun = Instant::now();
        let pulse = Pulse::new();
        let (here, mut there) = tokio::io::duplex(16);
        let mut watched = Watched::new(here, pulse.clone());
        let moving = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                there.write_all(b"x").await.unwrap();
                watched.read_u8().await.unwrap();
            }
        };
        tokio::join!(moving, pulse.stops(longest));
        assert_eq!(begun.elapsed().as_secs(), 5 * 50 + 60);
    }

    #[tokio::test(start_paused = true)]
    async fn one_side_may_finish_when_the_other_has_ended() {
        let (mut visitor, here) = tokio::io::duplex(16);
        let (there, mut application) = tokio::io::duplex(16);
        let carrying = tokio::spawn(carry(here, there));
        visitor.write_all(b"question").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut asked = String::new();
        application.read_to_string(&mut asked).await.unwrap();
        application.write_all(b"answer").await.unwrap();
        drop(application);
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).await.unwrap();
        assert_eq!((asked.as_str(), answer.as_str()), ("question", "answer"));
        carrying.await.unwrap();
    }
}
