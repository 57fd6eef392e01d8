use std::{collections::BTreeMap, time::Duration};

use agent_protocol::{Exec, TtySize};
use sandbox::Kind;
use testkit::Misbehaviour;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    End, Piece, collect,
    testing::{Bed, at, input, shell},
};

/// A bed with one sandbox, and an echo on its port 7.
async fn bed() -> (Bed, testkit::FakeAgent) {
    let bed = Bed::new().await;
    let id = bed.create("a").await.unwrap().sandbox.id;
    let agent = bed.runtime.agent(&id).unwrap();
    agent.listen(7, |stream| {
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(stream);
            to.write_all(b"hello ").await.unwrap();
            let _closed = tokio::io::copy(&mut from, &mut to).await;
            let _closed = to.shutdown().await;
        });
    });
    (bed, agent)
}

#[tokio::test(start_paused = true)]
async fn places_come_from_the_agent() {
    let (bed, agent) = bed().await;
    let (space, name) = at("a");
    let places = bed.control.places(&space, &name).await.unwrap();
    assert_eq!((&*places.workdir, &*places.home), ("/work", "/root"));
    let disk = bed.control.disk(&space, &name).await.unwrap();
    assert!(disk.used_bytes < disk.total_bytes);
    agent.misbehave(Misbehaviour::WrongReply);
    let error = bed.control.places(&space, &name).await.unwrap_err();
    assert_eq!(error.kind, Kind::SandboxLost);
    let error = bed.control.disk(&space, &name).await.unwrap_err();
    assert_eq!(error.kind, Kind::SandboxLost);
}

#[tokio::test(start_paused = true)]
async fn a_port_carries_raw_bytes_and_both_ends_close_alone() {
    let (bed, agent) = bed().await;
    let (space, name) = at("a");
    let mut port = bed.control.connect_port(&space, &name, 7).await.unwrap();
    port.write_all(&[0, 255, 1]).await.unwrap();
    port.shutdown().await.unwrap();
    let mut said = Vec::new();
    port.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"hello \x00\xff\x01");
    drop(port);
    let error = bed.control.connect_port(&space, &name, 8).await;
    assert_eq!(error.map(drop).unwrap_err().kind, Kind::NotFound);
    agent.misbehave(Misbehaviour::WrongReply);
    let error = bed.control.connect_port(&space, &name, 7).await;
    assert_eq!(error.map(drop).unwrap_err().kind, Kind::SandboxLost);
}

#[tokio::test(start_paused = true)]
async fn a_port_is_an_operation_while_it_is_open() {
    let bed = Bed::with(|config| {
        config.defaults.idle_timeout = Some(Duration::from_secs(60));
    })
    .await;
    let id = bed.create("a").await.unwrap().sandbox.id;
    let agent = bed.runtime.agent(&id).unwrap();
    agent.listen(7, |stream| {
        tokio::spawn(async move {
            let _open = stream;
            std::future::pending::<()>().await;
        });
    });
    let (space, name) = at("a");
    let port = bed.control.connect_port(&space, &name, 7).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    bed.control.get(&space, &name).await.unwrap();
    drop(port);
    assert!(bed.wait_for_end("a").await.contains("idle"));
}

