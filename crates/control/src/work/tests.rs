use std::time::Duration;

use agent_protocol::EntryKind;
use bytes::Bytes;
use futures_util::StreamExt;
use sandbox::{Error, Kind};
use testkit::Misbehaviour;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    Create, End, Exit, PieceStream, collect,
    testing::{Bed, at, cell, input, shell},
};

const SECOND: Duration = Duration::from_secs(1);

fn code(end: &End) -> i32 {
    match end {
        End::Exited(exit) => exit.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_says_what_it_says_and_how_it_ended() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let said = bed.exec("a", "echo out;echo err >&2;exit 3").await.unwrap();
    assert_eq!(said.stdout.to_text(), "out\n");
    assert_eq!(said.stderr.to_text(), "err\n");
    assert_eq!(code(&said.end), 3);
    let said = bed.exec("a", "yes 5000000").await.unwrap();
    assert_eq!(said.stdout.bytes.len(), 1 << 20);
    assert_eq!(said.stdout.omitted_bytes, 5_000_000 - (1 << 20));
    assert_eq!(
        bed.runtime.calls().connect,
        1,
        "one connection serves all in turn"
    );
}

#[tokio::test(start_paused = true)]
async fn the_environment_of_the_sandbox_reaches_commands() {
    let bed = Bed::new().await;
    let create = Create {
        env: [("KEY".to_owned(), "value".to_owned())].into(),
        ..crate::testing::named("a")
    };
    bed.control.create(create).await.unwrap();
    let said = bed.exec("a", "printenv KEY").await.unwrap();
    assert_eq!(said.stdout.to_text(), "value\n");
}

#[tokio::test(start_paused = true)]
async fn input_reaches_a_command_while_it_runs() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    let stdin = Some(input(&["one ", "", "two"]));
    let pieces = bed
        .control
        .exec(&space, &name, shell("cat"), stdin)
        .await
        .unwrap();
    let said = collect(pieces, 100).await.unwrap();
    assert_eq!(said.stdout.to_text(), "one two");

    // A command that does not wait for its input: the connection is not used again.
    let stdin: PieceStream<Bytes> = Box::pin(futures_util::stream::pending());
    let pieces = bed
        .control
        .exec(&space, &name, shell("echo"), Some(stdin))
        .await
        .unwrap();
    assert_eq!(code(&collect(pieces, 100).await.unwrap().end), 0);
    assert_eq!(
        bed.exec("a", "echo fine").await.unwrap().stdout.to_text(),
        "fine\n"
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_a_command_cancels_it() {
    let bed = Bed::new().await;
    let id = bed.create("a").await.unwrap().sandbox.id;
    let agent = bed.runtime.agent(&id).unwrap();
    let working = bed.begin("a", "sleep 1000").await;
    assert_eq!(agent.connections(), 1);
    working.abort();
    sleep(SECOND).await;
    assert_eq!(agent.connections(), 0);
    assert_eq!(bed.exec("a", "echo").await.unwrap().stdout.to_text(), "\n");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_kills_a_command_and_leaves_a_kernel() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    let exec = Exec {
        timeout_ms: Some(500),
        ..shell("sleep 100")
    };
    let pieces = bed.control.exec(&space, &name, exec, None).await.unwrap();
    let said = collect(pieces, 100).await.unwrap();
    assert!(matches!(
        said.end,
        End::Exited(Exit {
            timed_out: true,
            ..
        })
    ));
    bed.cell("a", "x = 1").await.unwrap();
    let slow = Cell {
        timeout_ms: Some(500),
        ..cell("sleep(100)")
    };
    let pieces = bed.control.cell(&space, &name, slow).await.unwrap();
    let End::CellEnded(end) = collect(pieces, 100).await.unwrap().end else {
        panic!("not a cell")
    };
    assert_eq!(end.status, CellStatus::TimedOut);
    let kept = bed.cell("a", "x").await.unwrap();
    assert_eq!(kept.displays[0].0["text/plain"], "1");
}

#[tokio::test(start_paused = true)]
async fn cells_keep_state_and_a_dead_kernel_is_in_the_log() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    bed.cell("a", "x = 20\ny = x + 1").await.unwrap();
    let said = bed.cell("a", "print(x)\nx + y").await.unwrap();
    assert_eq!(said.stdout.to_text(), "20\n");
    assert_eq!(said.displays[0].0["text/plain"], "41");
    assert!(said.displays[0].1);
    let End::CellEnded(end) = bed.cell("a", "raise ValueError('no')").await.unwrap().end else {
        panic!("not a cell")
    };
    assert_eq!(end.error_name.as_deref(), Some("ValueError"));
    bed.cell("a", "exit()").await.unwrap();
    let (space, name) = at("a");
    let events = bed.control.events(&space, &name, 0, 100).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!(last.event, "kernel_died");
    assert!(last.detail.as_deref().unwrap().contains("status 0"));
    bed.control
        .interrupt_kernel(&space, &name, "default")
        .await
        .unwrap();
    bed.control
        .restart_kernel(&space, &name, "default")
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn background_processes_run_on_their_own() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    let control = &bed.control;
    let exec = Exec {
        stdin: true,
        ..shell("echo ready;cat")
    };
    let process = control
        .start_process(&space, &name, exec)
        .await
        .unwrap()
        .process;
    sleep(SECOND).await;
    let output = async |follow| {
        let pieces = control
            .process_output(&space, &name, process, follow)
            .await
            .unwrap();
        collect(pieces, 1000).await.unwrap()
    };
    let so_far = output(false).await;
    assert_eq!(
        (so_far.stdout.to_text().as_str(), &so_far.end),
        ("ready\n", &End::Done)
    );
    let (all, sent) = tokio::join!(
        output(true),
        control.process_input(&space, &name, process, input(&["more"]), true)
    );
    sent.unwrap();
    assert_eq!(all.stdout.to_text(), "ready\nmore");
    assert_eq!(code(&all.end), 0);

    let process = control
        .start_process(&space, &name, shell("sleep 1000"))
        .await
        .unwrap()
        .process;
    control
        .signal_process(&space, &name, process, Signal::Sigterm)
        .await
        .unwrap();
    let processes = control.processes(&space, &name).await.unwrap();
    assert_eq!(processes[1].exit.as_ref().unwrap().signal, Some(15));
    let error = control
        .signal_process(&space, &name, 99, Signal::Sigterm)
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn files_of_any_size_go_in_and_come_out() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let (space, name) = at("a");
    let control = &bed.control;
    let chunk = Bytes::from((0..=255u8).cycle().take(700_000).collect::<Vec<_>>());
    let chunks = vec![Ok(chunk.clone()), Ok(Bytes::new()), Ok(chunk.clone())];
    let content: PieceStream<Bytes> = Box::pin(futures_util::stream::iter(chunks));
    let entry = control
        .write_file(&space, &name, "/d/f", Some(0o600), false, content)
        .await;
    assert_eq!(entry.unwrap().size, 1_400_000);

    let read = async |offset, length| {
        let file = control
            .read_file(&space, &name, "/d/f", offset, length)
            .await
            .unwrap();
        let pieces: Vec<_> = file.content.map(Result::unwrap).collect().await;
        pieces.concat()
    };
    assert!(read(0, None).await == [chunk.clone(), chunk.clone()].concat());
    assert_eq!(
        read(699_999, Some(3)).await,
        [chunk[699_999], chunk[0], chunk[1]]
    );

    let listing = control.list_files(&space, &name, "/", 5, 10).await.unwrap();
    let paths: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| entry.path.as_str())
        .collect();
    assert_eq!(
        (paths.as_slice(), listing.truncated),
        (["/d", "/d/f"].as_slice(), false)
    );
    assert!(
        control
            .list_files(&space, &name, "/", 5, 1)
            .await
            .unwrap()
            .truncated
    );
    let made = control
        .make_directory(&space, &name, "/e/g", None)
        .await
        .unwrap();
    assert_eq!(made.kind, EntryKind::Directory);
    control
        .move_file(&space, &name, "/d/f", "/e/f", false)
        .await
        .unwrap();
    let error = control
        .move_file(&space, &name, "/e/g", "/e/f", false)
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::AlreadyExists);
    let mode = control
        .set_permissions(&space, &name, "/e/f", Some(0o755), None, None)
        .await;
    assert_eq!(mode.unwrap().mode, 0o755);
    control
        .remove_file(&space, &name, "/e", true)
        .await
        .unwrap();
    let error = control.stat_file(&space, &name, "/e/f").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    let error = control
        .read_file(&space, &name, "/e/f", 0, None)
        .await
        .unwrap_err();
    assert!(error.message.contains("no such file"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_breaks_leaves_the_old_file() {
    let bed = Bed::new().await;
    let id = bed.create("a").await.unwrap().sandbox.id;
    let (space, name) = at("a");
    let write = async |content: PieceStream<Bytes>| {
        bed.control
            .write_file(&space, &name, "/f", None, false, content)
            .await
    };
    write(input(&["old"])).await.unwrap();
    let broken = vec![
        Ok(Bytes::from_static(b"new")),
        Err(Error::new(Kind::Cancelled, "the client went away")),
    ];
    let error = write(Box::pin(futures_util::stream::iter(broken)))
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);
    let begun = Instant::now();
    let error = write(Box::pin(futures_util::stream::pending()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    assert!(begun.elapsed() <= 61 * SECOND);
    let agent = bed.runtime.agent(&id).unwrap();
    assert_eq!(agent.file("/f").unwrap(), b"old");

    let content = input(&["x"]);
    let refused = bed
        .control
        .write_file(&space, &name, "/proc/x", None, false, content)
        .await;
    assert_eq!(refused.unwrap_err().kind, Kind::Forbidden);
    bed.exec("a", "echo").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whatever_an_agent_does_ends_the_operation_and_nothing_else() {
    use Misbehaviour as M;
    for how in [
        M::Silent,
        M::HangUp,
        M::UnknownFrame,
        M::HugeFrame,
        M::NotJson,
        M::WrongReply,
        M::TalksOn,
        M::JsonBomb,
        M::EndlessListing,
    ] {
        let bed = Bed::new().await;
        let id = bed.create("a").await.unwrap().sandbox.id;
        bed.create("b").await.unwrap();
        let agent = bed.runtime.agent(&id).unwrap();
        agent.misbehave(how);
        let (space, name) = at("a");
        let control = &bed.control;
        let begun = Instant::now();
        let listing = control
            .list_files(&space, &name, "/", 1, 1000)
            .await
            .unwrap_err();
        let stat = control.stat_file(&space, &name, "/").await.unwrap_err();
        let cell = match how {
            // A cell may take as long as it likes.
            M::Silent => Error::lost(""),
            _ => bed.cell("a", "1").await.unwrap_err(),
        };
        for error in [listing, stat, cell] {
            assert_eq!(error.kind, Kind::SandboxLost, "{how:?}: {error}");
        }
        assert!(begun.elapsed() < 60 * SECOND, "{how:?}");
        bed.exec("b", "echo").await.unwrap();
        agent.misbehave(M::None);
        let said = bed.exec("a", "echo fine").await.unwrap();
        assert_eq!(said.stdout.to_text(), "fine\n", "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_cannot_hold_a_command_beyond_its_timeout() {
    let bed = Bed::new().await;
    let id = bed.create("a").await.unwrap().sandbox.id;
    bed.runtime
        .agent(&id)
        .unwrap()
        .misbehave(Misbehaviour::Silent);
    let (space, name) = at("a");
    let exec = Exec {
        timeout_ms: Some(1000),
        ..shell("echo")
    };
    let begun = Instant::now();
    let pieces = bed.control.exec(&space, &name, exec, None).await.unwrap();
    assert_eq!(
        collect(pieces, 10).await.unwrap_err().kind,
        Kind::SandboxLost
    );
    assert!(begun.elapsed() < 20 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_is_refused_here() {
    let bed = Bed::new().await;
    bed.create("a").await.unwrap();
    let error = bed.cell("a", &"x".repeat(17 << 20)).await.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidRequest);
}
