//! Slots: numbers that are given out once per host, from which id ranges and
//! addresses follow.
//!
//! A slot is a file whose name is the number, made with `O_EXCL`, so that
//! servers with other scopes and state folders never share one. All changes
//! happen under a lock, so that nobody removes the file of a successor.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{
    error::{At as _, Error, Step},
    layout::Layout,
    plan::SLOTS_MAX,
    process::Identity,
};

/// How long a slot may belong to a sandbox that has no folder yet: more than
/// any creation takes.
const UNUSED_MAX: Duration = Duration::from_secs(60);

/// Who has a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The sandbox.
    pub(crate) id: String,
    /// Where its files are.
    pub(crate) state_dir: PathBuf,
    /// The spawner that took the slot.
    pub(crate) spawner: Identity,
}

/// The slots of this host.
#[derive(Debug)]
pub(crate) struct Slots {
    folder: PathBuf,
    /// Where to look first: after the slot given out last.
    next: u32,
}

impl Slots {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            folder: layout.slots(),
            next: 0,
        }
    }

    /// Takes a free slot for `holder`.
    pub(crate) fn take(&mut self, holder: &Holder) -> Result<u32, Error> {
        let _lock = self.lock()?;
        for offset in 0..SLOTS_MAX {
            let slot = (self.next + offset) % SLOTS_MAX;
            let path = self.folder.join(slot.to_string());
            let made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            let mut file = match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.at(Step::TakeSlot, path.display())?,
            };
            self.next = (slot + 1) % SLOTS_MAX;
            let text = serde_json::to_vec(holder).expect("strings and numbers always serialize");
            file.write_all(&text).at(Step::TakeSlot, path.display())?;
            return Ok(slot);
        }
        Err(io::Error::from(io::ErrorKind::QuotaExceeded)).at(
            Step::TakeSlot,
            format_args!("because all {SLOTS_MAX} of this host are in use"),
        )
    }

    /// Takes `slot` for `holder`, if nobody else has it; whether it is the holder's now.
    pub(crate) fn take_this(&self, slot: u32, holder: &Holder) -> Result<bool, Error> {
        let _lock = self.lock()?;
        let path = self.folder.join(slot.to_string());
        match read(&path).at(Step::TakeSlot, path.display())? {
            Some(Content::Held(present)) => Ok(present.id == holder.id),
            Some(Content::Unreadable) => Ok(false),
            None => {
                let text =
                    serde_json::to_vec(holder).expect("strings and numbers always serialize");
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
                    .and_then(|mut file| file.write_all(&text))
                    .at(Step::TakeSlot, path.display())?;
                Ok(true)
            }
        }
    }

    /// Gives a slot back, if it is still the sandbox's.
    pub(crate) fn free(&self, slot: u32, id: &str) -> Result<(), Error> {
        let path = self.folder.join(slot.to_string());
        let _lock = self.lock()?;
        match read(&path).at(Step::FreeSlot, path.display())? {
            Some(Content::Held(holder)) if holder.id == id => remove(&path),
            _ => Ok(()),
        }
    }

    /// Whether the slot is the sandbox's, and not another's since the host was restarted.
    pub(crate) fn is_held_by(&self, slot: u32, id: &str) -> bool {
        matches!(
            read(&self.folder.join(slot.to_string())),
            Ok(Some(Content::Held(holder))) if holder.id == id
        )
    }

    /// Removes slots whose sandbox is gone; what is left, by slot.
    pub(crate) fn reclaim(&self) -> Result<BTreeMap<u32, Holder>, Error> {
        let _lock = self.lock()?;
        let mut held = BTreeMap::new();
        let entries = fs::read_dir(&self.folder).at(Step::ListSandboxes, self.folder.display())?;
        for entry in entries {
            let entry = entry.at(Step::ListSandboxes, self.folder.display())?;
            let name = entry.file_name();
            let Some(slot) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let path = entry.path();
            match read(&path).at(Step::FreeSlot, path.display())? {
                Some(Content::Held(holder)) if !holder.is_stale(&path) => {
                    held.insert(slot, holder);
                }
                // Its owner may be about to write; a killed one is not.
                Some(Content::Unreadable) if is_young(&path) => {}
                Some(_) => remove(&path)?,
                None => {}
            }
        }
        Ok(held)
    }

    /// Who has which slot, without changing anything.
    pub(crate) fn held(&self) -> Vec<(u32, Holder, bool)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let slot = entry.file_name().to_str()?.parse().ok()?;
                match read(&entry.path()).ok()?? {
                    Content::Held(holder) => {
                        let stale = holder.is_stale(&entry.path());
                        Some((slot, holder, stale))
                    }
                    Content::Unreadable => None,
                }
            })
            .collect()
    }

    /// While the file is open no slot is taken or given back on this host.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        let path = self.folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .at(Step::FreeSlot, path.display())?;
        // Held for a few file operations, or while the firewall is put in order.
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .at(Step::FreeSlot, path.display())?;
        Ok(lock)
    }
}