#[tokio::test(start_paused = true)]
async fn a_port_ends_with_its_sandbox_and_when_that_is_paused() {
    for pause in [true, false] {
        let (bed, _) = bed().await;
        let (space, name) = at("a");
        let mut port = bed.control.connect_port(&space, &name, 7).await.unwrap();
        let mut greeting = [0; 6];
        port.read_exact(&mut greeting).await.unwrap();
        let reading = tokio::spawn(async move {
            let mut byte = [0];
            let read = port.read(&mut byte).await;
            (read.map_or(0, |count| count), port)
        });
        tokio::task::yield_now().await;
        if pause {
            bed.control.pause(&space, &name).await.unwrap();
        } else {
            bed.delete("a").await.unwrap();
        }
        let (count, mut port) = reading.await.unwrap();
        assert_eq!(count, 0);
        for _ in 0..2 {
            port.write_all(b"x").await.unwrap_err();
        }
        let again = bed.control.connect_port(&space, &name, 7).await;
        assert!(again.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_are_opened_used_listed_and_closed() {
    let (bed, agent) = bed().await;
    let (space, name) = at("a");
    let control = &bed.control;
    let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
    let open = || control.open_session(&space, &name, "s", Some("/there"), env.clone());
    open().await.unwrap();
    assert_eq!(open().await.unwrap_err().kind, Kind::AlreadyExists);
    let command = control.run_in_session(&space, &name, "s", "pwd; printenv A; exit 3");
    let process = command.await.unwrap().process;
    let output = control.process_output(&space, &name, process, true).await;
    let said = collect(output.unwrap(), 100).await.unwrap();
    assert_eq!(said.stdout.to_text(), "/there\n1\n");
    assert!(matches!(said.end, End::Exited(exit) if exit.code == 3));
    let sessions = control.sessions(&space, &name).await.unwrap();
    assert_eq!(sessions[0].session, "s");
    assert_eq!(sessions[0].commands[0].exit.as_ref().unwrap().code, 3);
    control.close_session(&space, &name, "s").await.unwrap();
    let error = control.close_session(&space, &name, "s").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    let error = control.run_in_session(&space, &name, "s", "true").await;
    assert_eq!(error.unwrap_err().kind, Kind::NotFound);
    agent.misbehave(Misbehaviour::WrongReply);
    let error = control.sessions(&space, &name).await.unwrap_err();
    assert_eq!(error.kind, Kind::SandboxLost);
    let error = control.run_in_session(&space, &name, "s", "true").await;
    assert_eq!(error.unwrap_err().kind, Kind::SandboxLost);
}

#[tokio::test(start_paused = true)]
async fn terminals_tags_and_news_of_processes() {
    let (bed, _) = bed().await;
    let (space, name) = at("a");
    let control = &bed.control;
    let size = |cols, rows| TtySize { cols, rows };
    let exec = Exec {
        tty: Some(size(80, 24)),
        tag: Some("t".to_owned()),
        ..shell("echo old; cat")
    };
    let start = || control.start_process(&space, &name, exec.clone());
    let process = start().await.unwrap().process;
    assert_eq!(start().await.unwrap_err().kind, Kind::AlreadyExists);
    control
        .resize_terminal(&space, &name, process, size(100, 30))
        .await
        .unwrap();
    let listed = control.processes(&space, &name).await.unwrap();
    assert_eq!(listed[0].tty, Some(size(100, 30)));
    assert_eq!(listed[0].tag.as_deref(), Some("t"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let news = control.process_news(&space, &name, process).await.unwrap();
    let typed = input(&["new"]);
    let following = tokio::spawn(collect(news, 100));
    tokio::time::sleep(Duration::from_secs(1)).await;
    control
        .process_input(&space, &name, process, typed, true)
        .await
        .unwrap();
    let said = following.await.unwrap().unwrap();
    assert_eq!(said.stdout.to_text(), "new");
    let plain = control.start_process(&space, &name, shell("echo")).await;
    let process = plain.unwrap().process;
    let refused = control.resize_terminal(&space, &name, process, size(1, 1));
    assert_eq!(refused.await.unwrap_err().kind, Kind::InvalidRequest);
}

#[tokio::test(start_paused = true)]
async fn the_environment_changes_for_what_starts_later() {
    let (bed, _) = bed().await;
    let (space, name) = at("a");
    let set = BTreeMap::from([("NEW".to_owned(), "1".to_owned())]);
    let changed = bed.control.set_environment(&space, &name, set, vec![]);
    changed.await.unwrap();
    let said = bed.exec("a", "printenv NEW").await.unwrap();
    assert_eq!(said.stdout.to_text(), "1\n");
    let unset = vec!["NEW".to_owned()];
    let changed = bed
        .control
        .set_environment(&space, &name, BTreeMap::new(), unset);
    changed.await.unwrap();
    let said = bed.exec("a", "printenv NEW").await.unwrap();
    assert_eq!(said.stdout.to_text(), "");
}

#[tokio::test(start_paused = true)]
async fn kernels_are_started_listed_and_ended() {
    let (bed, agent) = bed().await;
    let (space, name) = at("a");
    let control = &bed.control;
    let start = || control.start_kernel(&space, &name, "k", Some("/there"));
    start().await.unwrap();
    assert_eq!(start().await.unwrap_err().kind, Kind::AlreadyExists);
    let kernels = control.kernels(&space, &name).await.unwrap();
    assert_eq!(
        (&*kernels[0].context, &*kernels[0].cwd, kernels[0].alive),
        ("k", "/there", true)
    );
    control.end_kernel(&space, &name, "k").await.unwrap();
    let error = control.end_kernel(&space, &name, "k").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    agent.misbehave(Misbehaviour::WrongReply);
    let error = control.kernels(&space, &name).await.unwrap_err();
    assert_eq!(error.kind, Kind::SandboxLost);
    let error = start().await.unwrap_err();
    assert_eq!(error.kind, Kind::SandboxLost);
}

#[tokio::test(start_paused = true)]
async fn files_are_searched_and_changed() {
    let (bed, agent) = bed().await;
    let (space, name) = at("a");
    let control = &bed.control;
    for (path, content) in [("/d/a.txt", "one\ntwo one\n"), ("/d/b.rs", "three\n")] {
        let written = control.write_file(&space, &name, path, None, false, input(&[content]));
        written.await.unwrap();
    }
    let found = control.grep(&space, &name, "/d", "one", 10).await.unwrap();
    let lines: Vec<u64> = found.iter().map(|found| found.line).collect();
    assert_eq!(lines, [1, 2]);
    let limited = control.grep(&space, &name, "/d", "one", 1).await.unwrap();
    assert_eq!(limited.len(), 1);
    let globbed = control.glob(&space, &name, "/d", "*.rs", 10).await.unwrap();
    assert_eq!(globbed[0].path, "/d/b.rs");
    let paths = vec!["/d/a.txt".to_owned(), "/d/none".to_owned()];
    let replaced = control.replace(&space, &name, paths.clone(), "one", "1");
    let outcomes = replaced.await.unwrap();
    assert_eq!((outcomes[0].replaced, &outcomes[0].failure), (2, &None));
    assert!(outcomes[1].failure.is_some());
    assert_eq!(agent.file("/d/a.txt").unwrap(), b"1\ntwo 1\n");
    for how in [
        Misbehaviour::EndlessMatches,
        Misbehaviour::EndlessListing,
        Misbehaviour::WrongReply,
        Misbehaviour::NotJson,
        Misbehaviour::HugeFrame,
        Misbehaviour::JsonBomb,
    ] {
        agent.misbehave(how);
        let error = control.grep(&space, &name, "/d", "one", 500).await;
        assert_eq!(error.unwrap_err().kind, Kind::SandboxLost, "{how:?}");
        let error = control.glob(&space, &name, "/d", "*", 500).await;
        assert_eq!(error.unwrap_err().kind, Kind::SandboxLost, "{how:?}");
        let error = control
            .replace(&space, &name, paths.clone(), "a", "b")
            .await;
        assert_eq!(error.unwrap_err().kind, Kind::SandboxLost, "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hidden_results_are_not_shown() {
    let (bed, _) = bed().await;
    let (space, name) = at("a");
    let cell = crate::Cell {
        hide_result: true,
        ..crate::testing::cell("1")
    };
    let pieces = bed.control.cell(&space, &name, cell).await.unwrap();
    assert!(collect(pieces, 100).await.unwrap().displays.is_empty());
    let pieces = bed.control.cell(&space, &name, crate::testing::cell("1"));
    let mut pieces = pieces.await.unwrap();
    let first = futures_util::StreamExt::next(&mut pieces).await.unwrap();
    assert!(matches!(first.unwrap(), Piece::Display { .. }));
}
