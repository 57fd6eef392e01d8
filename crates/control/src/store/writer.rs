//! The thread that writes: it takes what has queued up and commits it together.

use std::{path::PathBuf, thread};

use sandbox::Id;
use tokio::sync::{mpsc, oneshot};

use super::{Change, Memory, StoreError, database::Database};
use crate::EventRecord;

/// Changes in one transaction.
const BATCH_MAX: usize = 64;
/// Changes after which the log is shortened even if it is not a quiet moment.
const CHANGES_PER_CHECKPOINT_MAX: usize = 20_000;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Carry out a change; tell whether it was written.
    Write(Change, Option<oneshot::Sender<Result<(), StoreError>>>),
    /// Read the log of a sandbox.
    Events {
        id: Id,
        after: i64,
        limit: usize,
        done: oneshot::Sender<Result<Vec<EventRecord>, StoreError>>,
    },
    /// Shorten the write-ahead log if there is anything in it.
    Tidy,
    /// Close the file and end.
    Close(oneshot::Sender<()>),
}

/// A change, and who waits for it.
type Waiting = (Change, Option<oneshot::Sender<Result<(), StoreError>>>);

/// Opens the store in a thread of its own, which then serves the queue until it is closed.
pub(super) async fn start(
    path: PathBuf,
    queue: mpsc::Receiver<Order>,
) -> Result<Memory, StoreError> {
    let (opened, memory) = oneshot::channel();
    let work = move || match Database::open(&path) {
        Ok((database, memory)) => {
            if opened.send(Ok(memory)).is_ok() {
                serve(database, queue);
            }
        }
        // Nobody waits any more: there is nobody to tell.
        Err(error) => drop(opened.send(Err(error))),
    };
    thread::Builder::new()
        .name("store".to_owned())
        .spawn(work)
        .map_err(StoreError::Thread)?;
    memory.await.map_err(|_| StoreError::Closed)?
}

fn serve(mut database: Database, mut queue: mpsc::Receiver<Order>) {
    let mut since_checkpoint = 0;
    let mut closing = None;
    while closing.is_none() {
        let Some(mut order) = queue.blocking_recv() else {
            break;
        };
        let mut batch: Vec<Waiting> = Vec::new();
        // Take the changes that are there already; anything else ends the batch,
        // so that everything happens in the order in which it was asked for.
        let other = loop {
            match order {
                Order::Write(change, done) => batch.push((change, done)),
                other => break Some(other),
            }
            match queue.try_recv() {
                Ok(next) if batch.len() < BATCH_MAX => order = next,
                Ok(next) => break Some(next),
                Err(_) => break None,
            }
        };
        since_checkpoint += batch.len();
        write(&mut database, batch);
        match other {
            Some(Order::Write(change, done)) => {
                since_checkpoint += 1;
                write(&mut database, vec![(change, done)]);
            }
            Some(Order::Events {
                id,
                after,
                limit,
                done,
            }) => drop(done.send(database.events(&id, after, limit))),
            Some(Order::Tidy) if since_checkpoint > 0 => {
                database.checkpoint();
                since_checkpoint = 0;
            }
            Some(Order::Tidy) | None => {}
            Some(Order::Close(done)) => closing = Some(done),
        }
        if since_checkpoint >= CHANGES_PER_CHECKPOINT_MAX {
            database.checkpoint();
            since_checkpoint = 0;
        }
    }
    database.checkpoint();
    drop(database);
    if let Some(done) = closing {
        // Told only now: the file is closed and its lock is free.
        done.send(()).ok();
    }
}

/// Writes a batch; if it fails as a whole, each change alone, so that one bad
/// change spoils no other.
fn write(database: &mut Database, batch: Vec<Waiting>) {
    if batch.is_empty() {
        return;
    }
    let alone = batch.len() == 1;
    let changes: Vec<&Change> = batch.iter().map(|(change, _)| change).collect();
    match database.write(&changes) {
        Ok(()) => {
            for (_, done) in batch {
                // Whoever asked may have gone.
                done.map_or(Ok(()), |done| done.send(Ok(()))).ok();
            }
        }
        Err(error) if alone => match batch.into_iter().next() {
            Some((_, Some(done))) => drop(done.send(Err(error))),
            // What was to be recorded is not logged: it may hold an environment.
            _ => tracing::error!(%error, "a change was not recorded"),
        },
        Err(_) => {
            for waiting in batch {
                write(database, vec![waiting]);
            }
        }
    }
}
