use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use sandbox::{Ended, Kind, State};
use testkit::FakeRuntime;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::testing::{Bed, at, config, named, shell};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn a_sandbox_lives_ends_and_is_remembered() {
    let bed = Bed::new().await;
    let created = bed.create("a").await.unwrap();
    assert_eq!(created.sandbox.state, State::Running);
    let steps: Vec<_> = created
        .steps
        .iter()
        .map(|step| step.step.as_str())
        .collect();
    assert_eq!(steps, ["queue", "record", "fake", "agent", "commit"]);
    let (space, name) = at("a");
    assert_eq!(
        bed.control.get(&space, &name).await.unwrap(),
        created.sandbox
    );
    assert_eq!(bed.control.list(&space).await.unwrap().len(), 1);

    bed.delete("a").await.unwrap();
    assert!(bed.runtime.ids().is_empty());
    assert!(bed.control.list(&space).await.unwrap().is_empty());
    assert_eq!(
        bed.epitaph("a").await,
        "sandbox `a` ended at 2027-01-15T08:00:00Z: it was deleted"
    );
    let tombstone = bed.control.find_tombstone(&space, &name).await.unwrap();
    assert_eq!(
        (tombstone.id, tombstone.state),
        (created.sandbox.id, State::Gone)
    );
    let events = bed.control.events(&space, &name, 0, 10).await.unwrap();
    let words: Vec<_> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(words, ["created", "ended"]);

    bed.delete("a").await.unwrap();
    let error = bed.delete("never").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    bed.create("a").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_is_forgotten_after_its_time() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    bed.delete("a").await.unwrap();
    sleep(DAY - 60 * SECOND).await;
    assert!(bed.epitaph("a").await.contains("it was deleted"));
    sleep(3 * 60 * SECOND).await;
    assert!(bed.epitaph("a").await.contains("there is no sandbox"));
    assert_eq!(bed.delete("a").await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn of_several_requests_for_a_name_one_wins() {
    let bed = Bed::new().await;
    bed.runtime
        .behave(|behaviour| behaviour.create_time = SECOND);
    let results = join_all((0..8).map(|_| bed.create("a"))).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for error in lost {
        let error = error.unwrap_err();
        assert_eq!(error.kind, Kind::AlreadyExists);
        assert!(
            error.message.contains("sandbox `a` exists already"),
            "{error}"
        );
    }
    let elsewhere = Create {
        space: "other".parse().unwrap(),
        ..named("a")
    };
    bed.control.create(elsewhere).await.unwrap();
    assert_eq!(bed.control.list(&at("a").0).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_sandboxes_is_kept_to_its_limit() {
    let bed = Bed::with(|config| config.sandboxes_max = 3).await;
    bed.runtime
        .behave(|behaviour| behaviour.create_time = SECOND);
    let results = join_all((0..8).map(|_| bed.control.create(Create::default()))).await;
    let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 5);
    assert!(errors.iter().all(|error| error.kind == Kind::LimitReached));
    assert_eq!(bed.runtime.ids().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn so_many_sandboxes_are_made_at_once_and_no_more() {
    let bed = Bed::with(|config| config.creations_at_once = 4).await;
    bed.runtime
        .behave(|behaviour| behaviour.create_time = SECOND);
    let begun = Instant::now();
    join_all((0..8).map(|_| bed.control.create(Create::default()))).await;
    assert!(begun.elapsed() >= 2 * SECOND, "{:?}", begun.elapsed());
    assert!(begun.elapsed() < 3 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failed_creation_leaves_a_reason_and_nothing_else() {
    let bed = Bed::new().await;
    bed.runtime
        .behave(|behaviour| behaviour.create_failures = 1);
    let error = bed.create("a").await.unwrap_err();
    assert_eq!(error.kind, Kind::Internal);
    assert!(error.message.contains("step `fake`"), "{error}");
    assert!(bed.runtime.ids().is_empty());
    let epitaph = bed.epitaph("a").await;
    assert!(
        epitaph.contains("it failed to start: step `fake`"),
        "{epitaph}"
    );
    let tombstone = bed.control.find_tombstone(&at("a").0, &at("a").1).await;
    assert_eq!(tombstone.unwrap().state, State::Failed);
    bed.create("a").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_image_is_refused_before_anything_is_made() {
    let bed = Bed::new().await;
    bed.runtime
        .behave(|behaviour| behaviour.images = vec!["sandboxai/box".to_owned()]);
    let create = Create {
        image: Some("nope".to_owned()),
        ..named("a")
    };
    let error = bed.control.create(create).await.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidRequest);
    assert!(bed.epitaph("a").await.contains("there is no sandbox"));
    assert_eq!(bed.runtime.calls().create, 0);
}

#[tokio::test(start_paused = true)]
async fn a_creation_ends_at_its_deadline_whatever_hangs() {
    for hang in [
        (|behaviour| behaviour.create_time = DAY) as fn(&mut testkit::Behaviour),
        |behaviour| behaviour.start_time = DAY,
        |behaviour| behaviour.agents_are_silent = true,
    ] {
        let bed = Bed::new().await;
        bed.runtime.behave(hang);
        let begun = Instant::now();
        let error = bed.create("a").await.unwrap_err();
        assert!(begun.elapsed() <= 21 * SECOND, "{:?}", begun.elapsed());
        assert!(
            matches!(error.kind, Kind::Timeout | Kind::SandboxLost),
            "{error:?}"
        );
        assert!(bed.runtime.ids().is_empty());
        assert!(bed.epitaph("a").await.contains("failed to start"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_process_that_ends_at_once_is_told() {
    let bed = Bed::new().await;
    bed.runtime
        .behave(|behaviour| behaviour.die_at_start = true);
    let begun = Instant::now();
    let error = bed.create("a").await.unwrap_err();
    assert!(error.message.contains("exit status 1"), "{error}");
    assert!(begun.elapsed() < SECOND);
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_client_went_away_is_kept_if_somebody_can_find_it() {
    let bed = Bed::new().await;
    bed.runtime
        .behave(|behaviour| behaviour.create_time = SECOND);
    timeout(SECOND / 2, bed.create("a")).await.unwrap_err();
    timeout(SECOND / 2, bed.control.create(Create::default()))
        .await
        .unwrap_err();
    let keyed = Create {
        idempotency_key: Some("key".to_owned()),
        ..Create::default()
    };
    timeout(SECOND / 2, bed.control.create(keyed.clone()))
        .await
        .unwrap_err();
    sleep(2 * SECOND).await;
    assert_eq!(
        bed.exec("a", "echo hi").await.unwrap().stdout.to_text(),
        "hi\n"
    );
    assert!(bed.control.create(keyed).await.unwrap().replayed);
    assert_eq!(bed.runtime.ids().len(), 2, "the third has no finder");
}

#[tokio::test(start_paused = true)]
async fn the_same_key_with_the_same_request_makes_one_sandbox() {
    let bed = Bed::new().await;
    bed.runtime
        .behave(|behaviour| behaviour.create_time = SECOND);
    let keyed = |key: &str, image: &str| Create {
        image: Some(image.to_owned()),
        idempotency_key: Some(key.to_owned()),
        ..Create::default()
    };
    let results = join_all((0..5).map(|_| bed.control.create(keyed("k", "box")))).await;
    let made: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.iter().filter(|made| !made.replayed).count(), 1);
    let id = made[0].sandbox.id.clone();
    assert!(made.iter().all(|made| made.sandbox.id == id));

    let error = bed.control.create(keyed("k", "other")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    let bed = bed.restart().await;
    let again = bed.control.create(keyed("k", "box")).await.unwrap();
    assert_eq!((again.sandbox.id, again.replayed), (id, true));

    bed.delete(again.sandbox.name.as_str()).await.unwrap();
    let error = bed.control.create(keyed("k", "box")).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    sleep(DAY + 120 * SECOND).await;
    assert!(
        !bed.control
            .create(keyed("k", "box"))
            .await
            .unwrap()
            .replayed
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_can_be_tried_again_after_a_failure() {
    let bed = Bed::new().await;
    bed.runtime
        .behave(|behaviour| behaviour.create_failures = 1);
    let keyed = || Create {
        idempotency_key: Some("k".to_owned()),
        ..Create::default()
    };
    bed.control.create(keyed()).await.unwrap_err();
    let made = bed.control.create(keyed()).await.unwrap();
    assert!(!made.replayed);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_ends_a_creation_at_once() {
    let bed = Bed::new().await;
    bed.runtime
        .behave(|behaviour| behaviour.create_time = 10 * SECOND);
    let begun = Instant::now();
    let (created, deleted) = tokio::join!(bed.create("a"), async {
        sleep(SECOND).await;
        bed.delete("a").await
    });
    deleted.unwrap();
    let error = created.unwrap_err();
    assert_eq!(error.kind, Kind::SandboxLost);
    assert!(error.message.contains("it was deleted"), "{error}");
    assert!(begun.elapsed() < 2 * SECOND);
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn deleting_several_times_at_once_is_deleting_once() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    bed.runtime
        .behave(|behaviour| behaviour.destroy_time = SECOND);
    for result in join_all((0..5).map(|_| bed.delete("a"))).await {
        result.unwrap();
    }
    assert_eq!(bed.runtime.calls().destroy, 1);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_is_tried_again() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    bed.runtime
        .behave(|behaviour| behaviour.destroy_failures = 3);
    bed.delete("a").await.unwrap();
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_removed_is_swept_up_later() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let attempts = crate::lifecycle::DESTROY_ATTEMPTS;
    bed.runtime
        .behave(|behaviour| behaviour.destroy_failures = attempts + 1);
    bed.delete("a").await.unwrap();
    assert_eq!(bed.runtime.ids().len(), 1);
    bed.create("b").await.unwrap();
    sleep(25 * 60 * SECOND).await;
    assert_eq!(bed.runtime.ids().len(), 1, "only the living one is left");
    bed.exec("b", "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_end_by_itself_is_noticed_and_explained() {
    let bed = Bed::new().await;
    for (name, out_of_memory, why) in [
        ("a", true, "it ran out of memory"),
        ("b", false, "its agent was lost: exit status 3"),
    ] {
        let id = bed.create(name).await.unwrap().sandbox.id;
        let working = bed.begin(name, "sleep 100").await;
        bed.runtime.kill(
            &id,
            Ended {
                out_of_memory,
                detail: "exit status 3".to_owned(),
            },
        );
        let epitaph = bed.wait_for_end(name).await;
        assert!(epitaph.contains(why), "{epitaph}");
        let error = working.await.unwrap().unwrap_err();
        assert_eq!(error.kind, Kind::SandboxLost);
        assert!(error.message.contains(why), "{error}");
    }
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn work_is_told_why_its_sandbox_is_removed() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let working = bed.begin("a", "sleep 100").await;
    bed.runtime
        .behave(|behaviour| behaviour.destroy_time = 5 * SECOND);
    let ((), ()) = tokio::join!(async { bed.delete("a").await.unwrap() }, async {
        sleep(SECOND / 10).await;
        let error = bed.exec("a", "echo").await.unwrap_err();
        assert_eq!(error.kind, Kind::SandboxLost);
        assert!(error.message.contains("it was deleted"), "{error}");
    });
    let error = working.await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::SandboxLost);
    assert!(error.message.contains("it was deleted"), "{error}");
    assert_eq!(
        bed.exec("a", "echo").await.unwrap_err().kind,
        Kind::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_what_is_idle_but_not_what_works() {
    let bed = Bed::new().await;
    let leased = Create {
        idle_timeout: Some(10 * SECOND),
        ..named("a")
    };
    bed.control.create(leased).await.unwrap();
    for _ in 0..5 {
        sleep(8 * SECOND).await;
        bed.exec("a", "echo").await.unwrap();
    }
    let working = bed.begin("a", "sleep 60").await;
    working.await.unwrap().unwrap();
    sleep(9 * SECOND).await;
    let sandbox = bed.control.get(&at("a").0, &at("a").1).await.unwrap();
    assert_eq!(sandbox.active_ms - sandbox.created_ms, 100_000);
    sleep(2 * SECOND).await;
    assert!(bed.epitaph("a").await.contains("it was idle"));
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_also_what_works_and_goes_on_over_a_restart() {
    let bed = Bed::new().await;
    let leased = Create {
        lifetime_max: Some(10 * SECOND),
        ..named("a")
    };
    bed.control.create(leased).await.unwrap();
    let working = bed.begin("a", "sleep 100").await;
    sleep(6 * SECOND).await;
    let bed = bed.restart().await;
    sleep(3 * SECOND).await;
    bed.exec("a", "echo").await.unwrap();
    sleep(2 * SECOND).await;
    assert!(
        bed.epitaph("a")
            .await
            .contains("its maximum lifetime was over")
    );
    assert!(working.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_paused_sandbox_does_nothing_until_it_is_resumed() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    let working = bed.begin("a", "sleep 1;echo done").await;
    let paused = bed.control.pause(&space, &name).await.unwrap();
    assert_eq!(paused.state, State::Paused);
    bed.control.pause(&space, &name).await.unwrap();
    let error = bed.exec("a", "echo").await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    sleep(60 * SECOND).await;
    assert!(!working.is_finished());

    let bed = bed.restart().await;
    sleep(60 * SECOND).await;
    let sandbox = bed.control.get(&space, &name).await.unwrap();
    assert_eq!(sandbox.state, State::Paused, "not taken for a lost one");
    let resumed = bed.control.resume(&space, &name).await.unwrap();
    assert_eq!(resumed.state, State::Running);
    bed.exec("a", "echo").await.unwrap();
    bed.control.pause(&space, &name).await.unwrap();
    bed.delete("a").await.unwrap();
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_fails_is_undone_and_told() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    bed.runtime.behave(|behaviour| behaviour.pause_failures = 1);
    let error = bed.control.pause(&space, &name).await.unwrap_err();
    assert!(error.message.contains("told to fail"), "{error}");
    bed.exec("a", "echo").await.unwrap();
    bed.runtime.behave(|behaviour| behaviour.pause_time = DAY);
    let begun = Instant::now();
    let error = bed.control.pause(&space, &name).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    assert!(begun.elapsed() <= 30 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_leaves_sandboxes_for_the_next_server() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    bed.cell("a", "x = 41").await.unwrap();
    bed.runtime
        .behave(|behaviour| behaviour.create_time = SECOND);
    let (created, ()) = tokio::join!(bed.create("b"), async {
        sleep(SECOND / 2).await;
        bed.control.shutdown(10 * SECOND).await.unwrap();
    });
    created.unwrap();
    assert_eq!(bed.create("c").await.unwrap_err().kind, Kind::Unavailable);
    let bed = bed.restart().await;
    let ended = bed.cell("a", "x + 1").await.unwrap();
    assert_eq!(ended.displays[0].0["text/plain"], "42");
    bed.exec("b", "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_removes_everything_when_it_shall() {
    let bed = Bed::with(|config| config.delete_on_shutdown = true).await;
    for name in ["a", "b", "c"] {
        bed.create(name).await.unwrap();
    }
    bed.runtime
        .behave(|behaviour| behaviour.create_time = 100 * SECOND);
    let (created, ()) = tokio::join!(bed.create("d"), async {
        sleep(SECOND).await;
        bed.control.shutdown(10 * SECOND).await.unwrap();
    });
    assert!(
        created
            .unwrap_err()
            .message
            .contains("its server was shut down")
    );
    assert!(bed.runtime.ids().is_empty());
    let bed = bed.restart().await;
    assert!(bed.epitaph("a").await.contains("its server was shut down"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_takes_too_long_is_finished_by_the_next_server() {
    let bed = Bed::with(|config| config.delete_on_shutdown = true).await;
    bed.create("a").await.unwrap();
    bed.runtime
        .behave(|behaviour| behaviour.destroy_time = 20 * SECOND);
    let error = bed.control.shutdown(SECOND).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    let bed = bed
        .restart_after(|runtime| runtime.behave(|behaviour| behaviour.destroy_time = SECOND))
        .await;
    assert!(bed.runtime.ids().is_empty());
    assert!(bed.epitaph("a").await.contains("its server was shut down"));
}

#[tokio::test]
async fn the_real_store_serves_and_refuses_a_second_server() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = FakeRuntime::new();
    let start = || {
        Control::start(
            config(folder.path().join("store")),
            Arc::new(runtime.clone()),
            Arc::new(crate::SystemClock),
        )
    };
    let control = start().await.unwrap();
    let (space, name) = at("a");
    control.create(named("a")).await.unwrap();
    let error = start().await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(
        error.message.contains("in use by another server"),
        "{error}"
    );
    control.shutdown(SECOND).await.unwrap();

    let control = start().await.unwrap();
    let pieces = control
        .exec(&space, &name, shell("echo hi"), None)
        .await
        .unwrap();
    let said = crate::collect(pieces, 100).await.unwrap();
    assert_eq!(said.stdout.to_text(), "hi\n");
    control.delete(&space, &name).await.unwrap();
    control.shutdown(SECOND).await.unwrap();
}
