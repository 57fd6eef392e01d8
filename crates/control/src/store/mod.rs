//! What must survive the server: one SQLite file, one thread that writes it.
//!
//! Nothing is read from it while the server runs, except logs of events: the
//! registry answers from memory. Writes go through a bounded queue to the
//! writer thread, which commits what has queued up in one transaction. A commit
//! reaches the kernel (it survives SIGKILL) but is not synced to the disk, so a
//! creation never waits for the disk; a power failure can lose the last
//! moments, and so are the sandboxes themselves then.
//!
//! The file is locked for as long as the server lives; the lock goes with the
//! process, also on SIGKILL.

mod database;
mod rows;
mod schema;
mod writer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use sandbox::{EndReason, Error, Id, Lease, Limits, Result, State};
use tokio::sync::{mpsc, oneshot};

use crate::{EventRecord, Sandbox, Stop, Tombstone, registry::KeyUse};

#[cfg(test)]
use database::Database;
use writer::Order;

/// Writes that may wait for the writer thread.
const QUEUE_LENGTH: usize = 1024;

/// How long to wait for the writer thread.
const WAIT_TIME_MAX: Duration = Duration::from_secs(20);

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open the store {path}: {source}; check that its folder exists and is writable")]
    Open {
        path: PathBuf,
        source: std::io::Error,
    },
    /// SQLite cannot open it.
    #[error("cannot open the store {path}: {source}")]
    Sqlite {
        path: PathBuf,
        source: rusqlite::Error,
    },
    /// Another server has it.
    #[error(
        "the store {path} is in use by another server; stop that one, or give this one a store of its own"
    )]
    InUse { path: PathBuf },
    /// It is not a store, or not whole.
    #[error(
        "the store {path} is damaged or not a store ({detail}); move it and its -wal file away and start again: sandboxes that it listed will then be removed"
    )]
    Damaged { path: PathBuf, detail: String },
    /// It was written by a newer program.
    #[error(
        "the store {path} has schema {found}, this program knows up to {known}; use the newer program, or a store of its own for this one"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    /// A migration failed.
    #[error("cannot bring the store {path} from schema {from} to the next: {source}")]
    Migrate {
        path: PathBuf,
        from: i64,
        source: rusqlite::Error,
    },
    /// A write failed.
    #[error("cannot write to the store {path}: {source}; check the space on its disk")]
    Write {
        path: PathBuf,
        source: rusqlite::Error,
    },
    /// A read failed.
    #[error("cannot read from the store {path}: {source}")]
    Read {
        path: PathBuf,
        source: rusqlite::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread that writes the store: {0}")]
    Thread(std::io::Error),
    /// The disk hangs, or far too much is written.
    #[error("the store did not answer within {WAIT_TIME_MAX:?}; check the disk it is on")]
    Slow,
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::InUse { .. } => Self::conflict(message),
            StoreError::Slow => Self::timeout(message),
            StoreError::Closed => Self::unavailable("the server is shutting down"),
            other => Self::internal(message).with_source(other),
        }
    }
}

/// An entry for a sandbox's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) at_ms: i64,
    pub(crate) event: &'static str,
    pub(crate) detail: Option<String>,
}

/// A change of what is stored; carried out whole or not at all.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A sandbox is about to be made.
    Creating {
        sandbox: Box<Sandbox>,
        key: Option<KeyUse>,
    },
    /// A sandbox came into another state.
    Moved {
        id: Id,
        state: State,
        active_ms: i64,
        /// Since when it has no processes.
        stopped: Option<Stop>,
        note: Note,
    },
    /// What callers and facades remember about a sandbox changed.
    Described {
        id: Id,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    },
    /// When sandboxes were last active, milliseconds since the epoch.
    Active(Vec<(Id, i64)>),
    /// A sandbox got another lease, or other limits.
    Respecified {
        id: Id,
        lease: Lease,
        limits: Limits,
    },
    /// A sandbox is about to be removed.
    Ending { id: Id, reason: EndReason },
    /// A sandbox was removed; it may have ended before it was ever recorded.
    Ended {
        sandbox: Box<Sandbox>,
        tombstone: Tombstone,
    },
    /// Something happened that changes no state.
    Noted { id: Id, note: Note },
    /// Forget what is older.
    Pruned { before_ms: i64 },
}

/// A sandbox as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// With its tombstone, if it has ended.
    pub(crate) sandbox: Sandbox,
    /// Why it was about to be removed, if it was.
    pub(crate) ending: Option<EndReason>,
}

