//! Pulls and builds that go on while nobody waits for them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::stream;
use sandbox::{Error, Image, Kind, Result};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{ImageInfo, ImageJob, ImageJobKind, ImageJobState};
use crate::{PieceStream, core::Core};

/// Pulls at work at once; more share the same network.
const PULLS_AT_ONCE: usize = 2;
/// Builds at work at once.
const BUILDS_AT_ONCE: usize = 2;
/// Jobs at work or waiting.
const ACTIVE_MAX: usize = 64;
/// Ended jobs that are remembered.
const ENDED_MAX: usize = 100;
/// What is kept of what one job says, bytes; the latest.
const LOG_BYTES_MAX: usize = 4 << 20;
/// Longest piece of a log, bytes.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// All jobs of this life of the server.
#[derive(Debug)]
pub(crate) struct Jobs {
    by_image: Mutex<HashMap<Image, Arc<Job>>>,
    pulls: Semaphore,
    builds: Semaphore,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            by_image: Mutex::default(),
            pulls: Semaphore::new(PULLS_AT_ONCE),
            builds: Semaphore::new(BUILDS_AT_ONCE),
        }
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<Image, Arc<Job>>> {
        // The map is whole after every statement that holds the lock.
        self.by_image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest job for the image.
    pub(crate) fn find(&self, image: &Image) -> Option<Arc<Job>> {
        self.lock().get(&with_tag(image)).cloned()
    }

    /// A new job, and `true`; or the pull of the same image that is under way.
    pub(crate) fn begin(
        &self,
        image: &Image,
        kind: ImageJobKind,
        now_ms: i64,
    ) -> Result<(Arc<Job>, bool)> {
        let image = with_tag(image);
        let mut jobs = self.lock();
        if let Some(job) = jobs.get(&image).filter(|job| !job.has_ended()) {
            if kind == ImageJobKind::Pull && job.kind == kind {
                return Ok((Arc::clone(job), false));
            }
            return Err(Error::conflict(format!(
                "image {image} is just being made; wait for its end"
            )));
        }
        let mut ended: Vec<(i64, Image)> = jobs
            .iter()
            .filter(|(_, job)| job.has_ended())
            .map(|(image, job)| (job.started_ms, image.clone()))
            .collect();
        if jobs.len() - ended.len() >= ACTIVE_MAX {
            return Err(Error::limit(format!(
                "{ACTIVE_MAX} images are being made already; try again later"
            )));
        }
        ended.sort_unstable();
        for (_, oldest) in &ended[..ended.len().saturating_sub(ENDED_MAX)] {
            jobs.remove(oldest);
        }
        let job = Arc::new(Job {
            image: image.clone(),
            kind,
            started_ms: now_ms,
            cancelled: CancellationToken::new(),
            progress: watch::Sender::new(Progress {
                state: ImageJobState::Queued,
                kind_of_failure: None,
                log: Log::default(),
            }),
        });
        jobs.insert(image, Arc::clone(&job));
        Ok((job, true))
    }
}

/// The same image under its whole name.
fn with_tag(image: &Image) -> Image {
    let (repository, tag) = image.parts();
    let whole = format!("{repository}:{tag}").parse();
    whole.unwrap_or_else(|_| image.clone())
}

/// One pull or build.
#[derive(Debug)]
pub(crate) struct Job {
    image: Image,
    kind: ImageJobKind,
    started_ms: i64,
    cancelled: CancellationToken,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Progress {
    state: ImageJobState,
    kind_of_failure: Option<Kind>,
    log: Log,
}

/// The latest that a job has said.
#[derive(Debug, Default)]
struct Log {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// How many pieces were dropped before those.
    dropped: usize,
}

impl Log {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
        while self.bytes > LOG_BYTES_MAX {
            let Some(oldest) = self.pieces.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            self.dropped += 1;
        }
    }

    /// The piece with this number, counted from the first one ever; a word about
    /// those that are gone; and the number after it.
    fn get(&self, number: usize) -> Option<(Bytes, usize)> {
        if number < self.dropped {
            let gone = "[what was said before is not kept]\n";
            return Some((Bytes::from_static(gone.as_bytes()), self.dropped));
        }
        let piece = self.pieces.get(number - self.dropped)?;
        Some((piece.clone(), number + 1))
    }
}

impl Job {
    pub(crate) fn view(&self) -> ImageJob {
        ImageJob {
            name: self.image.to_string(),
            kind: self.kind,
            state: self.progress.borrow().state.clone(),
            started_ms: self.started_ms,
        }
    }

    /// Adds a line to the log.
    pub(crate) fn say(&self, line: impl Into<String>) {
        let mut line: String = line.into();
        line.push('\n');
        self.say_bytes(&Bytes::from(line));
    }

