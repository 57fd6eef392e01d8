//! The suite that every runtime must pass, over a real engine.
//!
//! `scripts/test.sh` starts an engine of its own and runs this with
//! `SANDBOXAI_TEST_DOCKER` (where it listens), `SANDBOXAI_TEST_AGENT` (the agent's
//! program) and `SANDBOXAI_TEST_IMAGE` (a small image that the engine has).

#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{collections::BTreeMap, time::Duration};

use runtime_docker::{Config, Docker, Guard, put_agent};
use sandbox::{Condition, Id, Images as _, Lease, Limits, NetworkMode, NewImage, Runtime, Spec};

#[expect(
    clippy::disallowed_methods,
    reason = "tests have no configuration to read it from"
)]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test.sh"))
}

async fn docker(scope: &str) -> (Docker, Spec, tempfile::TempDir) {
    let run_dir = tempfile::tempdir().unwrap();
    let config = Config {
        host: variable("SANDBOXAI_TEST_DOCKER"),
        scope: scope.to_owned(),
        run_dir: run_dir.path().to_owned(),
        agent: std::fs::read(variable("SANDBOXAI_TEST_AGENT"))
            .unwrap()
            .leak(),
        oci_runtime: None,
        runtime_classes: Vec::new(),
        seccomp_profile: None,
        guard: Guard::Off,
    };
    put_agent(&config).unwrap();
    let spec = Spec {
        image: variable("SANDBOXAI_TEST_IMAGE").parse().unwrap(),
        env: BTreeMap::new(),
        limits: Limits {
            memory_bytes: 256 << 20,
            ..Limits::default()
        },
        network: NetworkMode::None,
        lease: Lease::default(),
        runtime_class: None,
    };
    (Docker::start(config).await.unwrap(), spec, run_dir)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine: scripts/test.sh runs it with one"]
async fn the_engine_passes_the_suite() {
    let (docker, spec, _run_dir) = docker("suite").await;
    testkit::check_runtime(&docker, &spec).await.unwrap();
    assert_eq!(Runtime::list(&docker).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine: scripts/test.sh runs it with one"]
async fn scopes_do_not_see_each_other_and_an_end_is_told() {
    let (docker_one, spec, _one) = docker("one").await;
    let (docker_two, _, _two) = docker("two").await;
    let id = Id::random().unwrap();
    docker_one.create(&id, &spec).await.unwrap();
    assert_eq!(Runtime::list(&docker_two).await.unwrap(), []);
    let ended = docker_one.ended(&id);
    let stopped = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        docker_one.stop(&id).await.unwrap();
    };
    let (ended, ()) = tokio::join!(ended, stopped);
    assert!(!ended.unwrap().out_of_memory);
    let found = Runtime::list(&docker_one).await.unwrap();
    assert_eq!(found[0].condition, Condition::Stopped);
    docker_one.destroy(&id).await.unwrap();
    docker_one.destroy(&id).await.unwrap();
    assert_eq!(Runtime::list(&docker_one).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine: scripts/test.sh runs it with one"]
async fn images_are_found_derived_and_removed() {
    let (docker, spec, _run_dir) = docker("images").await;
    let base = docker.find(&spec.image).await.unwrap();
    let mut new = NewImage {
        name: Some("sandboxai-test/derived:1".parse().unwrap()),
        config: base.config.clone(),
        built_from: Some("a key".to_owned()),
    };
    new.config.workdir = "/somewhere".to_owned();
    let derived = docker.derive(&spec.image, &new).await.unwrap();
    assert_eq!(derived.config.workdir, "/somewhere");
    assert_eq!(derived.built_from.as_deref(), Some("a key"));
    let age = i128::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
        - i128::from(derived.created_ms);
    assert!((0..60_000).contains(&age), "made {age} ms ago");
    let found = docker.find_built("a key").await.unwrap();
    assert_eq!(found.map(|found| found.digest), Some(derived.digest));
    let name = new.name.unwrap();
    docker.remove(&name).await.unwrap();
    assert_eq!(
        docker.find(&name).await.unwrap_err().kind,
        sandbox::Kind::NotFound
    );
}
