//! The SQLite file itself: opening, changing, reading. Blocking.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use sandbox::{Id, Lease, Limits, RuntimeClass, State};

use super::{Change, Memory, Note, StoreError, rows, schema::MIGRATIONS};
use crate::{EventRecord, Sandbox, Tombstone, lifecycle::final_state, registry::KeyUse};

/// How long to wait for a server that is just ending.
const LOCK_TIME_MAX: Duration = Duration::from_secs(3);
/// Marks the file as ours, so that no foreign database is touched: "SbAI".
const APPLICATION_ID: i64 = 0x5362_4149;
/// Events kept of one sandbox.
const EVENTS_PER_SANDBOX_MAX: i64 = 1000;
/// The environment may hold secrets: nobody else reads the file.
const FILE_MODE: u32 = 0o600;

/// An open store.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    connection: Connection,
}

impl Database {
    /// Opens or makes the file, takes its lock, migrates it and reads it.
    pub(super) fn open(path: &Path) -> Result<(Self, Memory), StoreError> {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(path)
            .map_err(|source| StoreError::Open {
                path: path.to_owned(),
                source,
            })?;
        let explain = |error| explain(path, error);
        let connection = Connection::open(path).map_err(explain)?;
        lock(&connection).map_err(explain)?;
        let mut database = Self {
            path: path.to_owned(),
            connection,
        };
        database.check()?;
        database.migrate()?;
        let memory = database.memory().map_err(|error| StoreError::Damaged {
            path: path.to_owned(),
            detail: error.to_string(),
        })?;
        Ok((database, memory))
    }

    fn pragma(&self, name: &str) -> Result<i64, StoreError> {
        let value = |row: &rusqlite::Row<'_>| row.get(0);
        self.connection
            .pragma_query_value(None, name, value)
            .map_err(|error| explain(&self.path, error))
    }

    fn check(&self) -> Result<(), StoreError> {
        let damaged = |detail: String| StoreError::Damaged {
            path: self.path.clone(),
            detail,
        };
        let (application, version) = (self.pragma("application_id")?, self.pragma("user_version")?);
        if application != APPLICATION_ID && (application != 0 || version != 0) {
            return Err(damaged("it belongs to another program".to_owned()));
        }
        let verdict: String = self
            .connection
            .pragma_query_value(None, "quick_check", |row| row.get(0))
            .map_err(|error| explain(&self.path, error))?;
        match verdict.as_str() {
            "ok" => Ok(()),
            _ => Err(damaged(verdict)),
        }
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let found = self.pragma("user_version")?;
        let known = rows::integer(MIGRATIONS.len() as u64);
        let done = usize::try_from(found).unwrap_or(usize::MAX);
        if done > MIGRATIONS.len() {
            let path = self.path.clone();
            return Err(StoreError::Newer { path, found, known });
        }
        for (from, migration) in MIGRATIONS.iter().enumerate().skip(done) {
            let step = |transaction: Transaction<'_>| {
                transaction.execute_batch(migration)?;
                transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
                transaction.pragma_update(None, "user_version", rows::integer(from as u64 + 1))?;
                transaction.commit()
            };
            self.connection
                .transaction()
                .and_then(step)
                .map_err(|source| StoreError::Migrate {
                    path: self.path.clone(),
                    from: rows::integer(from as u64),
                    source,
                })?;
        }
        Ok(())
    }

    fn memory(&self) -> rusqlite::Result<Memory> {
        let sandboxes = format!(
            "SELECT {} FROM sandboxes ORDER BY ended_ms, created_ms",
            rows::SANDBOX_COLUMNS
        );
        let keys = format!(
            "SELECT {} FROM idempotency ORDER BY created_ms",
            rows::KEY_COLUMNS
        );
        Ok(Memory {
            sandboxes: self
                .connection
                .prepare(&sandboxes)?
                .query_map([], rows::stored)?
                .collect::<rusqlite::Result<_>>()?,
            keys: self
                .connection
                .prepare(&keys)?
                .query_map([], rows::key)?
                .collect::<rusqlite::Result<_>>()?,
        })
    }

    /// Carries out all changes in one transaction.
    pub(super) fn write(&mut self, changes: &[&Change]) -> Result<(), StoreError> {
        let write = |transaction: Transaction<'_>| {
            for change in changes {
                apply(&transaction, change)?;
            }
            transaction.commit()
        };
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(write)
            .map_err(|source| StoreError::Write {
                path: self.path.clone(),
                source,
            })
    }

    /// The log of a sandbox after an entry.
    pub(super) fn events(
        &self,
        id: &Id,
        after: i64,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let read = || -> rusqlite::Result<Vec<EventRecord>> {
            self.connection
                .prepare_cached(
                    "SELECT sequence, at_ms, event, detail FROM events \
                     WHERE sandbox = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3",
                )?
                .query_map(
                    params![id.as_str(), after, rows::integer(limit as u64)],
                    rows::event,
                )?
                .collect()
        };
        read().map_err(|source| StoreError::Read {
            path: self.path.clone(),
            source,
        })
    }

    /// Moves what was written from the write-ahead log into the file, synced.
    pub(super) fn checkpoint(&self) {
        let moved = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = moved {
            // Nothing is lost: the log is read on opening, it only stays long.
            tracing::warn!(%error, path = %self.path.display(), "cannot shorten the store's log");
        }
    }
}

