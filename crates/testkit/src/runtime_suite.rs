//! What every runtime must do, whatever it is made of.
//!
//! Run it against each implementation:
//!
//! ```text
//! testkit::check_runtime(&runtime, &spec).await.unwrap();
//! ```

use std::{fmt, future::Future, time::Duration};

use agent_protocol::{Reply, Request, frame};
use sandbox::{AgentStream, Condition, Error, Found, Id, Kind, Runtime, Spec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long one step may take, also on a busy machine.
const STEP_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a paused agent is watched for an answer that it must not give.
const SILENCE: Duration = Duration::from_millis(200);
/// Sandboxes made at the same time.
const CROWD: usize = 8;

/// Which promise a runtime broke.
#[derive(Debug)]
pub struct SuiteFailure(String);

impl fmt::Display for SuiteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SuiteFailure {}

impl SuiteFailure {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    fn of(step: &'static str) -> impl Fn(Error) -> Self {
        move |error| Self(format!("{step}: {:?}: {error}", error.kind))
    }
}

type Outcome<T = ()> = Result<T, SuiteFailure>;

/// Checks every promise of [`Runtime`]. Leaves nothing behind when it succeeds.
///
/// # Errors
/// The first promise that is broken.
pub async fn check_runtime(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    what_does_not_exist(runtime).await?;
    a_whole_life(runtime, spec).await?;
    many_connections(runtime, spec).await?;
    if runtime.capabilities().pause.is_ok() {
        pausing(runtime, spec).await?;
    }
    stopping(runtime, spec).await?;
    if runtime.capabilities().archive.is_ok() {
        archiving(runtime, spec).await?;
    }
    resizing(runtime, spec).await?;
    a_dropped_creation(runtime, spec).await?;
    a_crowd(runtime, spec).await
}

fn must(holds: bool, promise: &str) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(SuiteFailure::new(promise))
    }
}

async fn within<T>(step: &'static str, work: impl Future<Output = T>) -> Outcome<T> {
    tokio::time::timeout(STEP_TIME_MAX, work)
        .await
        .map_err(|_| SuiteFailure::new(format!("{step} took longer than {STEP_TIME_MAX:?}")))
}

fn new_id() -> Outcome<Id> {
    Id::random().map_err(SuiteFailure::of("a new id"))
}

async fn found(runtime: &dyn Runtime, id: &Id) -> Outcome<Option<Found>> {
    let all = within("list", runtime.list())
        .await?
        .map_err(SuiteFailure::of("list"))?;
    Ok(all.into_iter().find(|found| found.id == *id))
}

async fn is_in(runtime: &dyn Runtime, id: &Id, condition: Condition) -> Outcome<bool> {
    let found = found(runtime, id).await?;
    Ok(found.is_some_and(|found| found.condition == condition))
}

async fn make(runtime: &dyn Runtime, spec: &Spec) -> Outcome<Id> {
    let id = new_id()?;
    within("create", runtime.create(&id, spec))
        .await?
        .map_err(SuiteFailure::of("create"))?;
    Ok(id)
}

async fn unmake(runtime: &dyn Runtime, id: &Id) -> Outcome {
    within("destroy", runtime.destroy(id))
        .await?
        .map_err(SuiteFailure::of("destroy"))?;
    must(
        found(runtime, id).await?.is_none(),
        "a destroyed sandbox is not listed",
    )
}

async fn open(runtime: &dyn Runtime, id: &Id) -> Outcome<AgentStream> {
    within("connect", runtime.connect(id))
        .await?
        .map_err(SuiteFailure::of("connect"))
}

async fn send_ping(stream: &mut AgentStream) -> Outcome {
    let frame = frame::encode_message(&Request::Ping)
        .map_err(|error| SuiteFailure::new(error.to_string()))?;
    let sent = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    within("sending a ping", sent)
        .await?
        .map_err(|error| SuiteFailure::new(format!("sending a ping: {error}")))
}

