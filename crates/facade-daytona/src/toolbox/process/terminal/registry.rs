//! What the server remembers of terminals besides what the agent tells. It is
//! lost with the server; the terminals are not.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbox::Id;

/// Most terminals remembered; the oldest are forgotten beyond it.
const TERMINALS_MAX: usize = 4096;

/// How a terminal was asked for.
#[derive(Debug, Default)]
pub(crate) struct Details {
    pub(crate) cwd: String,
    pub(crate) envs: BTreeMap<String, String>,
    pub(crate) is_lazy: bool,
    /// Held while somebody types, so that the input of several clients is not torn.
    pub(crate) typing: tokio::sync::Mutex<()>,
}

/// All terminals started by this server, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Terminals {
    all: Mutex<VecDeque<Known>>,
}

#[derive(Debug)]
struct Known {
    sandbox: Id,
    process: u64,
    details: Arc<Details>,
}

impl Terminals {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a terminal.
    pub(super) fn remember(&self, sandbox: &Id, process: u64, details: Details) -> Arc<Details> {
        let details = Arc::new(details);
        let mut all = self.lock();
        if all.len() >= TERMINALS_MAX {
            all.pop_front();
        }
        all.push_back(Known {
            sandbox: sandbox.clone(),
            process,
            details: Arc::clone(&details),
        });
        details
    }

    /// What is known of a terminal; one started by an earlier server gets details of its own.
    pub(super) fn details(&self, sandbox: &Id, process: u64) -> Arc<Details> {
        let known = self
            .lock()
            .iter()
            .find(|known| known.process == process && known.sandbox == *sandbox)
            .map(|known| Arc::clone(&known.details));
        known.unwrap_or_else(|| self.remember(sandbox, process, Details::default()))
    }

    /// Forgets a terminal.
    pub(super) fn forget(&self, sandbox: &Id, process: u64) {
        self.lock()
            .retain(|known| known.process != process || known.sandbox != *sandbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_known_by_sandbox_and_process_within_a_bound() {
        let terminals = Terminals::default();
        let (one, other) = (Id::random().unwrap(), Id::random().unwrap());
        let details = |cwd: &str| Details {
            cwd: cwd.to_owned(),
            ..Details::default()
        };
        terminals.remember(&one, 1, details("/a"));
        terminals.remember(&other, 1, details("/b"));
        assert_eq!(terminals.details(&one, 1).cwd, "/a");
        assert_eq!(terminals.details(&other, 1).cwd, "/b");
        terminals.forget(&one, 1);
        assert_eq!(terminals.details(&one, 1).cwd, "");
        for process in 0..2 * TERMINALS_MAX as u64 {
            terminals.remember(&one, process, Details::default());
        }
        assert_eq!(terminals.lock().len(), TERMINALS_MAX);
    }
}
