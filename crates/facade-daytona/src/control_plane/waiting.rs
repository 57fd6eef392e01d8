//! Sandboxes that wait for their image. Pulling or building may take minutes;
//! the caller is told an id at once and asks again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use control::{Control, Create, ImageJobKind, ImageJobState, Sandbox};
use sandbox::{Error, Id, Kind, Name};
use tokio::{sync::broadcast, task::AbortHandle};
use tracing::Instrument as _;

use super::shown::{Shown, Waits};
use crate::rollout::Rollout;

/// Most sandboxes that wait or have failed to be made.
const ENTRIES_MAX: usize = 256;
/// How long one that could not be made still tells why.
const FAILED_KEPT: Duration = Duration::from_secs(60 * 60);
/// How long an image may take.
const IMAGE_TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// Changes that a slow reader may lag behind.
const CHANGES_MAX: usize = 256;

/// A change of a sandbox that waits.
#[derive(Clone, Debug)]
pub(crate) struct WaitingChange {
    /// After the change.
    pub(crate) shown: Shown,
    /// Its state before; `None` for a new one.
    pub(crate) from: Option<&'static str>,
}

/// All of them. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Waiting(Arc<Table>);

#[derive(Debug)]
struct Table {
    entries: Mutex<BTreeMap<Id, Entry>>,
    changes: broadcast::Sender<WaitingChange>,
    /// Counts those that are not made after all.
    rollout: Option<Rollout>,
}

#[derive(Debug)]
struct Entry {
    sandbox: Sandbox,
    image: String,
    failed: Option<(Waits, Instant)>,
    task: Option<AbortHandle>,
}

impl Entry {
    fn shown(&self, control: &Control) -> Shown {
        let waits = match &self.failed {
            Some((waits, _)) => Some(waits.clone()),
            None => waits_of(control, &self.image),
        };
        Shown {
            sandbox: self.sandbox.clone(),
            waits,
        }
    }
}

/// What a sandbox waits for whose image this is; `None` when it is being made.
fn waits_of(control: &Control, image: &str) -> Option<Waits> {
    let job = control.image_job(image)?;
    match (job.kind, job.state) {
        (_, ImageJobState::Done(_) | ImageJobState::Failed(_)) => None,
        (ImageJobKind::Pull, _) => Some(Waits::Pulling),
        (ImageJobKind::Build, ImageJobState::Queued) => Some(Waits::Build),
        (ImageJobKind::Build, ImageJobState::Running) => Some(Waits::Building),
    }
}

impl Waiting {
    /// None.
    pub(crate) fn new(rollout: Option<Rollout>) -> Self {
        Self(Arc::new(Table {
            entries: Mutex::default(),
            changes: broadcast::channel(CHANGES_MAX).0,
            rollout,
        }))
    }

    /// Makes `create` once the job for its image has ended. `sandbox` is what
    /// is shown until then.
    ///
    /// # Errors
    /// `LimitReached`, `AlreadyExists`.
    pub(crate) fn begin(
        &self,
        control: &Control,
        create: Create,
        sandbox: Sandbox,
        image: &str,
    ) -> Result<Shown, Error> {
        let id = sandbox.id.clone();
        let mut entries = self.entries();
        make_room(&mut entries)?;
        if entries
            .values()
            .any(|entry| entry.failed.is_none() && entry.sandbox.name == sandbox.name)
        {
            return Err(Error::already_exists(format!(
                "Sandbox with name {} already exists",
                sandbox.name
            )));
        }
        let mut entry = Entry {
            sandbox,
            image: image.to_owned(),
            failed: None,
            task: None,
        };
        let mut shown = entry.shown(control);
        // SDKs show the log of a build only if they are told that it is to come.
        shown.waits = match shown.waits {
            Some(Waits::Pulling) => Some(Waits::Pulling),
            _ => Some(Waits::Build),
        };
        let making = make(
            self.clone(),
            control.clone(),
            create,
            id.clone(),
            image.to_owned(),
        );
        let task = tokio::spawn(making.in_current_span());
        entry.task = Some(task.abort_handle());
        entries.insert(id, entry);
        drop(entries);
        self.tell(&shown, None);
        Ok(shown)
    }

    /// One of them, by id or by name.
    pub(crate) fn find(&self, control: &Control, asked: &str) -> Option<Shown> {
        let entries = self.entries();
        let entry = entries.values().find(|entry| {
            entry.sandbox.id.as_str() == asked || entry.sandbox.name.as_str() == asked
        })?;
        Some(entry.shown(control))
    }

    /// The image that a sandbox waits or has waited for.
    pub(crate) fn image_of(&self, id: &Id) -> Option<String> {
        self.entries().get(id).map(|entry| entry.image.clone())
    }

    /// Whether one of them has this name and may still be made.
    pub(crate) fn has_name(&self, name: &Name) -> bool {
        self.entries()
            .values()
            .any(|entry| entry.failed.is_none() && entry.sandbox.name == *name)
    }

