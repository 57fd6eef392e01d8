//! Ports: whatever a test lets listen there.

use std::{collections::BTreeMap, fmt, sync::Arc};

use agent_protocol::{FailureKind, Reply};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::{Closed, Connection, FakeAgent};

/// Bytes on their way in each direction.
const STREAM_BYTES: usize = 64 << 10;

type Service = Arc<dyn Fn(DuplexStream) + Send + Sync>;

/// What listens.
#[derive(Default)]
pub(super) struct Ports(BTreeMap<u16, Service>);

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FakeAgent {
    /// Lets a service listen on a port: it gets each connection, and spawns what serves it.
    pub fn listen(&self, port: u16, service: impl Fn(DuplexStream) + Send + Sync + 'static) {
        self.state().ports.0.insert(port, Arc::new(service));
    }
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    /// Joins the connection to one to a service; it serves no other request.
    pub(super) async fn connect_port(&mut self, port: u16) -> Result<(), Closed> {
        let raw = self.raw.take().ok_or(Closed)?;
        let mut reader = raw.await.map_err(|_| Closed)?;
        let service = self.agent.state().ports.0.get(&port).cloned();
        let Some(service) = service else {
            let message = format!("nothing listens on port {port} of the sandbox");
            self.fail(FailureKind::NotFound, message).await?;
            return Err(Closed);
        };
        self.reply(&Reply::Connected).await?;
        let (ours, theirs) = tokio::io::duplex(STREAM_BYTES);
        service(theirs);
        let (mut from, mut to) = tokio::io::split(ours);
        let up = async {
            tokio::io::copy(&mut reader, &mut to).await?;
            to.shutdown().await
        };
        let down = async {
            tokio::io::copy(&mut from, &mut self.writer).await?;
            self.writer.shutdown().await
        };
        let _either_may_fail = tokio::join!(up, down);
        Err(Closed)
    }
}
