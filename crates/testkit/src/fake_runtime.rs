//! A runtime in memory, with failures, delays and ends under the test's control.
//!
//! It outlives the server under test: clone it, drop the server, start another
//! one on the clone, and the sandboxes are still there, as with a real runtime.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sandbox::{
    AgentStream, Capabilities, Condition, Created, Ended, Error, Found, Id, Kind, Leftovers,
    Limits, Result, Runtime, Spec, StepTime, Usage,
};
use tokio::sync::watch;

use crate::{FakeAgent, fake_images::FakeImages};

/// Bytes in flight on one fake connection.
const STREAM_BYTES: usize = 64 << 10;

/// How the fake behaves from now on. Failures count down as they happen.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// How long a creation takes before its first process is alive.
    pub create_time: Duration,
    /// How long a creation takes after that.
    pub start_time: Duration,
    /// How long a removal takes.
    pub destroy_time: Duration,
    /// How long pausing and resuming take.
    pub pause_time: Duration,
    /// How long stopping takes.
    pub stop_time: Duration,
    /// How long packing and unpacking take.
    pub pack_time: Duration,
    /// So many creations fail, each leaving a half-made sandbox behind.
    pub create_failures: u32,
    /// So many removals fail, leaving everything as it was.
    pub destroy_failures: u32,
    /// So many attempts to pause fail.
    pub pause_failures: u32,
    /// So many attempts to resume fail.
    pub resume_failures: u32,
    /// So many attempts to stop fail, leaving everything as it was.
    pub stop_failures: u32,
    /// So many attempts to pack or unpack fail.
    pub pack_failures: u32,
    /// Memory that resizing finds in use, bytes.
    pub memory_in_use: u64,
    /// Images that exist; empty means that every image exists.
    pub images: Vec<String>,
    /// What lies around besides sandboxes.
    pub leftovers: Vec<String>,
    /// Whether new sandboxes have an agent that never answers.
    pub agents_are_silent: bool,
    /// Whether new sandboxes end right after they were made.
    pub die_at_start: bool,
}

/// How often each call was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Creations begun.
    pub create: u64,
    /// Connections asked for.
    pub connect: u64,
    /// Removals begun.
    pub destroy: u64,
}

/// The runtime; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct FakeRuntime {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    images: FakeImages,
    sandboxes: BTreeMap<Id, Made>,
    behaviour: Behaviour,
    calls: Calls,
}

#[derive(Debug)]
struct Made {
    /// `None` while half-made.
    agent: Option<FakeAgent>,
    ended: watch::Sender<Option<Ended>>,
    host_restarted: bool,
    /// What is kept of one without processes.
    kept: Option<Condition>,
    limits: Option<Limits>,
}

impl Made {
    fn condition(&self) -> Condition {
        match self.kept {
            Some(kept) => kept,
            None if self.alive() => Condition::Alive,
            None => Condition::Dead,
        }
    }

    fn end(&self, ended: Ended) {
        self.ended.send_if_modified(|slot| {
            let first = slot.is_none();
            slot.get_or_insert(ended);
            first
        });
        if let Some(agent) = &self.agent {
            agent.kill();
        }
    }

    fn alive(&self) -> bool {
        self.agent.is_some() && self.ended.borrow().is_none()
    }
}

impl FakeRuntime {
    /// A runtime without sandboxes that does everything at once and well.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an image there, as [`sandbox::Images::import`] would.
    pub fn add_image(&self, name: &str) {
        let mut shared = self.lock();
        shared.images.add(name);
    }

