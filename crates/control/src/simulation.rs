//! Servers that are killed at any moment, over and over, on one store and one
//! runtime: whatever happened before, in the end the registry, the store and
//! the runtime tell the same story, and nothing is left over.
//!
//! Everything is simulated in one thread on a paused clock and follows from a
//! seed. A server is killed by dropping its whole tokio runtime, which stops
//! every task at the await at which it happens to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use sandbox::{Condition, Ended, Id, Kind, Name, Space, State};
use testkit::{Behaviour, FakeRuntime};
use tokio::{runtime::Builder, time::sleep};

use crate::{
    Control, Create, collect,
    store::{Memory, Store},
    testing::{at, config, shell, start},
};

/// Names that clients fight over.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Idempotency keys that clients share.
const KEYS: [&str; 2] = ["k", "l"];
/// Clients at the same time.
const CLIENTS: u64 = 4;
/// What each client does in one life of the server.
const OPERATIONS: u32 = 12;
/// Seeds tried in one run of the test.
const SEEDS: u64 = 80;

/// Small random numbers, the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// Runs a piece of simulated life in a tokio runtime of its own, which is then dropped.
fn live<T>(life: impl Future<Output = T>) -> T {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(life)
}

/// How the runtime behaves for a while.
fn behaviour(dice: &mut Dice) -> Behaviour {
    Behaviour {
        create_time: dice.millis(100),
        start_time: dice.millis(100),
        destroy_time: dice.millis(200),
        pause_time: dice.millis(50),
        create_failures: u32::from(dice.below(4) == 0),
        destroy_failures: u32::from(dice.below(4) == 0),
        pause_failures: u32::from(dice.below(4) == 0),
        resume_failures: u32::from(dice.below(8) == 0),
        stop_time: dice.millis(100),
        stop_failures: u32::from(dice.below(4) == 0),
        pack_time: dice.millis(200),
        pack_failures: u32::from(dice.below(4) == 0),
        die_at_start: dice.below(10) == 0,
        ..Behaviour::default()
    }
}

/// One thing that a client does; errors are fine, panics and hangs are not.
async fn operate(control: &Control, runtime: &FakeRuntime, dice: &mut Dice) {
    let (space, name) = at(dice.one(&NAMES));
    let patience = dice.millis(400);
    match dice.below(18) {
        0..=3 => {
            let create = Create {
                name: (dice.below(3) > 0).then_some(name),
                idempotency_key: (dice.below(4) == 0).then(|| dice.one(&KEYS).to_owned()),
                idle_timeout: (dice.below(4) == 0).then_some(Duration::from_millis(300)),
                stop_after_idle: (dice.below(4) == 0).then_some(Duration::from_millis(200)),
                pause_after_idle: (dice.below(8) == 0).then_some(Duration::from_millis(100)),
                archive_after_stop: (dice.below(6) == 0).then_some(Duration::from_millis(200)),
                delete_after_stop: (dice.below(8) == 0).then(|| dice.millis(300)),
                ..Create::default()
            };
            let created = tokio::time::timeout(patience, control.create(create)).await;
            if let Ok(Ok(created)) = created {
                assert_ne!(created.sandbox.state, State::Creating);
            }
        }
        4..=5 => {
            let deleted = tokio::time::timeout(patience, control.delete(&space, &name)).await;
            if let Ok(Err(error)) = deleted {
                assert_eq!(error.kind, Kind::NotFound, "{error}");
            }
        }
        6..=7 => {
            let line = format!("sleep 0.{};echo hi", dice.below(9));
            if let Ok(pieces) = control.exec(&space, &name, shell(&line), None).await
                && let Ok(Ok(said)) = tokio::time::timeout(patience, collect(pieces, 100)).await
            {
                assert_eq!(said.stdout.to_text(), "hi\n");
            }
        }
        8 => drop(tokio::time::timeout(patience, control.pause(&space, &name)).await),
        9 => drop(tokio::time::timeout(patience, control.resume(&space, &name)).await),
        10 => {
            if let Ok(sandbox) = control.get(&space, &name).await {
                runtime.kill(
                    &sandbox.id,
                    Ended {
                        out_of_memory: dice.below(2) == 0,
                        detail: "killed by signal 9".to_owned(),
                    },
                );
            }
        }
        11..=12 => drop(tokio::time::timeout(patience, control.stop(&space, &name)).await),
        13..=14 => drop(tokio::time::timeout(patience, control.start_again(&space, &name)).await),
        15 => drop(tokio::time::timeout(patience, control.archive(&space, &name)).await),
        16 => {
            let labels = BTreeMap::from([("n".to_owned(), dice.below(9).to_string())]);
            drop(control.set_labels(&space, &name, labels).await);
        }
        _ => {
            let next = behaviour(dice);
            runtime.behave(|behaviour| *behaviour = next);
        }
    }
}

