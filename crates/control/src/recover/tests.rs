use std::time::Duration;

use sandbox::{Ended, Id, Kind, State};
use tokio::time::{Instant, timeout};

use crate::testing::{Bed, at};

const SECOND: Duration = Duration::from_secs(1);

fn killed() -> Ended {
    Ended {
        out_of_memory: false,
        detail: "killed by signal 9".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn running_sandboxes_go_on_with_what_is_in_them() {
    let bed = Bed::new().await;
    let before = bed.create("a").await.unwrap().sandbox;
    bed.cell("a", "x = 7").await.unwrap();
    let bed = bed.restart().await;
    let after = bed.control.get(&before.space, &before.name).await.unwrap();
    assert_eq!((after.id, after.spec), (before.id, before.spec));
    assert_eq!(after.state, State::Running);
    let said = bed.cell("a", "x").await.unwrap();
    assert_eq!(said.displays[0].0["text/plain"], "7");
    assert_eq!(bed.create("a").await.unwrap_err().kind, Kind::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn half_made_and_half_removed_sandboxes_are_removed() {
    let bed = Bed::new().await;
    bed.create("removed").await.unwrap();
    bed.runtime.behave(|behaviour| {
        behaviour.create_time = 10 * SECOND;
        behaviour.destroy_time = 10 * SECOND;
    });
    let (made, removed) = (bed.create("made"), bed.delete("removed"));
    timeout(SECOND, async { tokio::join!(made, removed) })
        .await
        .unwrap_err();
    let quick = |runtime: &testkit::FakeRuntime| {
        runtime.behave(|behaviour| *behaviour = testkit::Behaviour::default());
    };
    let bed = bed.restart_after(quick).await;
    assert!(bed.runtime.ids().is_empty());
    let made = bed.epitaph("made").await;
    assert!(made.contains("ended while it was being made"), "{made}");
    assert!(bed.epitaph("removed").await.contains("it was deleted"));
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_was_just_being_paused_is_not_taken_for_a_lost_one() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    bed.runtime
        .behave(|behaviour| behaviour.pause_time = SECOND);
    let (space, name) = at("a");
    let pausing = bed.control.pause(&space, &name);
    timeout(SECOND / 2, pausing).await.unwrap_err();
    let bed = bed.restart().await;
    let sandbox = bed.control.get(&space, &name).await.unwrap();
    assert_eq!(sandbox.state, State::Paused, "it may be frozen");
    bed.control.resume(&space, &name).await.unwrap();
    bed.exec("a", "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_ended_meanwhile_is_told_with_what_is_known() {
    let bed = Bed::new().await;
    let [died, lost, stays] = ["died", "lost", "stays"];
    let died_id = bed.create(died).await.unwrap().sandbox.id;
    let lost_id = bed.create(lost).await.unwrap().sandbox.id;
    bed.create(stays).await.unwrap();
    let core = bed.control.core.clone();
    let bed = bed.restart_after(|runtime| {
        runtime.kill(&died_id, killed());
        let runtime = runtime.clone();
        // The runtime forgets one entirely.
        futures_util::FutureExt::now_or_never(async move {
            sandbox::Runtime::destroy(&runtime, &lost_id).await.unwrap();
        });
        drop(core);
    });
    let bed = bed.await;
    assert!(
        bed.epitaph(died)
            .await
            .contains("while its server was not running")
    );
    assert!(bed.epitaph(lost).await.contains("nothing was left of it"));
    bed.exec(stays, "echo").await.unwrap();
    assert_eq!(bed.runtime.ids().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_host_is_told() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let bed = bed.restart_after(testkit::FakeRuntime::restart_host).await;
    assert!(bed.epitaph("a").await.contains("the host was restarted"));
    assert!(bed.runtime.ids().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_of_is_removed() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let stranger = Id::random().unwrap();
    let left = stranger.clone();
    let bed = bed
        .restart_after(move |runtime| runtime.leave_behind(left))
        .await;
    assert_eq!(bed.runtime.ids().len(), 1);
    assert!(!bed.runtime.ids().contains(&stranger));
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_does_not_answer_any_more_does_not_hold_up_the_start() {
    let bed = Bed::new().await;
    let id = bed.create("a").await.unwrap().sandbox.id;
    bed.create("b").await.unwrap();
    bed.runtime
        .agent(&id)
        .unwrap()
        .misbehave(testkit::Misbehaviour::Silent);
    let begun = Instant::now();
    let bed = bed.restart().await;
    assert!(begun.elapsed() < SECOND);
    bed.exec("b", "echo").await.unwrap();
    let epitaph = bed.wait_for_end("a").await;
    assert!(epitaph.contains("did not answer"), "{epitaph}");
}

#[tokio::test(start_paused = true)]
async fn tombstones_and_logs_survive_a_restart() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    bed.delete("a").await.unwrap();
    let bed = bed.restart().await;
    assert!(bed.epitaph("a").await.contains("it was deleted"));
    bed.delete("a").await.unwrap();
    let (space, name) = at("a");
    assert_eq!(
        bed.control
            .events(&space, &name, 0, 10)
            .await
            .unwrap()
            .len(),
        2
    );
    bed.create("a").await.unwrap();
    assert!(bed.store().exists());
}

#[tokio::test(start_paused = true)]
async fn a_server_does_not_start_when_the_runtime_cannot_tell_what_it_has() {
    // Otherwise it would take every sandbox for lost.
    struct Blind;
    #[async_trait::async_trait]
    impl sandbox::Runtime for Blind {
        fn capabilities(&self) -> sandbox::Capabilities {
            sandbox::Runtime::capabilities(&testkit::FakeRuntime::new())
        }
        async fn check(&self, _: &sandbox::Spec) -> sandbox::Result<()> {
            Ok(())
        }
        async fn create(&self, _: &Id, _: &sandbox::Spec) -> sandbox::Result<sandbox::Created> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn connect(&self, _: &Id) -> sandbox::Result<sandbox::AgentStream> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn ended(&self, _: &Id) -> sandbox::Result<Ended> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn pause(&self, _: &Id) -> sandbox::Result<()> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn resume(&self, _: &Id) -> sandbox::Result<()> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn stop(&self, _: &Id) -> sandbox::Result<()> {
            panic!("nothing may be stopped")
        }
        async fn start(&self, _: &Id, _: &sandbox::Spec) -> sandbox::Result<sandbox::Created> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn archive(&self, _: &Id) -> sandbox::Result<()> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn restore(&self, _: &Id) -> sandbox::Result<()> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn resize(&self, _: &Id, _: &sandbox::Limits) -> sandbox::Result<()> {
            Err(sandbox::Error::internal("blind"))
        }
        async fn destroy(&self, _: &Id) -> sandbox::Result<()> {
            panic!("nothing may be destroyed")
        }
        async fn list(&self) -> sandbox::Result<Vec<sandbox::Found>> {
            std::future::pending().await
        }
        async fn usage(&self, _: &Id) -> sandbox::Result<sandbox::Usage> {
            Err(sandbox::Error::internal("blind"))
        }
    }
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let path = bed.store();
    let copy = path.with_extension("copy");
    bed.control.shutdown(SECOND).await.unwrap();
    std::fs::copy(&path, &copy).unwrap();
    let (store, memory) = crate::store::Store::open_inline(&copy).unwrap();
    let clock = std::sync::Arc::new(crate::SystemClock);
    let config = crate::testing::config(copy);
    let core = crate::core::Core::new(config, std::sync::Arc::new(Blind), clock, store);
    let error = crate::Control::recovered(core, memory).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
}
