use std::collections::BTreeMap;

use sandbox::{Lease, Limits, NetworkMode, Spec};

use super::*;
use crate::Tombstone;

fn sandbox(name: &str) -> Sandbox {
    Sandbox {
        id: Id::random().unwrap(),
        space: sandbox::Space::default(),
        name: name.parse().unwrap(),
        image_requested: "box".to_owned(),
        spec: Spec {
            image: "sandboxai/box".parse().unwrap(),
            env: BTreeMap::from([("KEY".to_owned(), "secret ü \" \\".to_owned())]),
            limits: Limits::default(),
            network: NetworkMode::Open,
            lease: Lease {
                idle_timeout: Some(Duration::from_millis(1500)),
                stop_after_idle: Some(Duration::from_secs(900)),
                delete_after_stop: Some(Duration::ZERO),
                ..Lease::default()
            },
            runtime_class: Some("runsc".parse().unwrap()),
        },
        labels: BTreeMap::from([("team".to_owned(), "ü".to_owned())]),
        annotations: BTreeMap::from([("token".to_owned(), "secret".to_owned())]),
        state: State::Creating,
        created_ms: 1000,
        active_ms: 1000,
        stopped: None,
        ending: None,
        tombstone: None,
    }
}

fn key_of(sandbox: &Sandbox) -> KeyUse {
    KeyUse {
        space: sandbox.space.clone(),
        key: format!("key of {}", sandbox.name),
        fingerprint: [7; 32],
        id: sandbox.id.clone(),
        name: sandbox.name.clone(),
        created_ms: sandbox.created_ms,
    }
}

fn creating(sandbox: &Sandbox) -> Change {
    Change::Creating {
        sandbox: Box::new(sandbox.clone()),
        key: Some(key_of(sandbox)),
    }
}

fn note(event: &'static str) -> Note {
    Note {
        at_ms: 2000,
        event,
        detail: None,
    }
}

fn running(sandbox: &Sandbox) -> Change {
    Change::Moved {
        id: sandbox.id.clone(),
        state: State::Running,
        active_ms: 2000,
        stopped: None,
        note: note("created"),
    }
}

fn ended(sandbox: &Sandbox, reason: EndReason) -> Change {
    Change::Ended {
        sandbox: Box::new(sandbox.clone()),
        tombstone: Tombstone {
            reason,
            ended_ms: 3000,
        },
    }
}

async fn open_error(path: &Path) -> StoreError {
    Store::open(path).await.unwrap_err()
}

#[tokio::test]
async fn everything_comes_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (store, memory) = Store::open(&path).await.unwrap();
    assert!(memory.sandboxes.is_empty() && memory.keys.is_empty());
    let [mut living, mut dead, mut ending] = ["living", "dead", "ending"].map(sandbox);
    for sandbox in [&living, &dead, &ending] {
        store.write(creating(sandbox)).await.unwrap();
        store.write(running(sandbox)).await.unwrap();
    }
    let reason = EndReason::AgentLost("exit status 3".to_owned());
    store.write(ended(&dead, reason.clone())).await.unwrap();
    store
        .write(Change::Ending {
            id: ending.id.clone(),
            reason: EndReason::Idle,
        })
        .await
        .unwrap();
    store.close().await;

    let (_store, memory) = Store::open(&path).await.unwrap();
    (living.state, living.active_ms) = (State::Running, 2000);
    (ending.state, ending.active_ms) = (State::Stopping, 2000);
    (dead.state, dead.active_ms) = (State::Gone, 2000);
    dead.spec.env.clear();
    dead.annotations.clear();
    dead.tombstone = Some(Tombstone {
        reason,
        ended_ms: 3000,
    });
    let mut expected = vec![
        Stored {
            sandbox: living,
            ending: None,
        },
        Stored {
            sandbox: dead,
            ending: None,
        },
        Stored {
            sandbox: ending,
            ending: Some(EndReason::Idle),
        },
    ];
    let mut found = memory.sandboxes;
    for list in [&mut expected, &mut found] {
        list.sort_by(|a, b| a.sandbox.name.cmp(&b.sandbox.name));
    }
    assert_eq!(found, expected);
    assert_eq!(memory.keys.len(), 3);
}

#[tokio::test]
async fn a_key_of_a_creation_that_failed_is_free_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (store, _) = Store::open(&path).await.unwrap();
    let [failed, gone, unrecorded] = ["failed", "gone", "unrecorded"].map(sandbox);
    store
        .write(ended(&unrecorded, EndReason::Deleted))
        .await
        .unwrap();
    for (sandbox, reason) in [
        (&failed, EndReason::FailedToStart("no".to_owned())),
        (&gone, EndReason::Deleted),
    ] {
        store.write(creating(sandbox)).await.unwrap();
        store.write(ended(sandbox, reason)).await.unwrap();
    }
    store.close().await;
    let (_store, memory) = Store::open(&path).await.unwrap();
    assert_eq!(memory.keys, [key_of(&gone)]);
    let ended = memory
        .sandboxes
        .iter()
        .filter(|stored| stored.sandbox.tombstone.is_some());
    assert_eq!(ended.count(), 3);
}

