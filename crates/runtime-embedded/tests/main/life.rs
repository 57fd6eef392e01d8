//! Making, using, losing, finding and removing sandboxes.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use runtime_embedded::Spawner;
use sandbox::{Condition, Id, Kind, NetworkMode, Runtime as _};

use crate::support::{INIT, Place, SERVER, SPAWNER, kill, processes, shell, spec};

#[tokio::test]
async fn a_sandbox_is_made_used_and_leaves_nothing() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    let created = embedded.create(&id, &spec()).await.unwrap();
    assert!(created.steps.iter().any(|step| step.step == "mounts"));
    let output = shell(&embedded, &id, "echo $GREETING; busybox id -u; busybox pwd").await;
    assert_eq!(output, "hello world\n0\n/\n");
    assert_eq!(embedded.list().await.unwrap().len(), 1);
    embedded.destroy(&id).await.unwrap();
    embedded.destroy(&id).await.unwrap();
    assert!(embedded.list().await.unwrap().is_empty());
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_sandbox_with_network_leaves_nothing() {
    let place = Place::new();
    let embedded = place.start().await;
    let mut spec = spec();
    spec.network = NetworkMode::Open;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec).await.unwrap();
    let inside = shell(
        &embedded,
        &id,
        "busybox ip addr; busybox cat /etc/resolv.conf",
    )
    .await;
    assert!(
        inside.contains("eth0") && inside.contains("nameserver 127.0.0.53"),
        "{inside}"
    );
    let refused = shell(&embedded, &id, "busybox ip link set eth0 down 2>&1").await;
    assert!(refused.contains("not permitted"), "{refused}");
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_failed_creation_says_why_and_leaves_nothing() {
    let place = Place::new();
    let embedded = place.start().await;
    let mut spec = spec();
    spec.image = "no/such".parse().unwrap();
    let id = Id::random().unwrap();
    let error = embedded.create(&id, &spec).await.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidRequest);
    assert!(error.message.contains("test/box"), "{}", error.message);
    assert_eq!(
        embedded.check(&spec).await.unwrap_err().kind,
        Kind::InvalidRequest
    );
    place.assert_nothing_left();
}

#[tokio::test]
async fn an_agent_that_does_not_start_is_told_and_leaves_nothing() {
    let place = Place::new();
    let mut config = place.config(false);
    config.agent = b"neither a program nor a script";
    let embedded = place.start_with(config).await;
    let error = embedded
        .create(&Id::random().unwrap(), &spec())
        .await
        .unwrap_err();
    assert!(
        error.message.contains("start the agent") && error.message.contains("Exec format"),
        "{}",
        error.message
    );
    place.assert_nothing_left();
}

#[tokio::test]
async fn the_same_id_is_made_once() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    let error = embedded.create(&id, &spec()).await.unwrap_err();
    assert_eq!(error.kind, Kind::AlreadyExists);
    assert_eq!(shell(&embedded, &id, "echo alive").await, "alive\n");
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_cancelled_creation_can_be_destroyed_at_any_moment() {
    let place = Place::new();
    let embedded = place.start().await;
    for step in 0..20 {
        let id = Id::random().unwrap();
        let patience = Duration::from_micros(400 * step);
        let _ = tokio::time::timeout(patience, embedded.create(&id, &spec())).await;
        embedded.destroy(&id).await.unwrap();
    }
    place.assert_nothing_left();
}

#[tokio::test]
async fn the_end_of_the_first_process_is_told() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    // Process 1 of a pid namespace cannot be killed from inside.
    shell(&embedded, &id, "busybox kill -9 1").await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), embedded.ended(&id)).await;
    assert!(waiting.is_err(), "{waiting:?}");
    let inits = inits(&place);
    assert_eq!(inits.len(), 1);
    kill(inits[0]);
    let ended = tokio::time::timeout(Duration::from_secs(5), embedded.ended(&id))
        .await
        .unwrap()
        .unwrap();
    assert!(!ended.out_of_memory);
    assert!(ended.detail.contains("signal 9") || ended.detail.contains("does not tell"));
    let found = embedded.list().await.unwrap();
    assert_eq!(found[0].condition, Condition::Dead);
    assert!(!found[0].host_restarted);
    assert!(embedded.connect(&id).await.is_err());
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_paused_sandbox_does_not_run_and_can_be_destroyed() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    embedded.pause(&id).await.unwrap();
    let answer = tokio::time::timeout(
        Duration::from_millis(300),
        shell(&embedded, &id, "echo too early"),
    );
    assert!(answer.await.is_err());
    embedded.resume(&id).await.unwrap();
    assert_eq!(shell(&embedded, &id, "echo again").await, "again\n");
    embedded.pause(&id).await.unwrap();
    embedded.destroy(&id).await.unwrap();
    let error = embedded.pause(&id).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    place.assert_nothing_left();
}

