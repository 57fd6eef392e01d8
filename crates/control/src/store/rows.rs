//! Rows to words and back.

use std::{collections::BTreeMap, fmt::Display, str::FromStr, time::Duration};

use rusqlite::{
    Row,
    types::{Type, ValueRef},
};
use sandbox::{EndReason, Lease, Limits, Spec, State};

use super::Stored;
use crate::{EventRecord, Sandbox, Stop, Tombstone, registry::KeyUse};

/// The columns that [`stored`] reads, in their order.
pub(super) const SANDBOX_COLUMNS: &str = "id, space, name, image_requested, image, env, \
    memory_bytes, cpu_millis, pids, network, idle_ms, lifetime_ms, state, created_ms, active_ms, \
    end_reason, end_detail, ended_ms, labels, annotations, stop_idle_ms, pause_idle_ms, \
    archive_stopped_ms, delete_stopped_ms, stopped_ms, fault, runtime_class";

/// The columns that [`key`] reads, in their order.
pub(super) const KEY_COLUMNS: &str = "space, key, fingerprint, sandbox, name, created_ms";

/// An error about one column.
fn odd(column: usize, what: impl Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.to_string().into())
}

fn parsed<T: FromStr<Err: Display>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error| odd(column, error))
}

fn number<T: TryFrom<i64>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let number: i64 = row.get(column)?;
    T::try_from(number).map_err(|_| odd(column, format!("{number} is out of range")))
}

fn duration(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Duration>> {
    match row.get::<_, Option<i64>>(column)? {
        None => Ok(None),
        Some(_) => number(row, column).map(Duration::from_millis).map(Some),
    }
}

/// The state from its word.
pub(super) fn state(word: &str) -> Option<State> {
    [
        State::Creating,
        State::Running,
        State::Paused,
        State::Stopping,
        State::Stopped,
        State::Starting,
        State::Archiving,
        State::Archived,
        State::Restoring,
        State::Gone,
        State::Failed,
    ]
    .into_iter()
    .find(|state| state.as_str() == word)
}

/// A map of texts for SQLite.
pub(super) fn texts(map: &BTreeMap<String, String>) -> String {
    serde_json::to_string(map).expect("a map of texts is JSON")
}

fn map(row: &Row<'_>, column: usize) -> rusqlite::Result<BTreeMap<String, String>> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| odd(column, error))
}

/// A number for SQLite; what does not fit its 63 bits is as good as endless.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Milliseconds for SQLite.
pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A sandbox from [`SANDBOX_COLUMNS`].
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let word: String = row.get(12)?;
    let reason = match row.get::<_, Option<String>>(15)? {
        None => None,
        Some(word) => {
            let detail: Option<String> = row.get(16)?;
            let reason = EndReason::from_parts(&word, detail.as_deref());
            Some(reason.ok_or_else(|| odd(15, format!("{word:?} is no reason")))?)
        }
    };
    let ended_ms: Option<i64> = row.get(17)?;
    let (tombstone, ending) = match (reason, ended_ms) {
        (Some(reason), Some(ended_ms)) => (Some(Tombstone { reason, ended_ms }), None),
        (reason, _) => (None, reason),
    };
    let stopped = match row.get(24)? {
        None => None,
        Some(at_ms) => Some(Stop {
            at_ms,
            fault: row.get(25)?,
        }),
    };
    let sandbox = Sandbox {
        id: parsed(row, 0)?,
        space: parsed(row, 1)?,
        name: parsed(row, 2)?,
        image_requested: row.get(3)?,
        spec: Spec {
            image: parsed(row, 4)?,
            env: map(row, 5)?,
            limits: Limits {
                memory_bytes: number(row, 6)?,
                cpu_millis: number(row, 7)?,
                pids: number(row, 8)?,
            },
            network: parsed(row, 9)?,
            lease: Lease {
                idle_timeout: duration(row, 10)?,
                lifetime_max: duration(row, 11)?,
                stop_after_idle: duration(row, 20)?,
                pause_after_idle: duration(row, 21)?,
                archive_after_stop: duration(row, 22)?,
                delete_after_stop: duration(row, 23)?,
            },
            runtime_class: match row.get_ref(26)? {
                ValueRef::Null => None,
                _ => Some(parsed(row, 26)?),
            },
        },
        labels: map(row, 18)?,
        annotations: map(row, 19)?,
        state: state(&word).ok_or_else(|| odd(12, format!("{word:?} is no state")))?,
        created_ms: row.get(13)?,
        active_ms: row.get(14)?,
        stopped,
        ending: None,
        tombstone,
    };
    Ok(Stored { sandbox, ending })
}

/// A key from [`KEY_COLUMNS`].
pub(super) fn key(row: &Row<'_>) -> rusqlite::Result<KeyUse> {
    Ok(KeyUse {
        space: parsed(row, 0)?,
        key: row.get(1)?,
        fingerprint: row.get(2)?,
        id: parsed(row, 3)?,
        name: parsed(row, 4)?,
        created_ms: row.get(5)?,
    })
}

/// An event from `sequence, at_ms, event, detail`.
pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<EventRecord> {
    Ok(EventRecord {
        sequence: row.get(0)?,
        at_ms: row.get(1)?,
        event: row.get(2)?,
        detail: row.get(3)?,
    })
}
