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