impl Holder {
    /// Whether the sandbox does not exist: no files, nobody who is making them.
    fn is_stale(&self, path: &Path) -> bool {
        let layout = Layout::new(&self.state_dir, Path::new(""), Path::new(""));
        let has_files = layout.sandbox(&self.id).exists() || layout.trash().join(&self.id).exists();
        !(has_files || self.spawner.is_alive() && is_young(path))
    }
}

/// What a slot's file says.
enum Content {
    Held(Holder),
    Unreadable,
}

/// `None` when there is no such file.
fn read(path: &Path) -> io::Result<Option<Content>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(match serde_json::from_slice(&text) {
            Ok(holder) => Content::Held(holder),
            Err(_) => Content::Unreadable,
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at(Step::FreeSlot, path.display()),
    }
}

fn is_young(path: &Path) -> bool {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|made| made.elapsed().is_ok_and(|age| age < UNUSED_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(folder: &Path) -> (Layout, Slots) {
        let layout = Layout::new(
            &folder.join("state"),
            &folder.join("run"),
            &folder.join("host"),
        );
        layout.prepare().unwrap();
        let slots = Slots::new(&layout);
        (layout, slots)
    }

    fn holder(layout: &Layout, id: &str) -> Holder {
        Holder {
            id: id.to_owned(),
            state_dir: layout.state().to_owned(),
            spawner: Identity::own().unwrap(),
        }
    }

    #[test]
    fn two_servers_never_get_the_same_slot() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, mut one) = slots(folder.path());
        let mut other = Slots::new(&layout);
        assert_eq!(one.take(&holder(&layout, "a")).unwrap(), 0);
        assert_eq!(other.take(&holder(&layout, "b")).unwrap(), 1);
        assert_eq!(one.take(&holder(&layout, "c")).unwrap(), 2);
    }

    #[test]
    fn a_slot_is_freed_by_its_own_sandbox_only() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, mut slots) = slots(folder.path());
        let slot = slots.take(&holder(&layout, "a")).unwrap();
        slots.free(slot, "b").unwrap();
        assert!(slots.is_held_by(slot, "a") && !slots.is_held_by(slot, "b"));
        slots.free(slot, "a").unwrap();
        slots.free(slot, "a").unwrap();
        assert!(slots.held().is_empty());
    }

    #[test]
    fn a_certain_slot_is_had_only_if_nobody_else_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, mut slots) = slots(folder.path());
        assert!(slots.take_this(0, &holder(&layout, "a")).unwrap());
        assert!(slots.take_this(0, &holder(&layout, "a")).unwrap());
        assert!(!slots.take_this(0, &holder(&layout, "b")).unwrap());
        assert_eq!(slots.take(&holder(&layout, "b")).unwrap(), 1);
    }

    #[test]
    fn slots_of_vanished_sandboxes_are_reclaimed() {
        let folder = tempfile::tempdir().unwrap();
        let (layout, mut slots) = slots(folder.path());
        let gone = Identity {
            pid: 1,
            started_ticks: u64::MAX,
        };
        for (id, spawner) in [
            ("dead", gone),
            ("files", gone),
            ("making", Identity::own().unwrap()),
        ] {
            let holder = Holder {
                spawner,
                ..holder(&layout, id)
            };
            slots.take(&holder).unwrap();
        }
        fs::create_dir(layout.sandbox("files")).unwrap();
        let held: Vec<String> = slots
            .reclaim()
            .unwrap()
            .into_values()
            .map(|holder| holder.id)
            .collect();
        assert_eq!(held, ["files", "making"]);
        assert_eq!(slots.held().len(), 2);
    }
}
