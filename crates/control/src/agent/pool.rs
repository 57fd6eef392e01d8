//! Idle connections to the agent of one sandbox, to save connecting.

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use sandbox::AgentStream;
use tokio::io::{AsyncRead, ReadBuf};

/// Idle connections of one sandbox: each costs the agent memory too.
const IDLE_MAX: usize = 4;

/// Idle connections.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    streams: Vec<AgentStream>,
    closed: bool,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection on which nothing is under way, if there is one.
    pub(super) fn take(&self) -> Option<AgentStream> {
        loop {
            let mut stream = self.lock().streams.pop()?;
            if is_quiet(&mut stream) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection whose conversation has ended.
    pub(super) fn put(&self, stream: AgentStream) {
        let mut idle = self.lock();
        if !idle.closed && idle.streams.len() < IDLE_MAX {
            idle.streams.push(stream);
        }
    }

    /// Keeps connections again, to the new agent of a sandbox that is started again.
    pub(crate) fn open(&self) {
        self.lock().closed = false;
    }

    /// Closes all connections, and keeps none from here on.
    pub(crate) fn close(&self) {
        let mut idle = self.lock();
        idle.closed = true;
        idle.streams.clear();
    }
}

/// Whether the agent has neither closed an idle connection nor said anything on it.
fn is_quiet(stream: &mut AgentStream) -> bool {
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut context = Context::from_waker(Waker::noop());
    matches!(
        Pin::new(stream).poll_read(&mut context, &mut buffer),
        Poll::Pending
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn only_quiet_connections_are_used_again() {
        let pool = Pool::default();
        let (quiet, _kept) = tokio::io::duplex(16);
        let (closed, _) = tokio::io::duplex(16);
        let (talking, mut agent) = tokio::io::duplex(16);
        agent.write_all(b"hello").await.unwrap();
        for stream in [quiet, closed, talking] {
            pool.put(Box::new(stream));
        }
        assert!(pool.take().is_some());
        assert!(pool.take().is_none());
    }

    #[tokio::test]
    async fn few_connections_are_kept_and_none_after_the_end() {
        let pool = Pool::default();
        let mut kept = Vec::new();
        let mut put = |pool: &Pool| {
            let (stream, other) = tokio::io::duplex(16);
            kept.push(other);
            pool.put(Box::new(stream));
        };
        for _ in 0..IDLE_MAX + 3 {
            put(&pool);
        }
        assert_eq!(pool.lock().streams.len(), IDLE_MAX);
        pool.close();
        put(&pool);
        assert!(pool.take().is_none());
    }
}