async fn read_pong(stream: &mut AgentStream) -> Outcome {
    let read = async {
        let mut header = [0; frame::HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let header = frame::Header::decode(header).map_err(std::io::Error::other)?;
        let mut payload = vec![0; header.payload_bytes];
        stream.read_exact(&mut payload).await?;
        frame::decode_message::<Reply>(&payload).map_err(std::io::Error::other)
    };
    match within("waiting for a pong", read).await? {
        Ok(Reply::Pong { .. }) => Ok(()),
        Ok(other) => Err(SuiteFailure::new(format!(
            "a ping was answered by {other:?}"
        ))),
        Err(error) => Err(SuiteFailure::new(format!("waiting for a pong: {error}"))),
    }
}

async fn ping(stream: &mut AgentStream) -> Outcome {
    send_ping(stream).await?;
    read_pong(stream).await
}

async fn what_does_not_exist(runtime: &dyn Runtime) -> Outcome {
    let id = new_id()?;
    within("destroy", runtime.destroy(&id))
        .await?
        .map_err(SuiteFailure::of("destroying what does not exist"))?;
    let kind = |result: sandbox::Result<()>| result.map_err(|error| error.kind);
    must(
        kind(within("ended", runtime.ended(&id)).await?.map(drop)) == Err(Kind::NotFound),
        "`ended` of an unknown sandbox is `NotFound`",
    )?;
    must(
        kind(within("usage", runtime.usage(&id)).await?.map(drop)) == Err(Kind::NotFound),
        "`usage` of an unknown sandbox is `NotFound`",
    )?;
    must(
        within("connect", runtime.connect(&id)).await?.is_err(),
        "connecting to an unknown sandbox fails",
    )
}

async fn a_whole_life(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    within("check", runtime.check(spec))
        .await?
        .map_err(SuiteFailure::of("check"))?;
    let id = make(runtime, spec).await?;
    must(
        is_in(runtime, &id, Condition::Alive).await?,
        "a sandbox that was made is listed as alive",
    )?;
    ping(&mut open(runtime, &id).await?).await?;
    let usage = within("usage", runtime.usage(&id))
        .await?
        .map_err(SuiteFailure::of("usage"))?;
    if runtime.capabilities().limits.is_ok() {
        must(usage.pids >= 1, "a living sandbox has a process")?;
    }

    let mut stream = open(runtime, &id).await?;
    let (ended, destroyed) = tokio::join!(
        within("ended", runtime.ended(&id)),
        within("destroy", runtime.destroy(&id)),
    );
    destroyed?.map_err(SuiteFailure::of("destroy"))?;
    // `ended` may also find nothing any more, when the removal was faster.
    let _either = ended?;
    must(
        found(runtime, &id).await?.is_none(),
        "a destroyed sandbox is not listed",
    )?;
    let mut rest = Vec::new();
    let closed = within("closing", stream.read_to_end(&mut rest)).await?;
    must(
        closed.is_err() || rest.is_empty(),
        "a stream of a destroyed sandbox is closed",
    )?;
    must(
        within("connect", runtime.connect(&id)).await?.is_err(),
        "connecting to a destroyed sandbox fails",
    )?;
    unmake(runtime, &id).await
}

async fn many_connections(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    let id = make(runtime, spec).await?;
    let mut streams = Vec::new();
    for _ in 0..CROWD {
        streams.push(open(runtime, &id).await?);
    }
    for stream in &mut streams {
        send_ping(stream).await?;
    }
    for stream in streams.iter_mut().rev() {
        read_pong(stream).await?;
        ping(stream).await?;
    }
    unmake(runtime, &id).await
}

async fn pausing(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    let id = make(runtime, spec).await?;
    let mut stream = open(runtime, &id).await?;
    ping(&mut stream).await?;
    within("pause", runtime.pause(&id))
        .await?
        .map_err(SuiteFailure::of("pause"))?;
    send_ping(&mut stream).await?;
    must(
        tokio::time::timeout(SILENCE, stream.read_u8())
            .await
            .is_err(),
        "a paused sandbox does not answer",
    )?;
    must(
        is_in(runtime, &id, Condition::Alive).await?,
        "a paused sandbox is alive",
    )?;
    within("resume", runtime.resume(&id))
        .await?
        .map_err(SuiteFailure::of("resume"))?;
    read_pong(&mut stream).await?;

    within("pause", runtime.pause(&id))
        .await?
        .map_err(SuiteFailure::of("pausing again"))?;
    unmake(runtime, &id).await
}

async fn stop(runtime: &dyn Runtime, id: &Id) -> Outcome {
    within("stop", runtime.stop(id))
        .await?
        .map_err(SuiteFailure::of("stop"))?;
    must(
        is_in(runtime, id, Condition::Stopped).await?,
        "a stopped sandbox is listed as stopped",
    )
}

async fn start(runtime: &dyn Runtime, id: &Id, spec: &Spec) -> Outcome {
    within("start", runtime.start(id, spec))
        .await?
        .map_err(SuiteFailure::of("start"))?;
    must(
        is_in(runtime, id, Condition::Alive).await?,
        "a sandbox that was started is alive",
    )?;
    ping(&mut open(runtime, id).await?).await
}

async fn stopping(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    let unknown = new_id()?;
    let kind = |result: sandbox::Result<()>| result.map_err(|error| error.kind);
    must(
        kind(within("stop", runtime.stop(&unknown)).await?) == Err(Kind::NotFound),
        "stopping what does not exist is `NotFound`",
    )?;
    let id = make(runtime, spec).await?;
    let started = within("start", runtime.start(&id, spec)).await?;
    must(
        kind(started.map(drop)) == Err(Kind::Conflict),
        "starting what runs is a `Conflict`",
    )?;
    let mut stream = open(runtime, &id).await?;
    stop(runtime, &id).await?;
    let mut rest = Vec::new();
    let closed = within("closing", stream.read_to_end(&mut rest)).await?;
    must(
        closed.is_err() || rest.is_empty(),
        "a stream of a stopped sandbox is closed",
    )?;
    must(
        within("connect", runtime.connect(&id)).await?.is_err(),
        "connecting to a stopped sandbox fails",
    )?;
    stop(runtime, &id).await?;
    start(runtime, &id, spec).await?;
    if runtime.capabilities().pause.is_ok() {
        within("pause", runtime.pause(&id))
            .await?
            .map_err(SuiteFailure::of("pausing"))?;
        stop(runtime, &id).await?;
        start(runtime, &id, spec).await?;
    }
    for patience_ms in [0, 1, 3, 8] {
        stop(runtime, &id).await?;
        let patience = Duration::from_millis(patience_ms);
        // Dropped in the middle, or finished if it was faster.
        let _either = tokio::time::timeout(patience, runtime.start(&id, spec)).await;
    }
    stop(runtime, &id).await?;
    start(runtime, &id, spec).await?;
    stop(runtime, &id).await?;
    unmake(runtime, &id).await
}

async fn archiving(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    let id = make(runtime, spec).await?;
    let archive = async || {
        within("archive", runtime.archive(&id))
            .await?
            .map_err(SuiteFailure::of("archive"))
    };
    let restore = async || {
        within("restore", runtime.restore(&id))
            .await?
            .map_err(SuiteFailure::of("restore"))
    };
    let refused = within("archive", runtime.archive(&id)).await?;
    must(
        refused.map_err(|error| error.kind) == Err(Kind::Conflict),
        "archiving what runs is a `Conflict`",
    )?;
    stop(runtime, &id).await?;
    restore().await?;
    archive().await?;
    archive().await?;
    must(
        is_in(runtime, &id, Condition::Archived).await?,
        "an archived sandbox is listed as archived",
    )?;
    within("stop", runtime.stop(&id))
        .await?
        .map_err(SuiteFailure::of("stopping what is archived"))?;
    let started = within("start", runtime.start(&id, spec)).await?;
    must(
        started.map(drop).map_err(|error| error.kind) == Err(Kind::Conflict),
        "starting what is archived is a `Conflict`",
    )?;
    restore().await?;
    restore().await?;
    start(runtime, &id, spec).await?;
    stop(runtime, &id).await?;
    for patience_ms in [0, 1, 3, 8] {
        let patience = Duration::from_millis(patience_ms);
        let _either = tokio::time::timeout(patience, runtime.archive(&id)).await;
        restore().await?;
    }
    archive().await?;
    unmake(runtime, &id).await
}

async fn resizing(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    let id = make(runtime, spec).await?;
    let mut limits = spec.limits;
    for (numerator, denominator) in [(2, 1), (1, 2)] {
        limits.memory_bytes = limits.memory_bytes * numerator / denominator;
        within("resize", runtime.resize(&id, &limits))
            .await?
            .map_err(SuiteFailure::of("resize"))?;
        ping(&mut open(runtime, &id).await?).await?;
    }
    stop(runtime, &id).await?;
    must(
        within("resize", runtime.resize(&id, &limits))
            .await?
            .is_err(),
        "resizing a stopped sandbox fails",
    )?;
    unmake(runtime, &id).await
}

async fn a_dropped_creation(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    for patience_ms in [0, 1, 3, 8] {
        let id = new_id()?;
        let patience = Duration::from_millis(patience_ms);
        // Dropped in the middle, or finished if it was faster; both must be removable.
        let _either = tokio::time::timeout(patience, runtime.create(&id, spec)).await;
        unmake(runtime, &id).await?;
    }
    Ok(())
}

async fn a_crowd(runtime: &dyn Runtime, spec: &Spec) -> Outcome {
    let mut ids = Vec::new();
    for _ in 0..CROWD {
        ids.push(new_id()?);
    }
    let life = async |id: &Id| {
        within("create", runtime.create(id, spec))
            .await?
            .map_err(SuiteFailure::of("creating several at once"))?;
        ping(&mut open(runtime, id).await?).await?;
        unmake(runtime, id).await
    };
    let [a, b, c, d, e, f, g, h] = &ids[..] else {
        return Err(SuiteFailure::new("the crowd has eight members"));
    };
    let done = tokio::join!(
        life(a),
        life(b),
        life(c),
        life(d),
        life(e),
        life(f),
        life(g),
        life(h)
    );
    for outcome in <[Outcome; CROWD]>::from(done) {
        outcome?;
    }
    Ok(())
}