#[tokio::test]
async fn old_tombstones_keys_and_events_are_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (store, _) = Store::open(&path).await.unwrap();
    let [living, dead] = ["living", "dead"].map(sandbox);
    for sandbox in [&living, &dead] {
        store.write(creating(sandbox)).await.unwrap();
    }
    for _ in 0..1100 {
        store
            .submit(Change::Noted {
                id: living.id.clone(),
                note: note("kernel_died"),
            })
            .await;
    }
    store.write(ended(&dead, EndReason::Deleted)).await.unwrap();
    let events = async |id: &Id| store.events(id.clone(), 0, 5000).await.unwrap().len();
    assert_eq!(
        (events(&living.id).await, events(&dead.id).await),
        (1100, 1)
    );

    store
        .write(Change::Pruned { before_ms: 3000 })
        .await
        .unwrap();
    assert_eq!(
        (events(&living.id).await, events(&dead.id).await),
        (1000, 1)
    );
    store
        .write(Change::Pruned { before_ms: 3001 })
        .await
        .unwrap();
    assert_eq!(events(&dead.id).await, 0);
    store.close().await;
    let (_store, memory) = Store::open(&path).await.unwrap();
    assert_eq!(memory.sandboxes.len(), 1);
    assert!(memory.keys.is_empty());
}

#[tokio::test]
async fn a_second_server_on_the_same_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (store, _) = Store::open(&path).await.unwrap();
    let error = open_error(&path).await;
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another server"));
    store.close().await;
    Store::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_damaged_store_is_told_with_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::write(
        &path,
        b"this is no database, but it is long enough to be looked at".repeat(99),
    )
    .unwrap();
    let error = open_error(&path).await;
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("move it"), "{error}");

    std::fs::remove_file(&path).unwrap();
    let (store, _) = Store::open(&path).await.unwrap();
    for index in 0..200 {
        let sandbox = sandbox(&format!("s{index}"));
        store.write(creating(&sandbox)).await.unwrap();
    }
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 4096] {
        *byte = 0x5a;
    }
    std::fs::write(&path, bytes).unwrap();
    let error = open_error(&path).await;
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_newer_or_foreign_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (store, _) = Store::open(&path).await.unwrap();
    store.close().await;
    let set = |pragma: &str, value: i64| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.pragma_update(None, pragma, value).unwrap();
    };
    set("user_version", 99);
    let error = open_error(&path).await;
    assert!(
        matches!(error, StoreError::Newer { found: 99, .. }),
        "{error:?}"
    );
    set("application_id", 1);
    let error = open_error(&path).await;
    assert!(error.to_string().contains("another program"), "{error}");
}

#[tokio::test]
async fn a_store_from_before_sandboxes_could_be_stopped_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch(schema::MIGRATIONS[0]).unwrap();
    let old = sandbox("old");
    connection
        .execute(
            "INSERT INTO sandboxes VALUES (?1, 'default', 'old', 'box', 'sandboxai/box', '{}', \
             1, 2, 3, 'open', NULL, 5000, 'running', 1000, 1500, NULL, NULL, NULL)",
            [old.id.as_str()],
        )
        .unwrap();
    connection
        .pragma_update(None, "application_id", 0x5362_4149)
        .unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    drop(connection);
    let (store, memory) = Store::open(&path).await.unwrap();
    let found = &memory.sandboxes[0].sandbox;
    assert_eq!((&found.id, found.state), (&old.id, State::Running));
    assert!(found.labels.is_empty() && found.annotations.is_empty());
    assert_eq!(found.spec.runtime_class, None);
    let lifetime_max = Some(Duration::from_secs(5));
    let lease = Lease {
        lifetime_max,
        ..Lease::default()
    };
    assert_eq!((found.spec.lease, &found.stopped), (lease, &None));
    store.close().await;
}

#[tokio::test]
async fn since_when_and_why_a_sandbox_is_stopped_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (store, _) = Store::open(&path).await.unwrap();
    let sandbox = sandbox("a");
    store.write(creating(&sandbox)).await.unwrap();
    let stop = crate::Stop {
        at_ms: 7000,
        fault: Some("it ran out of memory".to_owned()),
    };
    let moved = Change::Moved {
        id: sandbox.id.clone(),
        state: State::Archived,
        active_ms: 6000,
        stopped: Some(stop.clone()),
        note: note("archived"),
    };
    store.write(moved).await.unwrap();
    let limits = Limits {
        memory_bytes: 1 << 30,
        ..Limits::default()
    };
    let respecified = Change::Respecified {
        id: sandbox.id.clone(),
        lease: Lease::default(),
        limits,
    };
    store.write(respecified).await.unwrap();
    let active = Change::Active(vec![(sandbox.id.clone(), 6500)]);
    store.write(active).await.unwrap();
    store.close().await;
    let (_store, memory) = Store::open(&path).await.unwrap();
    let found = &memory.sandboxes[0].sandbox;
    assert_eq!((found.state, found.active_ms), (State::Archived, 6500));
    assert_eq!(found.stopped, Some(stop));
    assert_eq!(
        (found.spec.lease, found.spec.limits),
        (Lease::default(), limits)
    );
}

#[tokio::test]
async fn a_folder_that_is_missing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = open_error(&folder.path().join("missing/store")).await;
    assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (store, _) = Store::open(&path).await.unwrap();
    store.write(creating(&sandbox("a"))).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
    }
}
