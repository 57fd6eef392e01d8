//! The tables, as a list of migrations. Only ever append to the list.

/// Each brings the file to the version that is its place in the list, counted from 1.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE sandboxes (
        id              TEXT PRIMARY KEY,
        space           TEXT NOT NULL,
        name            TEXT NOT NULL,
        image_requested TEXT NOT NULL,
        image           TEXT NOT NULL,
        env             TEXT NOT NULL,
        memory_bytes    INTEGER NOT NULL,
        cpu_millis      INTEGER NOT NULL,
        pids            INTEGER NOT NULL,
        network         TEXT NOT NULL,
        idle_ms         INTEGER,
        lifetime_ms     INTEGER,
        state           TEXT NOT NULL,
        created_ms      INTEGER NOT NULL,
        active_ms       INTEGER NOT NULL,
        end_reason      TEXT,
        end_detail      TEXT,
        ended_ms        INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sandboxes_ended ON sandboxes (ended_ms) WHERE ended_ms IS NOT NULL;

    CREATE TABLE events (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        sandbox  TEXT NOT NULL,
        at_ms    INTEGER NOT NULL,
        event    TEXT NOT NULL,
        detail   TEXT
    ) STRICT;
    CREATE INDEX events_of_sandbox ON events (sandbox, sequence);

    CREATE TABLE idempotency (
        space       TEXT NOT NULL,
        key         TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        sandbox     TEXT NOT NULL,
        name        TEXT NOT NULL,
        created_ms  INTEGER NOT NULL,
        PRIMARY KEY (space, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX idempotency_of_sandbox ON idempotency (sandbox);
",
    "
    ALTER TABLE sandboxes ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE sandboxes ADD COLUMN annotations TEXT NOT NULL DEFAULT '{}';
    ALTER TABLE sandboxes ADD COLUMN stop_idle_ms INTEGER;
    ALTER TABLE sandboxes ADD COLUMN pause_idle_ms INTEGER;
    ALTER TABLE sandboxes ADD COLUMN archive_stopped_ms INTEGER;
    ALTER TABLE sandboxes ADD COLUMN delete_stopped_ms INTEGER;
    ALTER TABLE sandboxes ADD COLUMN stopped_ms INTEGER;
    ALTER TABLE sandboxes ADD COLUMN fault TEXT;
",
    "
    ALTER TABLE sandboxes ADD COLUMN runtime_class TEXT;
",
];
