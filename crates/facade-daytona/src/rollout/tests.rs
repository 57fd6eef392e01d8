use std::fs;

use super::*;

fn config(folder: &tempfile::TempDir) -> RolloutConfig {
    RolloutConfig {
        upstream: "https://daytona.test/api".to_owned(),
        share: share(10.0),
        sticky_label: "id".to_owned(),
        fallback: true,
        window: Duration::from_secs(300),
        limits: Limits::default(),
        state_file: folder.path().join("rollout.json"),
    }
}

fn share(percent: f64) -> Share {
    Share::new(percent).unwrap()
}

fn labels(id: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("id".to_owned(), id.to_owned())])
}

fn fail_creations(rollout: &Rollout, count: usize) {
    for _ in 0..count {
        let measured = Measured {
            operation: Operation::Create,
            outcome: Outcome::Failure,
            duration: Duration::from_millis(1),
        };
        rollout.take_in(Side::SandboxAi, &measured);
    }
}

#[test]
fn the_configured_share_counts_until_the_first_change() {
    let folder = tempfile::tempdir().unwrap();
    let rollout = Rollout::open(config(&folder)).unwrap();
    let status = rollout.status();
    assert_eq!((status.share, &*status.reason), (share(10.0), "configured"));
    assert!(!config(&folder).state_file.exists());
    let status = rollout.set(share(50.0), "set by a client").unwrap();
    assert_eq!((status.share, status.history.len()), (share(50.0), 2));
    drop(rollout);
    let again = Rollout::open(RolloutConfig {
        share: share(75.0),
        ..config(&folder)
    });
    let status = again.unwrap().status();
    assert_eq!(
        (status.share, &*status.reason),
        (share(50.0), "set by a client")
    );
    assert_eq!(status.history[1].reason, "configured");
}

#[test]
fn a_rollback_is_on_the_disk_when_it_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let rollout = Rollout::open(config(&folder)).unwrap();
    fail_creations(&rollout, 10);
    let again = Rollout::open(config(&folder)).unwrap().status();
    assert_eq!(again.share, Share::NONE);
    assert_eq!(
        again.reason,
        "rolled back: 10 of 10 creations failed, more than 5.0 %"
    );
    // Only somebody can end it, and what was before counts no more then.
    rollout.set(share(100.0), "set by a client").unwrap();
    fail_creations(&rollout, 9);
    assert!(rollout.takes_all());
    fail_creations(&rollout, 1);
    assert_eq!(rollout.status().share, Share::NONE);
}

#[test]
fn what_cannot_be_written_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let rollout = Rollout::open(config(&folder)).unwrap();
    fs::remove_dir(folder.path()).unwrap();
    let error = rollout.set(share(50.0), "").unwrap_err();
    assert!(error.to_string().contains("rollout.json"), "{error}");
    assert_eq!(rollout.status().share, share(10.0));
    // But safety comes first.
    fail_creations(&rollout, 10);
    assert_eq!(rollout.status().share, Share::NONE);
}

#[test]
fn a_label_keeps_its_side_and_others_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let rollout = Rollout::open(config(&folder)).unwrap();
    for _ in 0..50 {
        // Places 5.3 and 35.2.
        assert_eq!(rollout.choose(&labels("a")).side, Side::SandboxAi);
        let choice = rollout.choose(&labels("project-1"));
        assert_eq!(choice.side, Side::Daytona);
        assert_eq!(choice.reason.to_string(), "place 35.24, share 10 %");
    }
    let mut ours = 0;
    for number in 0..100 {
        let without = [BTreeMap::new(), labels("")];
        let choice = rollout.choose(&without[number % 2]);
        assert_eq!(choice.reason.to_string(), "its turn, share 10 %");
        ours += usize::from(choice.side == Side::SandboxAi);
    }
    assert_eq!(ours, 10);
}

#[test]
fn the_status_has_the_documented_fields() {
    let folder = tempfile::tempdir().unwrap();
    let rollout = Rollout::open(config(&folder)).unwrap();
    let measured = Measured {
        operation: Operation::Create,
        outcome: Outcome::Success,
        duration: Duration::from_millis(250),
    };
    rollout.take_in(Side::Daytona, &measured);
    let status = serde_json::to_value(rollout.status()).unwrap();
    let side = |created: u64, seconds: serde_json::Value| {
        serde_json::json!({
            "sandboxes_created_total": created, "requests": created, "failures": 0,
            "error_rate": 0.0, "creations": created, "creation_failures": 0,
            "create_p50_seconds": seconds, "create_p95_seconds": seconds,
        })
    };
    let expected = serde_json::json!({
        "upstream": "https://daytona.test/api",
        "share": 10.0,
        "since": status["since"],
        "reason": "configured",
        "window_seconds": 300.0,
        "limits": {
            "error_rate_max": 0.05, "requests_min": 20,
            "create_p95_max_seconds": 10.0, "creations_min": 10,
        },
        "sides": { "sandboxai": side(0, serde_json::Value::Null), "daytona": side(1, 0.25.into()) },
        "history": [{ "at": status["since"], "share": 10.0, "reason": "configured" }],
    });
    assert_eq!(status, expected);
}