#[tokio::test]
async fn sandboxes_outlive_server_and_spawner_and_are_taken_over() {
    let place = Place::new();
    let id = Id::random().unwrap();
    let mut server = start_server(&place, "lasting", &[&id]);
    server.kill().unwrap();
    server.wait().unwrap();
    let embedded = place.start().await;
    let found = embedded.list().await.unwrap();
    assert!(
        found.len() == 1 && found[0].id == id && found[0].condition == Condition::Alive,
        "{found:?}"
    );
    assert_eq!(
        shell(&embedded, &id, "echo still here").await,
        "still here\n"
    );
    let waiting = tokio::time::timeout(Duration::from_millis(100), embedded.ended(&id)).await;
    assert!(waiting.is_err());
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}

#[tokio::test]
async fn ephemeral_sandboxes_end_with_their_server() {
    let place = Place::new();
    let ids = [Id::random().unwrap(), Id::random().unwrap()];
    let mut server = start_server(&place, "ephemeral", &[&ids[0], &ids[1]]);
    assert!(!place.remains().is_empty());
    server.kill().unwrap();
    server.wait().unwrap();
    place.assert_nothing_left();
}

#[tokio::test]
async fn ephemeral_sandboxes_of_a_killed_spawner_are_swept_by_the_next() {
    let place = Place::new();
    let id = Id::random().unwrap();
    let mut server = start_server(&place, "ephemeral", &[&id]);
    // Both at once: nobody is left to clean up.
    let spawners: Vec<u32> = processes()
        .into_iter()
        .filter(|pid| parent(*pid) == Some(server.id()))
        .collect();
    for pid in spawners {
        kill(pid);
    }
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(!place.remains().is_empty());
    let _embedded = place.start().await;
    place.assert_nothing_left();
}