    /// The images and nothing else.
    pub(crate) fn with_images<T>(&self, work: impl FnOnce(&mut FakeImages) -> T) -> T {
        work(&mut self.lock().images)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how the fake behaves.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.lock().behaviour);
    }

    /// How often each call was made.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.lock().calls
    }

    /// Everything that is there, half-made and dead sandboxes included.
    #[must_use]
    pub fn ids(&self) -> Vec<Id> {
        self.lock().sandboxes.keys().cloned().collect()
    }

    /// The agent of a sandbox that was made.
    #[must_use]
    pub fn agent(&self, id: &Id) -> Option<FakeAgent> {
        self.lock().sandboxes.get(id)?.agent.clone()
    }

    /// The limits that a sandbox was made or started with, or was given since.
    #[must_use]
    pub fn limits(&self, id: &Id) -> Option<Limits> {
        self.lock().sandboxes.get(id)?.limits
    }

    /// What is there of a sandbox.
    #[must_use]
    pub fn condition(&self, id: &Id) -> Option<Condition> {
        Some(self.lock().sandboxes.get(id)?.condition())
    }

    /// Ends the first process of a sandbox, as a crash or the kernel would.
    pub fn kill(&self, id: &Id, ended: Ended) {
        if let Some(made) = self.lock().sandboxes.get(id) {
            made.end(ended);
        }
    }

    /// Ends every sandbox, as a restart of the host would.
    pub fn restart_host(&self) {
        for made in self.lock().sandboxes.values_mut() {
            made.host_restarted = true;
            made.end(Ended {
                out_of_memory: false,
                detail: "the host was restarted".to_owned(),
            });
        }
    }

    /// Puts a sandbox there that nobody asked for, as a crash would leave it.
    pub fn leave_behind(&self, id: Id) {
        self.lock().sandboxes.insert(id, half_made());
    }

    fn with<T>(&self, id: &Id, work: impl FnOnce(&Made) -> T) -> Result<T> {
        match self.lock().sandboxes.get(id) {
            Some(made) => Ok(work(made)),
            None => Err(Error::not_found(format!("no sandbox {id} in the fake"))),
        }
    }

    /// Reads how long something takes, and whether it fails this time.
    fn plan(
        &self,
        time: impl Fn(&Behaviour) -> Duration,
        failures: impl Fn(&mut Behaviour) -> &mut u32,
    ) -> (Duration, bool) {
        let mut shared = self.lock();
        let left = failures(&mut shared.behaviour);
        let fails = *left > 0;
        *left = left.saturating_sub(1);
        (time(&shared.behaviour), fails)
    }

    /// Changes what is kept of a sandbox without processes.
    async fn repack(&self, id: &Id, kept: Condition) -> Result<()> {
        let (time, fails) = self.plan(
            |behaviour| behaviour.pack_time,
            |behaviour| &mut behaviour.pack_failures,
        );
        pass(time).await;
        let mut shared = self.lock();
        let Some(made) = shared.sandboxes.get_mut(id) else {
            return Err(Error::not_found(format!("no sandbox {id} in the fake")));
        };
        match made.kept {
            None => Err(Error::conflict(format!("sandbox {id} is not stopped"))),
            Some(present) if present == kept => Ok(()),
            Some(_) if fails => Err(Error::internal("the fake was told to fail")),
            Some(_) => {
                made.kept = Some(kept);
                Ok(())
            }
        }
    }

    async fn freeze(&self, id: &Id, frozen: bool) -> Result<()> {
        let (time, fails) = self.plan(
            |behaviour| behaviour.pause_time,
            |behaviour| match frozen {
                true => &mut behaviour.pause_failures,
                false => &mut behaviour.resume_failures,
            },
        );
        pass(time).await;
        if fails {
            return Err(Error::internal("the fake was told to fail"));
        }
        self.with(id, |made| {
            if let Some(agent) = &made.agent {
                agent.set_frozen(frozen);
            }
        })
    }
}

fn half_made() -> Made {
    Made {
        agent: None,
        ended: watch::Sender::new(None),
        host_restarted: false,
        kept: None,
        limits: None,
    }
}