/// Takes the file for this process alone, and sets how it is written.
fn lock(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_TIME_MAX)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The writer shortens the log itself, at quiet moments.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // Little is read twice: 512 KiB instead of 2 MiB.
    connection.pragma_update(None, "cache_size", -512)?;
    // The lock is taken by the first write.
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}

/// What a SQLite error on opening means.
fn explain(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse { path },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Damaged {
            path,
            detail: error.to_string(),
        },
        _ => StoreError::Sqlite {
            path,
            source: error,
        },
    }
}

fn apply(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Creating { sandbox, key } => {
            insert(transaction, sandbox)?;
            key.as_ref()
                .map_or(Ok(()), |key| insert_key(transaction, key))
        }
        Change::Moved {
            id,
            state,
            active_ms,
            stopped,
            note,
        } => {
            transaction
                .prepare_cached(
                    "UPDATE sandboxes SET state = ?2, active_ms = ?3, stopped_ms = ?4, fault = ?5 \
                     WHERE id = ?1",
                )?
                .execute(params![
                    id.as_str(),
                    state.as_str(),
                    active_ms,
                    stopped.as_ref().map(|stop| stop.at_ms),
                    stopped.as_ref().and_then(|stop| stop.fault.as_deref()),
                ])?;
            log(transaction, id, note)
        }
        Change::Active(news) => {
            let mut update =
                transaction.prepare_cached("UPDATE sandboxes SET active_ms = ?2 WHERE id = ?1")?;
            for (id, active_ms) in news {
                update.execute(params![id.as_str(), active_ms])?;
            }
            Ok(())
        }
        Change::Respecified { id, lease, limits } => respecify(transaction, id, lease, limits),
        Change::Ending { id, reason } => {
            transaction
                .prepare_cached(
                    "UPDATE sandboxes SET state = ?2, end_reason = ?3, end_detail = ?4 WHERE id = ?1",
                )?
                .execute(params![
                    id.as_str(),
                    State::Stopping.as_str(),
                    reason.as_str(),
                    reason.detail()
                ])?;
            Ok(())
        }
        Change::Described {
            id,
            labels,
            annotations,
        } => {
            transaction
                .prepare_cached("UPDATE sandboxes SET labels = ?2, annotations = ?3 WHERE id = ?1")?
                .execute(params![
                    id.as_str(),
                    rows::texts(labels),
                    rows::texts(annotations)
                ])?;
            Ok(())
        }
        Change::Ended { sandbox, tombstone } => end(transaction, sandbox, tombstone),
        Change::Noted { id, note } => log(transaction, id, note),
        Change::Pruned { before_ms } => prune(transaction, *before_ms),
    }
}

fn insert(transaction: &Transaction<'_>, sandbox: &Sandbox) -> rusqlite::Result<()> {
    let spec = &sandbox.spec;
    transaction
        .prepare_cached(
            "INSERT INTO sandboxes (id, space, name, image_requested, image, env, memory_bytes, \
             cpu_millis, pids, network, idle_ms, lifetime_ms, state, created_ms, active_ms, \
             labels, annotations, stop_idle_ms, pause_idle_ms, archive_stopped_ms, \
             delete_stopped_ms, runtime_class) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
             ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
        )?
        .execute(params![
            sandbox.id.as_str(),
            sandbox.space.as_str(),
            sandbox.name.as_str(),
            sandbox.image_requested,
            spec.image.as_str(),
            rows::texts(&spec.env),
            rows::integer(spec.limits.memory_bytes),
            spec.limits.cpu_millis,
            spec.limits.pids,
            spec.network.as_str(),
            spec.lease.idle_timeout.map(rows::millis),
            spec.lease.lifetime_max.map(rows::millis),
            sandbox.state.as_str(),
            sandbox.created_ms,
            sandbox.active_ms,
            rows::texts(&sandbox.labels),
            rows::texts(&sandbox.annotations),
            spec.lease.stop_after_idle.map(rows::millis),
            spec.lease.pause_after_idle.map(rows::millis),
            spec.lease.archive_after_stop.map(rows::millis),
            spec.lease.delete_after_stop.map(rows::millis),
            spec.runtime_class.as_ref().map(RuntimeClass::as_str),
        ])?;
    Ok(())
}