    /// All of them.
    pub(crate) fn all(&self, control: &Control) -> Vec<Shown> {
        let entries = self.entries();
        entries.values().map(|entry| entry.shown(control)).collect()
    }

    /// Waits no longer; what was made meanwhile is not touched.
    pub(crate) fn give_up(&self, id: &Id) -> bool {
        let entry = self.entries().remove(id);
        if let Some(task) = entry.as_ref().and_then(|entry| entry.task.as_ref()) {
            task.abort();
        }
        entry.is_some()
    }

    /// Changes from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<WaitingChange> {
        self.0.changes.subscribe()
    }

    fn fail(&self, id: &Id, waits: Waits) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(id) else {
            return;
        };
        entry.failed = Some((waits.clone(), Instant::now()));
        entry.task = None;
        let shown = Shown {
            sandbox: entry.sandbox.clone(),
            waits: Some(waits),
        };
        drop(entries);
        self.tell(&shown, Some("building_snapshot"));
    }

    fn tell(&self, shown: &Shown, from: Option<&'static str>) {
        // Nobody may be watching.
        let _ = self.0.changes.send(WaitingChange {
            shown: shown.clone(),
            from,
        });
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Id, Entry>> {
        // Every change of the table is one step: it is whole even after a panic.
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets failures that are old, and if there is still no room the oldest.
fn make_room(entries: &mut BTreeMap<Id, Entry>) -> Result<(), Error> {
    let failed_at = |entry: &Entry| entry.failed.as_ref().map(|(_, at)| *at);
    entries.retain(|_, entry| failed_at(entry).is_none_or(|at| at.elapsed() < FAILED_KEPT));
    if entries.len() < ENTRIES_MAX {
        return Ok(());
    }
    let oldest = entries
        .iter()
        .filter_map(|(id, entry)| Some((failed_at(entry)?, id.clone())))
        .min();
    match oldest {
        Some((_, id)) => {
            entries.remove(&id);
            Ok(())
        }
        None => Err(Error::limit(format!(
            "{ENTRIES_MAX} sandboxes are waiting for their images; try again when some are made"
        ))),
    }
}

/// Waits for the image and makes the sandbox.
async fn make(waiting: Waiting, control: Control, create: Create, id: Id, image: String) {
    let begun = Instant::now();
    let made = async {
        tokio::time::timeout(IMAGE_TIME_MAX, control.image_job_done(&image))
            .await
            .map_err(|_| {
                Waits::BuildFailed(format!(
                    "the image {image} was not there after {IMAGE_TIME_MAX:?}"
                ))
            })?
            .map_err(|error| Waits::BuildFailed(error.message))?;
        control.create(create).await.map_err(|error| {
            if error.kind == Kind::Internal {
                tracing::error!(%error, sandbox = %id, "a sandbox could not be made when its image was there");
            }
            Waits::Failed(error.message)
        })
    };
    match made.await {
        Ok(_) => {
            waiting.entries().remove(&id);
        }
        Err(waits) => {
            // A build most often fails for what the caller wrote.
            let is_build = matches!(waits, Waits::BuildFailed(_))
                && control
                    .image_job(&image)
                    .is_some_and(|job| job.kind == ImageJobKind::Build);
            if let Some(rollout) = waiting.0.rollout.as_ref().filter(|_| !is_build) {
                rollout.creation_failed(begun.elapsed());
            }
            waiting.fail(&id, waits);
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use sandbox::{Fetch, Image, Sink, State};
    use tokio::{io::AsyncWriteExt, sync::watch};

    use super::*;
    use crate::{
        Facade, FacadeConfig,
        rollout::{Limits, RolloutConfig, Share},
        testing,
    };

    const WAIT: Duration = Duration::from_secs(20);

    const IMAGE: &str = "registry.test/slow:1";

    /// A registry that answers when it is told whether it has the image.
    struct Registry(watch::Receiver<Option<bool>>);

    #[async_trait]
    impl Fetch for Registry {
        async fn image(
            &self,
            _: &Image,
            archive: Sink<'_>,
            _: &(dyn Fn(String) + Send + Sync),
        ) -> sandbox::Result<()> {
            let mut answer = self.0.clone();
            let has_it = answer.wait_for(Option::is_some).await.map(|has| *has);
            match has_it {
                Ok(Some(true)) => {
                    archive.write_all(b"an image").await.unwrap();
                    Ok(())
                }
                _ => Err(Error::not_found("the registry has no such image")),
            }
        }

        async fn file(&self, _: &str, _: u64, _: Sink<'_>) -> sandbox::Result<()> {
            Err(Error::not_found("no files"))
        }
    }

    /// A facade that pulls an image, and what makes its registry answer.
    async fn pulling() -> (Facade, watch::Sender<Option<bool>>, tempfile::TempDir) {
        let (control, folder) = testing::control().await;
        let (answer, asked) = watch::channel(None);
        let control = control.with_fetch(Arc::new(Registry(asked)));
        control.begin_pull(IMAGE).await.unwrap();
        let rollout = Rollout::open(RolloutConfig {
            upstream: String::new(),
            share: Share::ALL,
            sticky_label: "id".to_owned(),
            fallback: true,
            window: Duration::from_secs(300),
            limits: Limits::default(),
            state_file: folder.path().join("rollout.json"),
        });
        let config = FacadeConfig {
            rollout: Some(rollout.unwrap()),
            ..FacadeConfig::new("sandboxai/box".to_owned())
        };
        (Facade::new(control, config), answer, folder)
    }

    fn sandbox(control: &Control, name: &str) -> (Create, Sandbox) {
        let create = Create {
            id: Some(Id::random().unwrap()),
            name: Some(name.parse().unwrap()),
            ..Create::default()
        };
        let sandbox = Sandbox {
            id: create.id.clone().unwrap(),
            space: create.space.clone(),
            name: create.name.clone().unwrap(),
            image_requested: String::new(),
            spec: control.plan(&create).unwrap(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            state: State::Creating,
            created_ms: 0,
            active_ms: 0,
            stopped: None,
            ending: None,
            tombstone: None,
        };
        (create, sandbox)
    }

    #[tokio::test]
    async fn who_waits_is_found_and_told_why_it_failed() {
        let (facade, answer, _folder) = pulling().await;
        let (control, waiting) = (&facade.control, &facade.waiting);
        let mut changes = waiting.watch();
        let (create, sandbox) = sandbox(control, "one");
        let id = sandbox.id.clone();
        waiting.begin(control, create, sandbox, IMAGE).unwrap();
        assert_eq!(changes.recv().await.unwrap().from, None);
        for asked in ["one", id.as_str()] {
            let waits = waiting.find(control, asked).unwrap().waits;
            assert_eq!(waits, Some(Waits::Pulling), "{asked}");
        }
        assert!(waiting.has_name(&"one".parse().unwrap()));
        assert_eq!(waiting.image_of(&id), Some(IMAGE.to_owned()));
        answer.send(Some(false)).unwrap();
        let failed = tokio::time::timeout(WAIT, changes.recv()).await.unwrap();
        assert!(matches!(
            failed.unwrap().shown.waits,
            Some(Waits::BuildFailed(_))
        ));
        assert_eq!(waiting.all(control).len(), 1, "it still tells why");
        let sides = facade.rollout.unwrap().status().sides;
        assert_eq!(sides.sandboxai.creation_failures, 1);
        assert!(
            !waiting.has_name(&"one".parse().unwrap()),
            "its name is free"
        );
    }

    #[tokio::test]
    async fn a_name_waits_once_and_giving_up_frees_it() {
        let (facade, _answer, _folder) = pulling().await;
        let (control, waiting) = (&facade.control, &facade.waiting);
        let begin = |name| {
            let (create, sandbox) = sandbox(control, name);
            waiting.begin(control, create, sandbox, IMAGE)
        };
        let first = begin("one").unwrap().sandbox.id;
        assert_eq!(begin("one").unwrap_err().kind, Kind::AlreadyExists);
        assert!(waiting.give_up(&first) && !waiting.give_up(&first));
        assert!(waiting.find(control, "one").is_none());
        begin("one").unwrap();
    }

    #[tokio::test]
    async fn no_more_wait_than_there_is_room_for() {
        let (facade, _answer, _folder) = pulling().await;
        let (control, waiting) = (&facade.control, &facade.waiting);
        for number in 0..=ENTRIES_MAX {
            let (create, sandbox) = sandbox(control, &format!("n{number}"));
            let begun = waiting.begin(control, create, sandbox, IMAGE);
            match number < ENTRIES_MAX {
                true => drop(begun.unwrap()),
                false => assert_eq!(begun.unwrap_err().kind, Kind::LimitReached),
            }
        }
    }

    #[tokio::test]
    async fn a_sandbox_is_made_when_its_image_is_there() {
        let (facade, answer, _folder) = pulling().await;
        let (control, waiting) = (&facade.control, &facade.waiting);
        let mut made = control.watch_changes();
        let (mut create, sandbox) = sandbox(control, "one");
        create.image = Some(IMAGE.to_owned());
        let id = sandbox.id.clone();
        waiting.begin(control, create, sandbox, IMAGE).unwrap();
        answer.send(Some(true)).unwrap();
        let run = async { while made.recv().await.unwrap().sandbox.state != State::Running {} };
        tokio::time::timeout(WAIT, run).await.unwrap();
        let found = control.find(&facade.config.space, "one").unwrap();
        assert_eq!((found.id, found.image_requested.as_str()), (id, IMAGE));
    }
}
