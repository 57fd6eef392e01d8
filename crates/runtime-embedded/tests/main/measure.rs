//! How long sandboxes take; run by hand:
//! `cargo test --release -p sandboxai-runtime-embedded --test main -- --ignored --nocapture measure`

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sandbox::{Id, NetworkMode, Runtime as _};

use crate::support::{Place, shell, spec};

const ROUNDS: usize = 200;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!(
        "{name:>12}: p50 {:?}  p95 {:?}  min {:?}",
        times[times.len() / 2],
        times[times.len() * 95 / 100],
        times[0]
    );
}

async fn measure(network: NetworkMode) {
    let place = Place::new();
    let embedded = place.start().await;
    let mut spec = spec();
    spec.network = network;
    let (mut create, mut first, mut destroy) = (Vec::new(), Vec::new(), Vec::new());
    let mut steps: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let id = Id::random().unwrap();
        let start = Instant::now();
        let created = embedded.create(&id, &spec).await.unwrap();
        create.push(start.elapsed());
        assert_eq!(shell(&embedded, &id, "echo hi").await, "hi\n");
        first.push(start.elapsed());
        for step in created.steps {
            steps.entry(step.step).or_default().push(step.duration);
        }
        let start = Instant::now();
        embedded.destroy(&id).await.unwrap();
        destroy.push(start.elapsed());
    }
    println!("network {}", network.as_str());
    show("create", create);
    show("first answer", first);
    show("destroy", destroy);
    for (step, times) in steps {
        println!("{step:>12}: {:?}", median(times));
    }
    place.assert_nothing_left();
}

#[tokio::test]
#[ignore = "takes a minute and proves nothing"]
async fn measure_without_network() {
    measure(NetworkMode::None).await;
}

#[tokio::test]
#[ignore = "takes a minute and proves nothing"]
async fn measure_with_network() {
    measure(NetworkMode::Open).await;
}