/// Lets time pass; none at all does not even yield.
async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            runtime: "fake",
            network_open: Ok(()),
            limits: Ok(()),
            pause: Ok(()),
            archive: Ok(()),
            runtime_classes: Ok(vec!["fake".parse().expect("a valid name")]),
        }
    }

    async fn check(&self, spec: &Spec) -> Result<()> {
        let images = self.lock().behaviour.images.clone();
        if images.is_empty() || images.iter().any(|image| image == spec.image.as_str()) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "field `image`: there is no image `{}`; images: {}",
            spec.image,
            images.join(", ")
        )))
    }

    async fn create(&self, id: &Id, spec: &Spec) -> Result<Created> {
        let (time, fails) = self.plan(
            |behaviour| behaviour.create_time,
            |behaviour| &mut behaviour.create_failures,
        );
        {
            let mut shared = self.lock();
            shared.calls.create += 1;
            if shared.sandboxes.contains_key(id) {
                return Err(Error::already_exists(format!("sandbox {id} exists")));
            }
            shared.sandboxes.insert(id.clone(), half_made());
        }
        pass(time).await;
        if fails {
            return Err(Error::internal("step `fake`: the fake was told to fail"));
        }
        let start_time = {
            let mut shared = self.lock();
            let behaviour = shared.behaviour.clone();
            let Some(made) = shared.sandboxes.get_mut(id) else {
                return Err(Error::new(Kind::Cancelled, "destroyed while being made"));
            };
            let agent = FakeAgent::new(spec.env.clone());
            agent.set_silent(behaviour.agents_are_silent);
            made.agent = Some(agent);
            made.limits = Some(spec.limits);
            if behaviour.die_at_start {
                made.end(Ended {
                    out_of_memory: false,
                    detail: "exit status 1".to_owned(),
                });
            }
            behaviour.start_time
        };
        pass(start_time).await;
        Ok(Created {
            steps: vec![StepTime {
                step: "fake".to_owned(),
                duration: time + start_time,
            }],
        })
    }

    async fn connect(&self, id: &Id) -> Result<AgentStream> {
        self.lock().calls.connect += 1;
        let agent = self.with(id, |made| {
            made.alive().then(|| made.agent.clone()).flatten()
        })?;
        let Some(agent) = agent else {
            return Err(Error::lost(format!("sandbox {id} is not alive")));
        };
        let (ours, theirs) = tokio::io::duplex(STREAM_BYTES);
        tokio::spawn(async move { agent.serve(theirs).await });
        Ok(Box::new(ours))
    }

    async fn ended(&self, id: &Id) -> Result<Ended> {
        let mut ended = self.with(id, |made| made.ended.subscribe())?;
        let ended = ended.wait_for(Option::is_some).await.map(|ended| {
            ended.clone().unwrap_or(Ended {
                out_of_memory: false,
                detail: "ended".to_owned(),
            })
        });
        ended.map_err(|_| Error::not_found(format!("sandbox {id} was removed")))
    }

    async fn pause(&self, id: &Id) -> Result<()> {
        self.freeze(id, true).await
    }

    async fn resume(&self, id: &Id) -> Result<()> {
        self.freeze(id, false).await
    }

    async fn stop(&self, id: &Id) -> Result<()> {
        let (time, fails) = self.plan(
            |behaviour| behaviour.stop_time,
            |behaviour| &mut behaviour.stop_failures,
        );
        pass(time).await;
        if fails {
            return Err(Error::internal("the fake was told to fail"));
        }
        let mut shared = self.lock();
        let Some(made) = shared.sandboxes.get_mut(id) else {
            return Err(Error::not_found(format!("no sandbox {id} in the fake")));
        };
        made.end(Ended {
            out_of_memory: false,
            detail: "killed by signal 9".to_owned(),
        });
        made.kept.get_or_insert(Condition::Stopped);
        Ok(())
    }

    async fn start(&self, id: &Id, spec: &Spec) -> Result<Created> {
        let (time, fails) = self.plan(
            |behaviour| behaviour.create_time,
            |behaviour| &mut behaviour.create_failures,
        );
        {
            let mut shared = self.lock();
            let Some(made) = shared.sandboxes.get_mut(id) else {
                return Err(Error::not_found(format!("no sandbox {id} in the fake")));
            };
            if made.kept != Some(Condition::Stopped) {
                return Err(Error::conflict(format!("sandbox {id} is not stopped")));
            }
            // From here on it is half-started, until it is stopped again.
            made.kept = None;
        }
        pass(time).await;
        if fails {
            return Err(Error::internal("step `fake`: the fake was told to fail"));
        }
        let start_time = {
            let mut shared = self.lock();
            let behaviour = shared.behaviour.clone();
            let Some(made) = shared.sandboxes.get_mut(id) else {
                return Err(Error::new(Kind::Cancelled, "destroyed while being started"));
            };
            if made.kept.is_some() {
                return Err(Error::new(Kind::Cancelled, "stopped while being started"));
            }
            let before = made.agent.take();
            let agent = FakeAgent::with_files_of(before.as_ref(), spec.env.clone());
            agent.set_silent(behaviour.agents_are_silent);
            *made = Made {
                agent: Some(agent),
                limits: Some(spec.limits),
                ..half_made()
            };
            if behaviour.die_at_start {
                made.end(Ended {
                    out_of_memory: false,
                    detail: "exit status 1".to_owned(),
                });
            }
            behaviour.start_time
        };
        pass(start_time).await;
        Ok(Created {
            steps: vec![StepTime {
                step: "fake".to_owned(),
                duration: time + start_time,
            }],
        })
    }

    async fn archive(&self, id: &Id) -> Result<()> {
        self.repack(id, Condition::Archived).await
    }

    async fn restore(&self, id: &Id) -> Result<()> {
        self.repack(id, Condition::Stopped).await
    }

    async fn resize(&self, id: &Id, limits: &Limits) -> Result<()> {
        let mut shared = self.lock();
        let in_use = shared.behaviour.memory_in_use;
        let Some(made) = shared.sandboxes.get_mut(id).filter(|made| made.alive()) else {
            return Err(Error::not_found(format!("no sandbox {id} in the fake")));
        };
        if limits.memory_bytes < in_use {
            return Err(Error::conflict(format!(
                "field `memory_bytes`: {in_use} bytes are in use"
            )));
        }
        made.limits = Some(*limits);
        Ok(())
    }

    async fn destroy(&self, id: &Id) -> Result<()> {
        let (time, fails) = self.plan(
            |behaviour| behaviour.destroy_time,
            |behaviour| &mut behaviour.destroy_failures,
        );
        self.lock().calls.destroy += 1;
        pass(time).await;
        if fails {
            return Err(Error::internal("the fake was told to fail"));
        }
        let made = self.lock().sandboxes.remove(id);
        if let Some(made) = made {
            made.end(Ended {
                out_of_memory: false,
                detail: "killed by signal 9".to_owned(),
            });
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>> {
        let found = |(id, made): (&Id, &Made)| Found {
            id: id.clone(),
            condition: made.condition(),
            host_restarted: made.host_restarted,
        };
        Ok(self.lock().sandboxes.iter().map(found).collect())
    }

    async fn usage(&self, id: &Id) -> Result<Usage> {
        self.with(id, |_| Usage {
            memory_bytes: 1 << 20,
            cpu_us: 1000,
            pids: 1,
            oom_kills: 0,
        })
    }

    async fn leftovers(&self) -> Result<Vec<Leftovers>> {
        Ok(vec![Leftovers {
            kind: "thing".to_owned(),
            objects: self.lock().behaviour.leftovers.clone(),
        }])
    }

    fn images(&self) -> Option<&dyn sandbox::Images> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_passes_the_suite() {
        let spec = Spec {
            image: "sandboxai/box".parse().unwrap(),
            env: BTreeMap::new(),
            limits: sandbox::Limits::default(),
            network: sandbox::NetworkMode::None,
            lease: sandbox::Lease::default(),
            runtime_class: None,
        };
        crate::check_runtime(&FakeRuntime::new(), &spec)
            .await
            .unwrap();
    }
}