/// Everything that an earlier life of the server left.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Sandboxes, living and ended, in order of their end and creation.
    pub(crate) sandboxes: Vec<Stored>,
    /// Used keys, the oldest first.
    pub(crate) keys: Vec<KeyUse>,
}

/// The store; all clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Store(Lane);

#[derive(Clone, Debug)]
enum Lane {
    Thread(mpsc::Sender<Order>),
    /// Without the thread: tests that pause tokio's clock cannot wait for one,
    /// since the clock runs ahead whenever all tasks wait.
    #[cfg(test)]
    Inline(std::sync::Arc<std::sync::Mutex<Database>>),
}

impl Store {
    /// Opens or makes the store at `path` and reads what is in it.
    ///
    /// # Errors
    /// When it cannot be opened, is in use, damaged or newer than this program.
    pub(crate) async fn open(path: &Path) -> Result<(Self, Memory), StoreError> {
        let (orders, queue) = mpsc::channel(QUEUE_LENGTH);
        let memory = writer::start(path.to_owned(), queue).await?;
        Ok((Self(Lane::Thread(orders)), memory))
    }

    /// Opens the store without a thread.
    #[cfg(test)]
    pub(crate) fn open_inline(path: &Path) -> Result<(Self, Memory), StoreError> {
        let (database, memory) = Database::open(path)?;
        let database = std::sync::Arc::new(std::sync::Mutex::new(database));
        Ok((Self(Lane::Inline(database)), memory))
    }

    /// Carries out a change and waits until it survives the server.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn write(&self, change: Change) -> Result<()> {
        match &self.0 {
            Lane::Thread(orders) => {
                let (done, written) = oneshot::channel();
                send(orders, Order::Write(change, Some(done))).await?;
                answer(written).await?
            }
            #[cfg(test)]
            Lane::Inline(database) => database.lock().unwrap().write(&[&change]),
        }
        .map_err(Error::from)
    }

    /// Carries out a change after all earlier ones, without waiting for it. A
    /// failure is logged: whatever is lost so, a restart finds out.
    pub(crate) async fn submit(&self, change: Change) {
        let sent = match &self.0 {
            Lane::Thread(orders) => send(orders, Order::Write(change, None)).await,
            #[cfg(test)]
            Lane::Inline(database) => database.lock().unwrap().write(&[&change]),
        };
        if let Err(error) = sent {
            tracing::error!(%error, "a change was not recorded");
        }
    }

    /// The log of a sandbox after an entry, the oldest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn events(
        &self,
        id: Id,
        after: i64,
        limit: usize,
    ) -> Result<Vec<EventRecord>> {
        match &self.0 {
            Lane::Thread(orders) => {
                let (done, read) = oneshot::channel();
                let order = Order::Events {
                    id,
                    after,
                    limit,
                    done,
                };
                send(orders, order).await?;
                answer(read).await?
            }
            #[cfg(test)]
            Lane::Inline(database) => database.lock().unwrap().events(&id, after, limit),
        }
        .map_err(Error::from)
    }

    /// Moves what was written from the log into the file proper, in its turn.
    pub(crate) async fn tidy(&self) {
        match &self.0 {
            // A closed store needs no tidying.
            Lane::Thread(orders) => drop(send(orders, Order::Tidy).await),
            #[cfg(test)]
            Lane::Inline(_) => {}
        }
    }

    /// Carries out what has queued up and closes the file.
    pub(crate) async fn close(&self) {
        match &self.0 {
            Lane::Thread(orders) => {
                let (done, closed) = oneshot::channel();
                if send(orders, Order::Close(done)).await.is_ok() {
                    // An error means that the writer is gone, which is what was
                    // wanted, or that it hangs, and nobody can wait for ever.
                    let _gone = answer(closed).await;
                }
            }
            #[cfg(test)]
            Lane::Inline(_) => {}
        }
    }
}

async fn send(orders: &mpsc::Sender<Order>, order: Order) -> Result<(), StoreError> {
    let sent = tokio::time::timeout(WAIT_TIME_MAX, orders.send(order)).await;
    sent.map_err(|_| StoreError::Slow)?
        .map_err(|_| StoreError::Closed)
}

async fn answer<T>(answer: oneshot::Receiver<T>) -> Result<T, StoreError> {
    let answered = tokio::time::timeout(WAIT_TIME_MAX, answer).await;
    answered
        .map_err(|_| StoreError::Slow)?
        .map_err(|_| StoreError::Closed)
}

#[cfg(test)]
mod tests;
