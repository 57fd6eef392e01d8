use std::{collections::BTreeMap, time::Duration};

use sandbox::{EndReason, Id, Kind, Space, State};

use crate::{
    Create,
    testing::{Bed, at, named},
};

const SECOND: Duration = Duration::from_secs(1);

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_found_by_its_id_and_by_its_name_in_its_own_space_only() {
    let bed = Bed::new().await;
    let id = Id::random().unwrap();
    let create = Create {
        id: Some(id.clone()),
        ..named("a")
    };
    let created = bed.control.create(create.clone()).await.unwrap().sandbox;
    assert_eq!(created.id, id);
    let space = Space::default();
    for text in [id.as_str(), "a"] {
        assert_eq!(bed.control.find(&space, text).unwrap(), created);
        let other: Space = "other".parse().unwrap();
        let error = bed.control.find(&other, text).unwrap_err();
        assert!(error.message.contains("there is no sandbox"), "{error}");
    }
    let error = bed.control.find(&space, "../../etc").unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);

    let same_id = Create {
        name: Some("b".parse().unwrap()),
        ..create
    };
    let error = bed.control.create(same_id.clone()).await.unwrap_err();
    assert_eq!(error.kind, Kind::AlreadyExists);
    bed.delete("a").await.unwrap();
    let bed = bed.restart().await;
    for text in [id.as_str(), "a"] {
        let error = bed.control.find(&space, text).unwrap_err();
        assert!(error.message.contains("it was deleted"), "{error}");
    }
    let error = bed.control.create(same_id).await.unwrap_err();
    assert!(error.message.contains("never used again"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn labels_and_annotations_are_kept_over_a_restart() {
    let bed = Bed::new().await;
    let (space, name) = at("a");
    let create = Create {
        labels: texts(&[("team", "x"), ("old", "1")]),
        annotations: texts(&[("token", "t"), ("gone", "g")]),
        ..named("a")
    };
    bed.control.create(create).await.unwrap();
    let labels = texts(&[("team", "y")]);
    let control = &bed.control;
    control
        .set_labels(&space, &name, labels.clone())
        .await
        .unwrap();
    let changes = BTreeMap::from([
        ("gone".to_owned(), None),
        ("new".to_owned(), Some("n".to_owned())),
    ]);
    let changed = control.annotate(&space, &name, changes).await.unwrap();
    assert_eq!(changed.labels, labels);
    assert_eq!(changed.annotations, texts(&[("new", "n"), ("token", "t")]));

    let bed = bed.restart().await;
    let found = bed.control.find(&space, "a").unwrap();
    assert_eq!(found.labels, labels);
    assert_eq!(found.annotations, changed.annotations);

    let too_long = texts(&[("big", &"x".repeat(10_000))]);
    let refused = bed.control.set_labels(&space, &name, too_long).await;
    assert!(refused.unwrap_err().message.contains("field `labels`"));
    bed.delete("a").await.unwrap();
    let tombstone = bed.control.find_tombstone(&space, &name).await.unwrap();
    assert!(tombstone.annotations.is_empty(), "they may hold secrets");
}

#[tokio::test(start_paused = true)]
async fn every_change_of_state_is_told_from_the_first_to_the_last() {
    let bed = Bed::new().await;
    let mut changes = bed.control.watch_changes();
    let (space, name) = at("a");
    bed.create("a").await.unwrap();
    bed.control.pause(&space, &name).await.unwrap();
    bed.control.resume(&space, &name).await.unwrap();
    bed.delete("a").await.unwrap();
    let mut story = Vec::new();
    while let Ok(change) = changes.try_recv() {
        let from = change.from.map_or("nothing", State::as_str);
        story.push(format!("{from} to {}", change.sandbox.state));
        if let Some(tombstone) = change.sandbox.tombstone {
            assert_eq!(tombstone.reason, EndReason::Deleted);
        }
    }
    assert_eq!(
        story,
        [
            "nothing to creating",
            "creating to running",
            "running to paused",
            "paused to running",
            "running to stopping",
            "stopping to gone"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_touch_counts_as_activity() {
    let bed = Bed::new().await;
    let leased = Create {
        idle_timeout: Some(10 * SECOND),
        ..named("a")
    };
    bed.control.create(leased).await.unwrap();
    let (space, name) = at("a");
    for _ in 0..3 {
        tokio::time::sleep(8 * SECOND).await;
        bed.control.touch(&space, &name).unwrap();
    }
    tokio::time::sleep(11 * SECOND).await;
    assert!(bed.epitaph("a").await.contains("it was idle"));
}

#[tokio::test(start_paused = true)]
async fn a_key_with_other_labels_is_another_request() {
    let bed = Bed::new().await;
    let keyed = |team: &str| Create {
        labels: texts(&[("team", team)]),
        annotations: texts(&[("token", team)]),
        idempotency_key: Some("k".to_owned()),
        ..Create::default()
    };
    bed.control.create(keyed("x")).await.unwrap();
    assert!(bed.control.create(keyed("x")).await.unwrap().replayed);
    let error = bed.control.create(keyed("y")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
}

fn leased(name: &str, change: impl FnOnce(&mut Create)) -> Create {
    let mut create = named(name);
    change(&mut create);
    create
}

async fn state(bed: &Bed, name: &str) -> State {
    let (space, name) = at(name);
    bed.control.get(&space, &name).await.unwrap().state
}

async fn write(bed: &Bed, name: &str) {
    let (space, name) = at(name);
    let content = crate::testing::input(&["kept"]);
    let written = bed
        .control
        .write_file(&space, &name, "/file", None, false, content);
    written.await.unwrap();
}

async fn has_file(bed: &Bed, name: &str) -> bool {
    let (space, name) = at(name);
    let found = bed.control.stat_file(&space, &name, "/file").await;
    found.is_ok_and(|entry| entry.size == 4)
}

/// Lets a test's clock run without waking more than timers.
async fn wait(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_sandbox_keeps_its_files_and_starts_again() {
    let bed = Bed::new().await;
    let id = bed.create("a").await.unwrap().sandbox.id;
    write(&bed, "a").await;
    bed.cell("a", "x = 1").await.unwrap();
    let (space, name) = at("a");
    let working = bed.begin("a", "sleep 100").await;
    let stopped = bed.control.stop(&space, &name).await.unwrap();
    assert_eq!(stopped.state, State::Stopped);
    assert_eq!(stopped.stopped.unwrap().fault, None);
    let error = working.await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(error.message.contains("stopped"), "{error}");
    let error = bed.exec("a", "echo").await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(error.message, "sandbox `a` is stopped; start it first");
    bed.control.stop(&space, &name).await.unwrap();
    for refused in [
        bed.control.pause(&space, &name).await,
        bed.control.resume(&space, &name).await,
    ] {
        assert_eq!(refused.unwrap_err().kind, Kind::Conflict);
    }

    let bed = bed.restart_after(testkit::FakeRuntime::restart_host).await;
    assert_eq!(state(&bed, "a").await, State::Stopped);
    let started = bed.control.start_again(&space, &name).await.unwrap();
    assert_eq!((started.sandbox.id, started.sandbox.stopped), (id, None));
    assert_eq!(started.sandbox.state, State::Running);
    assert!(started.steps.iter().any(|step| step.step == "fake"));
    assert!(has_file(&bed, "a").await);
    bed.control.start_again(&space, &name).await.unwrap();

    bed.control.stop(&space, &name).await.unwrap();
    bed.delete("a").await.unwrap();
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_to_stop_and_to_start_at_the_same_time_join() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    bed.runtime.behave(|behaviour| {
        behaviour.stop_time = SECOND;
        behaviour.create_time = SECOND;
    });
    let stops = (0..5).map(|_| bed.control.stop(&space, &name));
    for stopped in futures_util::future::join_all(stops).await {
        assert_eq!(stopped.unwrap().state, State::Stopped);
    }
    let starts = (0..5).map(|_| bed.control.start_again(&space, &name));
    for started in futures_util::future::join_all(starts).await {
        assert_eq!(started.unwrap().sandbox.state, State::Running);
    }
    bed.control.pause(&space, &name).await.unwrap();
    let resumed = bed.control.start_again(&space, &name).await.unwrap();
    assert_eq!(resumed.sandbox.state, State::Running);

    bed.control.stop(&space, &name).await.unwrap();
    let (started, stopped) = tokio::join!(bed.control.start_again(&space, &name), async {
        wait(SECOND / 2).await;
        bed.control.stop(&space, &name).await
    });
    assert_eq!(stopped.unwrap().state, State::Stopped);
    assert_eq!(started.unwrap_err().kind, Kind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_told_and_can_be_tried_again() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    bed.control.stop(&space, &name).await.unwrap();
    for (hang, word) in [
        (
            (|behaviour| behaviour.create_failures = 1) as fn(&mut testkit::Behaviour),
            "told to fail",
        ),
        (|behaviour| behaviour.die_at_start = true, "exit status 1"),
        (
            |behaviour| behaviour.create_time = 100 * SECOND,
            "wanted state in time",
        ),
    ] {
        bed.runtime.behave(hang);
        let error = bed.control.start_again(&space, &name).await.unwrap_err();
        assert!(error.message.contains(word), "{error}");
        let sandbox = bed.control.get(&space, &name).await.unwrap();
        assert_eq!(sandbox.state, State::Stopped);
        assert!(sandbox.stopped.unwrap().fault.is_some());
        bed.runtime
            .behave(|behaviour| *behaviour = testkit::Behaviour::default());
    }
    bed.control.start_again(&space, &name).await.unwrap();
    bed.exec("a", "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_fails_is_tried_again() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    bed.runtime.behave(|behaviour| behaviour.stop_failures = 3);
    let stopped = bed.control.stop(&space, &name).await.unwrap();
    assert_eq!(stopped.state, State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn what_dies_by_itself_is_stopped_where_its_lease_speaks_of_stopping() {
    let bed = Bed::new().await;
    let kept = leased("kept", |create| {
        create.archive_after_stop = Some(1000 * SECOND);
    });
    let ephemeral = leased("ephemeral", |create| {
        create.stop_after_idle = Some(1000 * SECOND);
        create.delete_after_stop = Some(Duration::ZERO);
    });
    for create in [kept, ephemeral] {
        let id = bed.control.create(create).await.unwrap().sandbox.id;
        bed.runtime.kill(
            &id,
            sandbox::Ended {
                out_of_memory: true,
                detail: "killed by signal 9".to_owned(),
            },
        );
    }
    wait(SECOND).await;
    let (space, name) = at("kept");
    let sandbox = bed.control.get(&space, &name).await.unwrap();
    assert_eq!(sandbox.state, State::Stopped);
    let fault = sandbox.stopped.unwrap().fault.unwrap();
    assert!(fault.contains("ran out of memory"), "{fault}");
    let error = bed.exec("kept", "echo").await.unwrap_err();
    assert!(error.message.contains("ran out of memory"), "{error}");
    assert!(bed.epitaph("ephemeral").await.contains("out of memory"));

    bed.control.start_again(&space, &name).await.unwrap();
    let bed = bed.restart_after(testkit::FakeRuntime::restart_host).await;
    wait(SECOND).await;
    let sandbox = bed.control.get(&space, &name).await.unwrap();
    assert_eq!(sandbox.state, State::Stopped);
    let fault = sandbox.stopped.unwrap().fault.unwrap();
    assert!(fault.contains("host was restarted"), "{fault}");
    bed.control.start_again(&space, &name).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stopping_an_ephemeral_sandbox_ends_it() {
    let bed = Bed::new().await;
    let (space, name) = at("a");
    let create = leased("a", |create| {
        create.delete_after_stop = Some(Duration::ZERO);
    });
    bed.control.create(create).await.unwrap();
    let ended = bed.control.stop(&space, &name).await.unwrap();
    assert_eq!(ended.state, State::Gone);
    assert_eq!(ended.tombstone.unwrap().reason, EndReason::Stopped);
    assert!(bed.runtime.ids().is_empty());
    assert!(bed.epitaph("a").await.contains("it was stopped"));
}

#[tokio::test(start_paused = true)]
async fn archived_files_come_back_with_a_start() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    write(&bed, "a").await;
    let (space, name) = at("a");
    let error = bed.control.archive(&space, &name).await.unwrap_err();
    assert_eq!(error.message, "sandbox `a` is running; stop it first");
    bed.control.stop(&space, &name).await.unwrap();
    bed.runtime.behave(|behaviour| behaviour.pack_time = SECOND);
    let mut changes = bed.control.watch_changes();
    let archiving = bed.control.archive(&space, &name).await.unwrap();
    assert_eq!(archiving.state, State::Archiving);
    assert_eq!(
        changes.recv().await.unwrap().sandbox.state,
        State::Archiving
    );
    assert_eq!(changes.recv().await.unwrap().sandbox.state, State::Archived);
    bed.control.archive(&space, &name).await.unwrap();
    let started = bed.control.start_again(&space, &name).await.unwrap();
    assert_eq!(started.sandbox.state, State::Running);
    assert!(has_file(&bed, "a").await);

    // A failure leaves it stopped, a start in between ends the archiving.
    bed.control.stop(&space, &name).await.unwrap();
    bed.runtime.behave(|behaviour| behaviour.pack_failures = 1);
    bed.control.archive(&space, &name).await.unwrap();
    wait(5 * SECOND).await;
    assert_eq!(state(&bed, "a").await, State::Stopped);
    bed.control.archive(&space, &name).await.unwrap();
    wait(SECOND / 2).await;
    bed.control.start_again(&space, &name).await.unwrap();

    // A server that is killed meanwhile goes on with it afterwards.
    bed.control.stop(&space, &name).await.unwrap();
    bed.control.archive(&space, &name).await.unwrap();
    let bed = bed.restart().await;
    wait(2 * SECOND).await;
    assert_eq!(state(&bed, "a").await, State::Archived);
    let bed = bed.restart_after(testkit::FakeRuntime::restart_host).await;
    assert_eq!(state(&bed, "a").await, State::Archived);
    bed.control.start_again(&space, &name).await.unwrap();
    bed.delete("a").await.unwrap();
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_pauses_stops_archives_and_ends() {
    let bed = Bed::new().await;
    let create = leased("a", |create| {
        create.pause_after_idle = Some(10 * SECOND);
        create.stop_after_idle = Some(20 * SECOND);
        create.archive_after_stop = Some(30 * SECOND);
        create.delete_after_stop = Some(60 * SECOND);
    });
    bed.control.create(create).await.unwrap();
    let working = bed.begin("a", "sleep 50").await;
    working.await.unwrap().unwrap();
    let mut story = Vec::new();
    let mut changes = bed.control.watch_changes();
    let begun = tokio::time::Instant::now();
    loop {
        let change = changes.recv().await.unwrap();
        let second = begun.elapsed().as_secs();
        story.push((second, change.sandbox.state));
        if change.sandbox.tombstone.is_some() {
            break;
        }
    }
    assert_eq!(
        story,
        [
            (10, State::Paused),
            (20, State::Stopping),
            (20, State::Stopped),
            (50, State::Archiving),
            (50, State::Archived),
            (80, State::Stopping),
            (80, State::Gone)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_lease_cannot_do_is_tried_again_later() {
    let bed = Bed::new().await;
    let create = leased("a", |create| create.pause_after_idle = Some(10 * SECOND));
    bed.control.create(create).await.unwrap();
    bed.runtime.behave(|behaviour| behaviour.pause_failures = 1);
    wait(12 * SECOND).await;
    assert_eq!(state(&bed, "a").await, State::Running);
    wait(60 * SECOND).await;
    assert_eq!(state(&bed, "a").await, State::Paused);
}

#[tokio::test(start_paused = true)]
async fn a_lease_counts_while_no_server_runs() {
    let bed = Bed::new().await;
    for (name, seconds) in [("short", 300), ("long", 900)] {
        let create = leased(name, |create| {
            create.stop_after_idle = Some(seconds * SECOND);
        });
        bed.control.create(create).await.unwrap();
    }
    wait(100 * SECOND).await;
    for name in ["short", "long"] {
        bed.exec(name, "echo").await.unwrap();
    }
    wait(200 * SECOND).await;
    let bed = bed.restart_later(200 * SECOND).await;
    wait(SECOND).await;
    assert_eq!(state(&bed, "short").await, State::Stopped);
    assert_eq!(state(&bed, "long").await, State::Running);
    wait(450 * SECOND).await;
    assert_eq!(state(&bed, "long").await, State::Running);
    wait(100 * SECOND).await;
    assert_eq!(state(&bed, "long").await, State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn another_lease_counts_from_now_on_and_over_a_restart() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    wait(100 * SECOND).await;
    let lease = sandbox::Lease {
        stop_after_idle: Some(50 * SECOND),
        ..sandbox::Lease::default()
    };
    let changed = bed.control.set_lease(&space, &name, lease).await.unwrap();
    assert_eq!(changed.spec.lease, lease);
    wait(49 * SECOND).await;
    assert_eq!(state(&bed, "a").await, State::Running);
    wait(2 * SECOND).await;
    assert_eq!(state(&bed, "a").await, State::Stopped);
    let bed = bed.restart().await;
    let sandbox = bed.control.get(&space, &name).await.unwrap();
    assert_eq!(sandbox.spec.lease, lease);
    let nothing = sandbox::Lease {
        stop_after_idle: Some(Duration::ZERO),
        ..lease
    };
    let error = bed.control.set_lease(&space, &name, nothing).await;
    assert!(error.unwrap_err().message.contains("`stop_after_idle`"));
}

#[tokio::test(start_paused = true)]
async fn limits_change_while_it_runs_and_while_it_is_stopped() {
    let bed = Bed::new().await;
    let id = bed.create("a").await.unwrap().sandbox.id;
    let (space, name) = at("a");
    let resize = |memory_bytes| crate::Resize {
        memory_bytes: Some(memory_bytes),
        ..crate::Resize::default()
    };
    let control = &bed.control;
    let resized = control
        .resize(&space, &name, resize(1 << 30))
        .await
        .unwrap();
    assert_eq!(resized.spec.limits.memory_bytes, 1 << 30);
    assert_eq!(bed.runtime.limits(&id).unwrap(), resized.spec.limits);

    bed.runtime
        .behave(|behaviour| behaviour.memory_in_use = 800 << 20);
    let refused = control.resize(&space, &name, resize(512 << 20)).await;
    assert_eq!(refused.unwrap_err().kind, Kind::Conflict);
    let refused = control.resize(&space, &name, resize(1)).await;
    assert!(refused.unwrap_err().message.contains("`memory_bytes`"));

    control.stop(&space, &name).await.unwrap();
    control
        .resize(&space, &name, resize(512 << 20))
        .await
        .unwrap();
    let bed = bed.restart().await;
    bed.control.start_again(&space, &name).await.unwrap();
    assert_eq!(bed.runtime.limits(&id).unwrap().memory_bytes, 512 << 20);
}

#[tokio::test(start_paused = true)]
async fn stopped_sandboxes_leave_their_place_to_others_and_need_one_to_start() {
    let bed = Bed::with(|config| config.sandboxes_max = 1).await;
    let (space, name) = at("a0");
    for number in 0..11 {
        let other = format!("a{number}");
        bed.create(&other).await.unwrap();
        let error = bed.create("more").await.unwrap_err();
        assert_eq!(error.kind, Kind::LimitReached);
        if number < 10 {
            bed.control.stop(&space, &at(&other).1).await.unwrap();
        }
    }
    let error = bed.control.start_again(&space, &name).await.unwrap_err();
    assert_eq!(error.kind, Kind::LimitReached);
    bed.control.stop(&space, &at("a10").1).await.unwrap();
    let error = bed.create("more").await.unwrap_err();
    assert!(error.message.contains("stopped or archived"), "{error}");
    let bed = bed.restart().await;
    bed.control.start_again(&space, &name).await.unwrap();
    assert_eq!(
        bed.create("more").await.unwrap_err().kind,
        Kind::LimitReached
    );
}