    /// Adds output to the log.
    pub(crate) fn say_bytes(&self, output: &Bytes) {
        self.progress.send_modify(|progress| {
            let mut rest = output.clone();
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
                progress.log.push(piece);
            }
        });
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.cancel();
    }

    fn has_ended(&self) -> bool {
        self.progress.borrow().state.has_ended()
    }

    fn enter(&self, state: ImageJobState, kind_of_failure: Option<Kind>) {
        self.progress.send_modify(|progress| {
            progress.state = state;
            progress.kind_of_failure = kind_of_failure;
        });
    }

    /// Waits for the end.
    pub(crate) async fn done(&self) -> Result<ImageInfo> {
        let mut progress = self.progress.subscribe();
        let ended = progress
            .wait_for(|progress| progress.state.has_ended())
            .await
            .map_err(|_| Error::cancelled("the server is shutting down"))?;
        match &ended.state {
            ImageJobState::Done(image) => Ok(ImageInfo::clone(image)),
            ImageJobState::Failed(why) => Err(Error::new(
                ended.kind_of_failure.unwrap_or(Kind::Internal),
                why.clone(),
            )),
            ImageJobState::Queued | ImageJobState::Running => {
                Err(Error::internal("an image job ended without an end"))
            }
        }
    }

    /// What was said, and with `follow` what is said until the end.
    pub(crate) fn log(self: &Arc<Self>, follow: bool) -> PieceStream<Bytes> {
        let progress = self.progress.subscribe();
        // The sender must live as long as somebody listens.
        let start = (Arc::clone(self), progress, 0);
        Box::pin(stream::unfold(
            start,
            move |(job, mut progress, number)| async move {
                loop {
                    let (next, is_over) = {
                        let seen = progress.borrow_and_update();
                        (seen.log.get(number), !follow || seen.state.has_ended())
                    };
                    match next {
                        Some((piece, number)) => return Some((Ok(piece), (job, progress, number))),
                        None if is_over => return None,
                        None => progress.changed().await.ok()?,
                    }
                }
            },
        ))
    }
}

impl ImageJobState {
    fn has_ended(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_))
    }
}

/// Has a task do the work when it is the job's turn, and notes how it ended.
pub(crate) fn run(
    core: &Arc<Core>,
    job: Arc<Job>,
    work: impl Future<Output = Result<ImageInfo>> + Send + 'static,
) {
    let shared = Arc::clone(core);
    core.tasks.spawn(async move {
        let mut closing = shared.closing.subscribe();
        let turns = match job.kind {
            ImageJobKind::Pull => &shared.image_jobs.pulls,
            ImageJobKind::Build => &shared.image_jobs.builds,
        };
        let in_turn = async {
            let _turn = turns
                .acquire()
                .await
                .map_err(|_closed| Error::cancelled("the server is shutting down"))?;
            job.enter(ImageJobState::Running, None);
            work.await
        };
        let result = tokio::select! {
            result = in_turn => result,
            () = job.cancelled.cancelled() => Err(Error::cancelled("it was cancelled")),
            _ = closing.wait_for(|closing| *closing) => {
                Err(Error::cancelled("the server was shut down"))
            }
        };
        match result {
            Ok(image) => {
                tracing::info!(image = %job.image, kind = ?job.kind, "made an image");
                job.enter(ImageJobState::Done(Box::new(image)), None);
            }
            Err(error) => {
                tracing::info!(image = %job.image, kind = ?job.kind, %error, "no image was made");
                job.say(format!("error: {}", error.message));
                job.enter(
                    ImageJobState::Failed(error.message.clone()),
                    Some(error.kind),
                );
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn begun(jobs: &Jobs, name: &str, kind: ImageJobKind) -> Result<(Arc<Job>, bool)> {
        jobs.begin(&name.parse().unwrap(), kind, 0)
    }

    #[test]
    fn pulls_are_joined_and_builds_are_not() {
        let jobs = Jobs::default();
        let (first, is_new) = begun(&jobs, "a", ImageJobKind::Pull).unwrap();
        assert!(is_new);
        let (again, is_new) = begun(&jobs, "a:latest", ImageJobKind::Pull).unwrap();
        assert!(!is_new && Arc::ptr_eq(&first, &again));
        let error = begun(&jobs, "a", ImageJobKind::Build).unwrap_err();
        assert_eq!(error.kind, Kind::Conflict);
        first.enter(ImageJobState::Failed("x".to_owned()), None);
        assert!(begun(&jobs, "a", ImageJobKind::Build).unwrap().1);
    }

    #[test]
    fn jobs_are_bounded() {
        let jobs = Jobs::default();
        for number in 0..ACTIVE_MAX {
            begun(&jobs, &format!("a:{number}"), ImageJobKind::Pull).unwrap();
        }
        let error = begun(&jobs, "more", ImageJobKind::Pull).unwrap_err();
        assert_eq!(error.kind, Kind::LimitReached);
        for job in jobs.lock().values() {
            job.enter(ImageJobState::Failed(String::new()), None);
        }
        for number in 0..ENDED_MAX * 2 {
            let (job, _) = begun(&jobs, &format!("b:{number}"), ImageJobKind::Pull).unwrap();
            job.enter(ImageJobState::Failed(String::new()), None);
        }
        assert!(jobs.lock().len() <= ENDED_MAX + 1);
    }

    #[tokio::test]
    async fn a_log_is_followed_to_the_end_and_forgets_its_beginning() {
        let jobs = Jobs::default();
        let (job, _) = begun(&jobs, "a", ImageJobKind::Build).unwrap();
        job.say("one");
        let mut follower = job.log(true);
        assert_eq!(follower.next().await.unwrap().unwrap(), "one\n");
        let plain: Vec<_> = job.log(false).collect().await;
        assert_eq!(plain.len(), 1);
        let late = tokio::spawn(async move { follower.collect::<Vec<_>>().await });
        tokio::task::yield_now().await;
        let large = Bytes::from(vec![b'x'; LOG_BYTES_MAX]);
        job.say_bytes(&large);
        job.enter(ImageJobState::Failed("x".to_owned()), Some(Kind::NotFound));
        let seen = late.await.unwrap();
        let bytes: usize = seen.iter().map(|piece| piece.as_ref().unwrap().len()).sum();
        assert_eq!(bytes, LOG_BYTES_MAX);
        let first: Vec<_> = job.log(false).collect().await;
        assert!(first[0].as_ref().unwrap().starts_with(b"[what was said"));
        assert_eq!(job.done().await.unwrap_err().kind, Kind::NotFound);
    }
}