fn respecify(
    transaction: &Transaction<'_>,
    id: &Id,
    lease: &Lease,
    limits: &Limits,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "UPDATE sandboxes SET idle_ms = ?2, lifetime_ms = ?3, stop_idle_ms = ?4, \
             pause_idle_ms = ?5, archive_stopped_ms = ?6, delete_stopped_ms = ?7, \
             memory_bytes = ?8, cpu_millis = ?9, pids = ?10 WHERE id = ?1",
        )?
        .execute(params![
            id.as_str(),
            lease.idle_timeout.map(rows::millis),
            lease.lifetime_max.map(rows::millis),
            lease.stop_after_idle.map(rows::millis),
            lease.pause_after_idle.map(rows::millis),
            lease.archive_after_stop.map(rows::millis),
            lease.delete_after_stop.map(rows::millis),
            rows::integer(limits.memory_bytes),
            limits.cpu_millis,
            limits.pids,
        ])?;
    Ok(())
}

fn end(
    transaction: &Transaction<'_>,
    sandbox: &Sandbox,
    tombstone: &Tombstone,
) -> rusqlite::Result<()> {
    let Tombstone { reason, ended_ms } = tombstone;
    let (id, state) = (sandbox.id.as_str(), final_state(reason));
    // A tombstone needs nothing that may hold secrets.
    let mut update = transaction.prepare_cached(
        "UPDATE sandboxes SET state = ?2, end_reason = ?3, end_detail = ?4, \
         ended_ms = ?5, env = '{}', annotations = '{}', stopped_ms = NULL, fault = NULL WHERE id = ?1",
    )?;
    let values = params![
        id,
        state.as_str(),
        reason.as_str(),
        reason.detail(),
        ended_ms
    ];
    if update.execute(values)? == 0 {
        insert(transaction, sandbox)?;
        update.execute(values)?;
    }
    if state == State::Failed {
        // A creation that failed may be tried again with its key.
        transaction
            .prepare_cached("DELETE FROM idempotency WHERE sandbox = ?1")?
            .execute([id])?;
    }
    let note = Note {
        at_ms: *ended_ms,
        event: "ended",
        detail: Some(reason.to_string()),
    };
    log(transaction, &sandbox.id, &note)
}

fn insert_key(transaction: &Transaction<'_>, key: &KeyUse) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO idempotency (space, key, fingerprint, sandbox, name, created_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            key.space.as_str(),
            key.key,
            key.fingerprint,
            key.id.as_str(),
            key.name.as_str(),
            key.created_ms
        ])?;
    Ok(())
}

fn log(transaction: &Transaction<'_>, id: &Id, note: &Note) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO events (sandbox, at_ms, event, detail) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![id.as_str(), note.at_ms, note.event, note.detail])?;
    Ok(())
}

fn prune(transaction: &Transaction<'_>, before_ms: i64) -> rusqlite::Result<()> {
    for statement in [
        "DELETE FROM events WHERE sandbox IN (SELECT id FROM sandboxes WHERE ended_ms < ?1)",
        "DELETE FROM sandboxes WHERE ended_ms < ?1",
        "DELETE FROM idempotency WHERE created_ms < ?1",
    ] {
        transaction.execute(statement, [before_ms])?;
    }
    transaction.execute(
        "DELETE FROM events WHERE EXISTS (SELECT 1 FROM (SELECT sandbox, sequence, \
         row_number() OVER (PARTITION BY sandbox ORDER BY sequence DESC) AS place FROM events) \
         AS ranked WHERE ranked.sequence = events.sequence AND ranked.place > ?1)",
        [EVENTS_PER_SANDBOX_MAX],
    )?;
    Ok(())
}
