use crate::testing::*;
use crate::*;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use testkit::FakeRuntime;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timing() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let runtime = FakeRuntime::new();
    let mut config = config(folder.path().join("store"));
    config.sandboxes_max = 10000;
    let control = Control::start(config, Arc::new(runtime.clone()), Arc::new(SystemClock))
        .await
        .unwrap();
    let mut times = vec![];
    let mut last = None;
    for i in 0..500 {
        let begun = Instant::now();
        let created = control.create(named(&format!("s{i}"))).await.unwrap();
        times.push(begun.elapsed());
        last = Some(created);
    }
    times.sort();
    let steps = last.unwrap().steps;
    println!(
        "create: p50 {:?} p90 {:?} p99 {:?} max {:?} {:?}",
        times[250], times[450], times[495], times[499], steps
    );
    let (space, name) = at("s7");
    let id = control.get(&space, &name).await.unwrap().id;
    let mut with = vec![];
    for _ in 0..5000 {
        let begun = Instant::now();
        control.stat_file(&space, &name, "/x").await.unwrap_err();
        with.push(begun.elapsed());
    }
    with.sort();
    let mut stream = sandbox::Runtime::connect(&runtime, &id).await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let frame = agent_protocol::frame::encode_message(&agent_protocol::Request::File(
        agent_protocol::FileRequest::Stat { path: "/x".into() },
    ))
    .unwrap();
    let mut without = vec![];
    let mut buffer = vec![0; 4096];
    for _ in 0..5000 {
        let begun = Instant::now();
        stream.write_all(&frame).await.unwrap();
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 5);
        without.push(begun.elapsed());
    }
    without.sort();
    println!(
        "stat with control p50 {:?} p99 {:?}; bare p50 {:?} p99 {:?}",
        with[2500], with[4950], without[2500], without[4950]
    );
    let mut execs = vec![];
    for _ in 0..3000 {
        let begun = Instant::now();
        let pieces = control
            .exec(&space, &name, shell("echo hi"), None)
            .await
            .unwrap();
        collect(pieces, 100).await.unwrap();
        execs.push(begun.elapsed());
    }
    execs.sort();
    println!("exec p50 {:?} p99 {:?}", execs[1500], execs[2970]);
    let begun = Instant::now();
    for i in 0..500 {
        control
            .delete(&space, &format!("s{i}").parse().unwrap())
            .await
            .unwrap();
    }
    println!("delete {:?} each", begun.elapsed() / 500);
    // find only
    control.create(named("z")).await.unwrap();
    let (space, name) = at("z");
    let begun = Instant::now();
    for _ in 0..100000 {
        control.core.registry.find(&space, &name).unwrap();
    }
    println!("find {:?}", begun.elapsed() / 100000);
    let r = control.core.registry.find(&space, &name).unwrap();
    let begun = Instant::now();
    for _ in 0..100000 {
        let s = crate::agent::Session::open(&runtime, &r).await.unwrap();
        drop(s);
    }
    println!("open+drop {:?}", begun.elapsed() / 100000);
    // throughput
    let chunk = bytes::Bytes::from(vec![7u8; 1 << 20]);
    let content: PieceStream<bytes::Bytes> = Box::pin(futures_util::stream::iter(
        (0..100).map(move |_| Ok(chunk.clone())),
    ));
    let begun = Instant::now();
    control
        .write_file(&space, &name, "/f", None, false, content)
        .await
        .unwrap();
    println!("100 MiB up {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut f = control
        .read_file(&space, &name, "/f", 0, None)
        .await
        .unwrap();
    let mut n = 0;
    use futures_util::StreamExt;
    while let Some(b) = f.content.next().await {
        n += b.unwrap().len();
    }
    println!("100 MiB down {:?} {n}", begun.elapsed());
    control.shutdown(Duration::from_secs(5)).await.unwrap();
}
