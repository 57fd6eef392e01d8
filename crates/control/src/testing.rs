//! What the tests of this crate share.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_protocol::{Cell, Command, Exec};
use futures_util::StreamExt;
use sandbox::{Kind, Limits, Name, NetworkMode, Result, Space};
use tempfile::TempDir;
use testkit::FakeRuntime;
use tokio::time::Instant;

use crate::{
    Clock, Collected, Config, Control, Create, Defaults, Piece, PieceStream, collect, core::Core,
    store::Store,
};

/// Where the tests' time of day begins.
const DAWN_MS: i64 = 1_800_000_000_000;

/// A configuration for tests.
pub(crate) fn config(store: PathBuf) -> Config {
    Config {
        store,
        delete_on_shutdown: false,
        defaults: Defaults {
            image: "sandboxai/box".parse().unwrap(),
            limits: Limits::default(),
            network: NetworkMode::Open,
            idle_timeout: None,
            lifetime_max: None,
        },
        limits_max: Limits {
            memory_bytes: 4 << 30,
            cpu_millis: 4000,
            pids: 4096,
        },
        sandboxes_max: 100,
        creations_at_once: 4,
        create_timeout: Duration::from_secs(20),
        tombstone_ttl: Duration::from_secs(24 * 3600),
        image_aliases: BTreeMap::new(),
    }
}

/// A time of day that goes with tokio's clock, so that it stands still with it.
#[derive(Debug)]
pub(crate) struct TokioClock {
    dawn: Instant,
    dawn_ms: i64,
}

impl TokioClock {
    /// A clock that shows the dawn of the tests plus `later`.
    pub(crate) fn new(later: Duration) -> Self {
        Self {
            dawn: Instant::now(),
            dawn_ms: DAWN_MS + i64::try_from(later.as_millis()).unwrap(),
        }
    }
}

impl Clock for TokioClock {
    fn now_ms(&self) -> i64 {
        self.dawn_ms + i64::try_from(self.dawn.elapsed().as_millis()).unwrap()
    }
}

/// Starts a server on a store and a runtime that may have been used before.
pub(crate) async fn start(
    config: Config,
    runtime: &FakeRuntime,
    later: Duration,
) -> Result<Control> {
    let (store, memory) = Store::open_inline(&config.store)?;
    let clock = Arc::new(TokioClock::new(later));
    let core = Core::new(config, Arc::new(runtime.clone()), clock, store);
    Control::recovered(core, memory).await
}

/// A server, and the runtime and store that outlive it.
pub(crate) struct Bed {
    pub(crate) control: Control,
    pub(crate) runtime: FakeRuntime,
    folder: TempDir,
    begun: Instant,
    /// How long no server ran, by the time of day.
    down: Duration,
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), FakeRuntime::new());
        let mut config = config(store_in(folder.path()));
        change(&mut config);
        let control = start(config, &runtime, Duration::ZERO).await.unwrap();
        Self {
            control,
            runtime,
            folder,
            begun: Instant::now(),
            down: Duration::ZERO,
        }
    }

    /// Ends the server without a word to anybody, and starts another one.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|_| {}).await
    }

    /// The same, with something happening in between.
    pub(crate) async fn restart_after(self, between: impl FnOnce(&FakeRuntime)) -> Self {
        let core = self.control.core;
        core.closing.send_replace(true);
        core.tasks.close();
        core.tasks.wait().await;
        let config = core.config.clone();
        drop(core);
        between(&self.runtime);
        let later = self.begun.elapsed() + self.down;
        let control = start(config, &self.runtime, later).await.unwrap();
        Self { control, ..self }
    }

    /// The same, when no server ran for so long.
    pub(crate) async fn restart_later(mut self, down: Duration) -> Self {
        self.down += down;
        self.restart().await
    }

    pub(crate) fn store(&self) -> PathBuf {
        store_in(self.folder.path())
    }

    pub(crate) async fn create(&self, name: &str) -> Result<crate::CreatedSandbox> {
        self.control.create(named(name)).await
    }

    /// Runs a command and collects what it says.
    pub(crate) async fn exec(&self, name: &str, line: &str) -> Result<Collected> {
        let (space, name) = at(name);
        let pieces = self.control.exec(&space, &name, shell(line), None).await?;
        collect(pieces, 1 << 20).await
    }

    /// Runs a cell and collects what it says.
    pub(crate) async fn cell(&self, name: &str, code: &str) -> Result<Collected> {
        let (space, name) = at(name);
        let pieces = self.control.cell(&space, &name, cell(code)).await?;
        collect(pieces, 1 << 20).await
    }

    /// Begins a command in a task of its own, and waits until it runs.
    pub(crate) async fn begin(
        &self,
        name: &str,
        line: &str,
    ) -> tokio::task::JoinHandle<Result<Collected>> {
        let (space, name) = at(name);
        let line = format!("echo began;{line}");
        let mut pieces = self
            .control
            .exec(&space, &name, shell(&line), None)
            .await
            .unwrap();
        let began = pieces.next().await.unwrap().unwrap();
        assert!(matches!(began, Piece::Stdout(_)));
        tokio::spawn(collect(pieces, 1 << 20))
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let (space, name) = at(name);
        self.control.delete(&space, &name).await
    }

    /// Why a sandbox ended, in words.
    pub(crate) async fn epitaph(&self, name: &str) -> String {
        let (space, name) = at(name);
        let error = self.control.get(&space, &name).await.unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        error.message
    }

    /// Waits until a sandbox has ended, and tells why.
    pub(crate) async fn wait_for_end(&self, name: &str) -> String {
        let (space, named) = at(name);
        let resident = self.control.core.registry.find(&space, &named);
        if let Ok(resident) = resident {
            resident.gone().await;
        }
        self.epitaph(name).await
    }
}

fn store_in(folder: &Path) -> PathBuf {
    folder.join("store")
}

/// A sandbox of the default space.
pub(crate) fn at(name: &str) -> (Space, Name) {
    (Space::default(), name.parse().unwrap())
}

/// A request with a name.
pub(crate) fn named(name: &str) -> Create {
    Create {
        name: Some(name.parse().unwrap()),
        ..Create::default()
    }
}

/// A shell command.
pub(crate) fn shell(line: &str) -> Exec {
    Exec {
        command: Command::Shell(line.to_owned()),
        env: BTreeMap::new(),
        cwd: None,
        timeout_ms: None,
        merge_output: false,
        stdin: false,
        ..Exec::default()
    }
}

/// A cell of the default context.
pub(crate) fn cell(code: &str) -> Cell {
    Cell {
        code: code.to_owned(),
        context: "default".to_owned(),
        timeout_ms: None,
        merge_output: false,
        env: BTreeMap::new(),
        ..Cell::default()
    }
}

/// Pieces of input.
pub(crate) fn input(pieces: &[&str]) -> PieceStream<bytes::Bytes> {
    let pieces: Vec<_> = pieces
        .iter()
        .map(|piece| Ok(piece.as_bytes().to_vec().into()))
        .collect();
    Box::pin(futures_util::stream::iter(pieces))
}