/// One life of a server, with clients, up to its sudden end.
async fn one_life(path: &std::path::Path, runtime: &FakeRuntime, seed: u64, later: Duration) {
    let mut dice = Dice::new(seed);
    let end = sleep(dice.millis(3000));
    let life = async {
        let control = start(config(path.to_owned()), runtime, later)
            .await
            .unwrap();
        let clients = (0..CLIENTS).map(|client| {
            let (control, runtime) = (control.clone(), runtime.clone());
            let mut dice = Dice::new(seed * 1000 + client);
            async move {
                for _ in 0..OPERATIONS {
                    operate(&control, &runtime, &mut dice).await;
                    sleep(dice.millis(60)).await;
                }
            }
        });
        futures_util::future::join_all(clients).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = end => {}
        () = life => {}
    }
    if dice.below(8) == 0 {
        runtime.restart_host();
    }
}

type Picture = BTreeMap<Id, (Space, Name, State)>;

/// A last life in which nothing is asked for: what the registry then tells.
async fn aftermath(path: &std::path::Path, runtime: &FakeRuntime, later: Duration) -> Picture {
    runtime.behave(|behaviour| *behaviour = Behaviour::default());
    let control = start(config(path.to_owned()), runtime, later)
        .await
        .unwrap();
    // Long enough for every deadline and for the sweep, too short for tombstones to go.
    sleep(Duration::from_secs(2 * 3600)).await;
    let registry = &control.core.registry;
    let picture = registry.living(None).into_iter().map(|resident| {
        let state = resident.life().state();
        let (space, name) = (resident.space.clone(), resident.name.clone());
        (resident.id.clone(), (space, name, state))
    });
    let picture: Picture = picture.collect();
    for (space, name, state) in picture.values() {
        match state {
            State::Running => {
                let pieces = control
                    .exec(space, name, shell("echo hi"), None)
                    .await
                    .unwrap();
                collect(pieces, 100).await.unwrap();
            }
            state => assert!(
                matches!(state, State::Paused | State::Stopped | State::Archived),
                "nothing is on its way any more: {state}"
            ),
        }
    }
    picture
}

fn stored(memory: &Memory) -> Picture {
    let living = memory
        .sandboxes
        .iter()
        .filter(|stored| stored.sandbox.tombstone.is_none());
    living
        .map(|stored| {
            assert_eq!(stored.ending, None, "{stored:?}");
            let sandbox = &stored.sandbox;
            let place = (sandbox.space.clone(), sandbox.name.clone(), sandbox.state);
            (sandbox.id.clone(), place)
        })
        .collect()
}

#[test]
fn killed_servers_leave_one_story_and_nothing_else() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let runtime = FakeRuntime::new();
        let lives = 1 + seed % 4;
        for life in 0..lives {
            let later = Duration::from_secs(life * 10);
            live(one_life(&path, &runtime, seed * 10 + life, later));
        }
        let picture = live(aftermath(&path, &runtime, Duration::from_secs(100)));
        let (_store, memory) = Store::open_inline(&path).unwrap();
        assert_eq!(stored(&memory), picture, "seed {seed}: store and registry");
        let left: Vec<_> = runtime.ids();
        let living: Vec<_> = picture.keys().cloned().collect();
        assert_eq!(left, living, "seed {seed}: runtime and registry");
        for (id, (_, name, state)) in &picture {
            let expected = match state {
                State::Stopped => Condition::Stopped,
                State::Archived => Condition::Archived,
                _ => Condition::Alive,
            };
            let found = runtime.condition(id);
            assert_eq!(found, Some(expected), "seed {seed}: {name} is {state}");
        }
        for key in &memory.keys {
            let made = memory
                .sandboxes
                .iter()
                .find(|stored| stored.sandbox.id == key.id);
            let state = made.map(|stored| stored.sandbox.state);
            assert!(
                state.is_some_and(|state| state != State::Failed),
                "seed {seed}: {key:?}"
            );
        }
        let ends = memory
            .sandboxes
            .iter()
            .filter_map(|stored| stored.sandbox.tombstone.as_ref());
        seen.extend(ends.map(|tombstone| tombstone.reason.as_str()));
        seen.extend(picture.values().map(|(_, _, state)| state.as_str()));
    }
    // The simulation is worth something only if all this has happened in it.
    for word in [
        "running",
        "paused",
        "stopped",
        "archived",
        "deleted",
        "idle",
        "out_of_memory",
        "agent_lost",
        "failed_to_start",
        "host_restarted",
    ] {
        assert!(seen.contains(word), "no sandbox ever was {word}: {seen:?}");
    }
}
