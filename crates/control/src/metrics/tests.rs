use futures_util::StreamExt as _;

use super::*;
use crate::{
    End,
    testing::{Bed, at, named, shell},
};

/// The value of a series in a page, 0 if it is not there.
async fn value(bed: &Bed, series: &str) -> f64 {
    let page = bed.control.metrics().await;
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
        .unwrap_or_default()
}

async fn counted(bed: &Bed, operation: &str, status: &str) -> f64 {
    let series =
        format!("sandbox_operations_total{{operation_type=\"{operation}\",status=\"{status}\"}} ");
    value(bed, &series).await
}

#[tokio::test(start_paused = true)]
async fn a_workload_is_counted_exactly() {
    let bed = Bed::new().await;
    for name in ["a", "b"] {
        bed.create(name).await.unwrap();
    }
    bed.create("a").await.unwrap_err();
    bed.exec("a", "echo x").await.unwrap();
    let failed = bed.exec("a", "exit 3").await.unwrap();
    assert!(matches!(failed.end, End::Exited(ref exit) if exit.code == 3));
    bed.exec("nobody", "echo x").await.unwrap_err();
    bed.cell("a", "1").await.unwrap();
    bed.delete("b").await.unwrap();
    for (operation, status, count) in [
        ("create", "success", 2.0),
        ("create", "failure", 1.0),
        ("run_shell_command", "success", 2.0),
        ("run_shell_command", "failure", 1.0),
        ("run_shell_command", "cancelled", 0.0),
        ("run_ipython_cell", "success", 1.0),
        ("delete", "success", 1.0),
    ] {
        assert_eq!(
            counted(&bed, operation, status).await,
            count,
            "{operation} {status}"
        );
    }
    for (series, expected) in [
        (
            "sandbox_operation_duration_seconds_count{operation_type=\"create\"} ",
            3.0,
        ),
        ("sandboxai_errors_total{kind=\"already_exists\"} ", 1.0),
        ("sandboxai_errors_total{kind=\"not_found\"} ", 1.0),
        (
            "sandboxai_creation_phase_seconds_count{phase=\"queue\"} ",
            2.0,
        ),
        ("sandboxai_sandboxes_ended_total{reason=\"deleted\"} ", 1.0),
        ("active_sandboxes ", 1.0),
        ("sandboxai_sandboxes{state=\"running\"} ", 1.0),
        ("sandboxai_sandboxes_memory_bytes ", f64::from(1 << 20)),
    ] {
        assert_eq!(value(&bed, series).await, expected, "{series}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_series_of_a_sandbox_end_with_it() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let page = bed.control.metrics().await;
    assert!(
        page.contains("space=\"default\",name=\"a\"} 1048576\n"),
        "{page}"
    );
    assert!(
        page.contains("sandboxai_sandbox_cpu_seconds_total{"),
        "{page}"
    );
    bed.delete("a").await.unwrap();
    let page = bed.control.metrics().await;
    assert!(!page.contains("name=\"a\""), "{page}");
    assert!(page.contains("\nactive_sandboxes 0\n"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_counts_when_it_ends_and_as_cancelled_when_it_is_left() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    let line = shell("echo began; sleep 60");
    let mut pieces = bed.control.exec(&space, &name, line, None).await.unwrap();
    pieces.next().await.unwrap().unwrap();
    assert_eq!(counted(&bed, "run_shell_command", "success").await, 0.0);
    drop(pieces);
    assert_eq!(counted(&bed, "run_shell_command", "cancelled").await, 1.0);
    let page = bed.control.metrics().await;
    assert!(!page.contains("kind=\"cancelled\""), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_client_leaves_is_cancelled() {
    let bed = Bed::new().await;
    let creation = bed.control.create(named("a"));
    assert!(
        tokio::time::timeout(Duration::ZERO, creation)
            .await
            .is_err()
    );
    assert_eq!(counted(&bed, "create", "cancelled").await, 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_phase_is_counted_once_for_each_creation() {
    let bed = Bed::new().await;
    let step = |step: &str, ms| StepTime {
        step: step.to_owned(),
        duration: Duration::from_millis(ms),
    };
    let steps = [step("record", 250), step("mounts", 1), step("record", 500)];
    bed.control.core.metrics.created(&steps);
    for (series, expected) in [
        (
            "sandboxai_creation_phase_seconds_count{phase=\"record\"} ",
            1.0,
        ),
        (
            "sandboxai_creation_phase_seconds_sum{phase=\"record\"} ",
            0.75,
        ),
        (
            "sandboxai_creation_phase_seconds_count{phase=\"mounts\"} ",
            1.0,
        ),
    ] {
        assert_eq!(value(&bed, series).await, expected, "{series}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_stays_is_a_leak() {
    let bed = Bed::new().await;
    let leaks = async |kind: &str| {
        let series = format!("sandboxai_leaks{{kind=\"{kind}\"}} ");
        value(&bed, &series).await
    };
    let leave = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        bed.runtime.behave(|behaviour| behaviour.leftovers = names);
    };
    leave(&["stays", "passes"]);
    assert_eq!(leaks("thing").await, 0.0, "it may be just in the making");
    tokio::time::sleep(Duration::from_secs(6)).await;
    leave(&["stays", "passes too"]);
    assert_eq!(leaks("thing").await, 0.0);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(leaks("thing").await, 1.0);
    // A sandbox that nobody knows counts as well.
    let stranger = sandbox::Id::random().unwrap();
    let spec = bed.create("known").await.unwrap().sandbox.spec;
    sandbox::Runtime::create(&bed.runtime, &stranger, &spec)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(leaks("sandbox").await, 0.0);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(leaks("sandbox").await, 1.0);
    leave(&[]);
    crate::recover::sweep(&bed.control.core).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let page = bed.control.metrics().await;
    for kind in ["thing", "sandbox"] {
        let none = format!("sandboxai_leaks{{kind=\"{kind}\"}} 0\n");
        assert!(page.contains(&none), "{page}");
    }
}