#[tokio::test]
async fn half_made_sandboxes_of_killed_workers_are_removed() {
    let place = Place::new();
    let embedded = place.start().await;
    for round in 0..20u32 {
        let id = Id::random().unwrap();
        let spec = spec();
        let creating = embedded.create(&id, &spec);
        let folder = place.state().join("sandboxes").join(id.as_str());
        let killing = async {
            // From its first trace on, a little later each time.
            while !folder.exists() {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_micros(300 * u64::from(round))).await;
            let record = fs::read_to_string(folder.join("record.json")).unwrap_or_default();
            let worker = record
                .split_once("\"worker\":{\"pid\":")
                .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
            if let Some(worker) = worker
                && parent(worker).is_some()
            {
                let _ = Command::new("kill")
                    .args(["-9", &u32::to_string(&worker)])
                    .stderr(Stdio::null())
                    .status();
            }
        };
        let (created, ()) = tokio::join!(creating, killing);
        drop(created);
        embedded.destroy(&id).await.unwrap();
    }
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_dead_spawner_is_told() {
    let place = Place::new();
    let config = place.config(false);
    let spawner = Spawner::launch(&config).unwrap();
    let process = spawner.process_id();
    let embedded = runtime_embedded::Embedded::start(config, spawner)
        .await
        .unwrap();
    kill(process);
    let error = embedded.list().await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(
        error.message.contains("restart the server"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_tree_20000_folders_deep_is_removed() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    // As if made from inside, where starting a program per folder takes too long.
    let upper = place
        .state()
        .join("sandboxes")
        .join(id.as_str())
        .join("upper");
    let mut at = rustix::fs::open(
        upper,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    for _ in 0..20_000 {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        at = rustix::fs::openat(
            &at,
            "d",
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
    }
    drop(at);
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left_after(Duration::from_secs(60));
}

/// A server of its own process that has made these sandboxes.
fn start_server(place: &Place, mode: &str, ids: &[&Id]) -> Child {
    let mut server = Command::new(SERVER)
        .arg(place.path())
        .args([SPAWNER, INIT, mode])
        .args(ids.iter().map(|id| id.as_str()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    server
}

/// The first processes of this place's sandboxes.
fn inits(place: &Place) -> Vec<u32> {
    fs::read_dir(place.state().join("sandboxes"))
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let record = fs::read_to_string(entry.path().join("record.json")).ok()?;
            let (_, rest) = record.split_once("\"init\":{\"pid\":")?;
            rest.split(',').next()?.parse().ok()
        })
        .collect()
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("PPid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Lines that leave one of everything in the writable layer.
const SCATTER: &str = "cd /root && echo kept > file && ln file same && ln -s file link && mkdir -p dir/sub && \
    busybox chown 1000:1001 dir && chmod 4755 file && rm -r /lib64/none /tmp/old 2>/dev/null; \
    rm /bin/sh.gone 2>/dev/null; mkfifo fifo; dd if=/dev/zero of=sparse bs=1 count=0 seek=1000000000 2>/dev/null; \
    rm -rf /home; mkdir /home; echo";
/// All processes inside.
const PROCESSES: &str = "echo /proc/[0-9]*";
/// What there is of it then, with owners and modes.
const LOOK: &str = "cd /root && cat file same link && stat -c '%n %u:%g %a %h %s' file link dir sparse fifo | sort; ls -a /root /home";

#[tokio::test]
async fn a_stopped_sandbox_starts_with_its_files_and_new_processes() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    shell(&embedded, &id, SCATTER).await;
    shell(&embedded, &id, "busybox sleep 1000 &").await;
    let processes = shell(&embedded, &id, PROCESSES).await;
    let before = shell(&embedded, &id, LOOK).await;
    assert!(before.starts_with("kept\nkept\nkept\n"), "{before}");
    embedded.stop(&id).await.unwrap();
    assert_eq!(
        embedded.list().await.unwrap()[0].condition,
        Condition::Stopped
    );
    // The link takes its time to go; nothing else but files is left.
    let remains = place.remains();
    let only_files = remains
        .iter()
        .all(|left| left.contains("sandboxes") || left.contains("slot") || left.contains("link"));
    assert!(only_files, "{remains:?}");
    embedded.start(&id, &spec()).await.unwrap();
    assert_eq!(shell(&embedded, &id, LOOK).await, before);
    let after = shell(&embedded, &id, PROCESSES).await;
    assert!(
        after.split(' ').count() < processes.split(' ').count(),
        "{processes} {after}"
    );
    embedded.stop(&id).await.unwrap();
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}

#[tokio::test]
async fn archived_files_come_back_under_the_ids_of_another_slot() {
    let place = Place::new();
    let embedded = place.start().await;
    let (id, other) = (Id::random().unwrap(), Id::random().unwrap());
    embedded.create(&id, &spec()).await.unwrap();
    shell(&embedded, &id, SCATTER).await;
    let before = shell(&embedded, &id, LOOK).await;
    embedded.stop(&id).await.unwrap();
    embedded.archive(&id).await.unwrap();
    let folder = place.state().join("sandboxes").join(id.as_str());
    assert!(!folder.join("upper").exists() && !folder.join("work").exists());
    assert!(
        std::fs::metadata(folder.join("pack.tar.zst"))
            .unwrap()
            .len()
            < 20_000
    );
    // Takes the slot that is free now, or another one: both must do.
    for _ in 0..2 {
        embedded.create(&other, &spec()).await.unwrap();
        embedded.restore(&id).await.unwrap();
        embedded.start(&id, &spec()).await.unwrap();
        assert_eq!(shell(&embedded, &id, LOOK).await, before);
        embedded.destroy(&other).await.unwrap();
        embedded.stop(&id).await.unwrap();
        embedded.archive(&id).await.unwrap();
    }
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}

#[tokio::test]
async fn stopped_sandboxes_outlive_the_slots_of_the_host() {
    let place = Place::new();
    let (id, other) = (Id::random().unwrap(), Id::random().unwrap());
    let before = {
        let embedded = place.start().await;
        embedded.create(&id, &spec()).await.unwrap();
        shell(&embedded, &id, SCATTER).await;
        let before = shell(&embedded, &id, LOOK).await;
        embedded.stop(&id).await.unwrap();
        before
    };
    // As after a restart of the host, when another one was faster to take the slot.
    let slots = place.path().join("host/slots");
    for slot in std::fs::read_dir(&slots).unwrap() {
        std::fs::remove_file(slot.unwrap().path()).unwrap();
    }
    let embedded = place.start().await;
    embedded.create(&other, &spec()).await.unwrap();
    embedded.start(&id, &spec()).await.unwrap();
    assert_eq!(shell(&embedded, &id, LOOK).await, before);
    for id in [&id, &other] {
        embedded.destroy(id).await.unwrap();
    }
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_dead_sandbox_can_be_stopped_and_started() {
    let place = Place::new();
    let embedded = place.start().await;
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    shell(&embedded, &id, "echo kept > /root/file").await;
    kill(inits(&place)[0]);
    embedded.ended(&id).await.unwrap();
    embedded.stop(&id).await.unwrap();
    embedded.start(&id, &spec()).await.unwrap();
    assert_eq!(shell(&embedded, &id, "cat /root/file").await, "kept\n");
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}

#[tokio::test]
async fn memory_in_use_cannot_be_taken_away() {
    let place = Place::new();
    let embedded = place.start().await;
    if embedded.capabilities().limits.is_err() {
        return;
    }
    let id = Id::random().unwrap();
    embedded.create(&id, &spec()).await.unwrap();
    // Memory that cannot be freed: a file in memory.
    shell(
        &embedded,
        &id,
        "dd if=/dev/zero of=/dev/shm/big bs=1M count=20 2>/dev/null; echo",
    )
    .await;
    let mut limits = spec().limits;
    limits.memory_bytes = 10 << 20;
    let error = embedded.resize(&id, &limits).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict, "{error}");
    assert!(error.message.contains("memory_bytes"), "{error}");
    assert_eq!(shell(&embedded, &id, "echo alive").await, "alive\n");
    limits.memory_bytes = 400 << 20;
    embedded.resize(&id, &limits).await.unwrap();
    shell(&embedded, &id, "rm /dev/shm/big").await;
    limits.memory_bytes = 64 << 20;
    embedded.resize(&id, &limits).await.unwrap();
    embedded.destroy(&id).await.unwrap();
    place.assert_nothing_left();
}
