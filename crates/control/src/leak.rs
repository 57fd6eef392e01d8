//! What is on the host and no sandbox needs: what the runtime tells of, and what it
//! lists as sandboxes that nobody here knows.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use sandbox::{Leftovers, Result};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::core::Core;

/// How long a thing must have been seen to count: what is just being made or
/// removed looks the same, but not for so long.
const AGE_MIN: Duration = Duration::from_secs(10);
/// The runtime is not asked more often, however often somebody scrapes.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long the runtime may take to look.
const LOOK_TIME_MAX: Duration = Duration::from_secs(2);
/// The kind of a sandbox that nobody knows.
const SANDBOX: &str = "sandbox";

/// What was seen, and since when.
#[derive(Debug, Default)]
pub(crate) struct Leaks(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    looked: Option<Instant>,
    /// By kind and object. No larger than what the last look has shown.
    since: BTreeMap<String, HashMap<String, Instant>>,
}

impl Seen {
    /// Takes in what a look has shown: what was there before keeps its age.
    fn look(&mut self, found: Vec<Leftovers>, now: Instant) {
        let mut before = std::mem::take(&mut self.since);
        for Leftovers { kind, objects } in found {
            let before = before.remove(&kind).unwrap_or_default();
            let since = objects.into_iter().map(|object| {
                let since = before.get(&object).copied().unwrap_or(now);
                (object, since)
            });
            self.since.insert(kind, since.collect());
        }
        self.looked = Some(now);
    }

    fn old(&self, now: Instant) -> BTreeMap<String, usize> {
        let is_old = |since: &&Instant| now.duration_since(**since) >= AGE_MIN;
        let kinds = self.since.iter();
        kinds
            .map(|(kind, objects)| (kind.clone(), objects.values().filter(is_old).count()))
            .collect()
    }
}

impl Leaks {
    /// How many there are of each kind that have been seen for [`AGE_MIN`]; `None`
    /// when the runtime cannot tell just now.
    pub(crate) async fn count(&self, core: &Core) -> Option<BTreeMap<String, usize>> {
        let mut seen = self.0.lock().await;
        let is_fresh = |looked: Instant| looked.elapsed() < LOOK_EVERY;
        if !seen.looked.is_some_and(is_fresh) {
            let found = timeout(LOOK_TIME_MAX, look(core)).await;
            let found = found.map_err(|_| sandbox::Error::timeout("looking for leaks"));
            match found.flatten() {
                Ok(found) => seen.look(found, Instant::now()),
                Err(error) => {
                    tracing::debug!(%error, "cannot look for leaks");
                    return None;
                }
            }
        }
        Some(seen.old(Instant::now()))
    }
}

async fn look(core: &Core) -> Result<Vec<Leftovers>> {
    let mut found = core.runtime.leftovers().await?;
    let listed = core.runtime.list().await?.into_iter();
    // One that is made or removed is in the registry for longer than in the runtime.
    let strangers = listed.filter(|listed| !core.registry.has(&listed.id));
    found.push(Leftovers {
        kind: SANDBOX.to_owned(),
        objects: strangers.map(|stranger| stranger.id.to_string()).collect(),
    });
    Ok(found)
}
