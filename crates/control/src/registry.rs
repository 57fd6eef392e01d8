//! Which sandboxes there are, by name: the living, the remembered and the keys.
//!
//! Every read of the API is answered from here. Names, the number of sandboxes
//! and idempotency keys are decided in one critical section each, so that two
//! requests at the same time can never both win.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use sandbox::{Error, Id, Name, Result, Space};

use crate::{Sandbox, moment::moment, resident::Resident};

/// How many times `sandboxes_max` there may be in all, stopped and archived ones
/// included: they take only space on the disk, but names and memory here too.
const WITH_STOPPED: usize = 11;
/// Tombstones kept in memory; beyond it the oldest are forgotten early.
const TOMBSTONES_MAX: usize = 20_000;
/// Idempotency keys kept in memory; beyond it the oldest are forgotten early.
const KEYS_MAX: usize = 50_000;

/// The digest of a request, to tell a repeated one from another.
pub(crate) type Fingerprint = [u8; 32];

/// A used idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyUse {
    pub(crate) space: Space,
    pub(crate) key: String,
    pub(crate) fingerprint: Fingerprint,
    /// The sandbox that was made for it.
    pub(crate) id: Id,
    pub(crate) name: Name,
    pub(crate) created_ms: i64,
}

/// All sandboxes.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Tables>);

#[derive(Debug, Default)]
struct Tables {
    living: HashMap<Space, HashMap<Name, Arc<Resident>>>,
    /// Those that take a place for running sandboxes.
    placed: HashSet<Id>,
    /// The living by identity.
    living_ids: HashMap<Id, Arc<Resident>>,
    /// The latest tombstone of each name.
    ended: HashMap<Space, HashMap<Name, Arc<Sandbox>>>,
    ended_order: VecDeque<Arc<Sandbox>>,
    /// Every tombstone by identity.
    ended_ids: HashMap<Id, Arc<Sandbox>>,
    keys: HashMap<Space, HashMap<String, Arc<KeyUse>>>,
    key_order: VecDeque<Arc<KeyUse>>,
    closed: bool,
}

impl Registry {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The living sandbox of a name.
    ///
    /// # Errors
    /// `NotFound`, with how it ended if that is remembered.
    pub(crate) fn find(&self, space: &Space, name: &Name) -> Result<Arc<Resident>> {
        let tables = self.read();
        match tables.living(space, name) {
            Some(resident) => {
                note(&resident.id);
                Ok(Arc::clone(resident))
            }
            None => Err(tables.not_found(space, name)),
        }
    }

    /// The living sandbox of an identity or, if there is none, of a name.
    ///
    /// # Errors
    /// `NotFound`, with how it ended if that is remembered; also for a text that
    /// is neither.
    pub(crate) fn find_any(&self, space: &Space, id_or_name: &str) -> Result<Arc<Resident>> {
        let tables = self.read();
        let id: Option<Id> = id_or_name.parse().ok();
        if let Some(id) = &id
            && let Some(resident) = tables.living_ids.get(id)
            && resident.space == *space
        {
            note(id);
            return Ok(Arc::clone(resident));
        }
        let Ok(name) = id_or_name.parse::<Name>() else {
            let shown: String = id_or_name.chars().take(80).collect();
            return Err(Error::not_found(format!(
                "there is no sandbox {shown:?} in space `{space}`"
            )));
        };
        if let Some(resident) = tables.living(space, &name) {
            note(&resident.id);
            return Ok(Arc::clone(resident));
        }
        let ended = id.and_then(|id| tables.ended_ids.get(&id));
        Err(match ended.filter(|ended| ended.space == *space) {
            Some(ended) => not_found(space, &name, Some(ended)),
            None => tables.not_found(space, &name),
        })
    }

    /// The latest sandbox of a name that ended.
    pub(crate) fn tombstone(&self, space: &Space, name: &Name) -> Option<Arc<Sandbox>> {
        self.read().tombstone(space, name).cloned()
    }

    /// Whether a sandbox of this identity has ended and is remembered.
    pub(crate) fn remembers(&self, space: &Space, id: &str) -> bool {
        let tables = self.read();
        let ended = id
            .parse::<Id>()
            .ok()
            .and_then(|id| tables.ended_ids.get(&id).cloned());
        ended.is_some_and(|ended| ended.space == *space)
    }

    /// Whether a sandbox lives, whatever its name.
    pub(crate) fn has(&self, id: &Id) -> bool {
        self.read().living_ids.contains_key(id)
    }

    /// All living sandboxes of a space, or of every space.
    pub(crate) fn living(&self, space: Option<&Space>) -> Vec<Arc<Resident>> {
        let tables = self.read();
        match space {
            Some(space) => {
                let residents = tables.living.get(space).map(HashMap::values);
                residents.into_iter().flatten().cloned().collect()
            }
            None => {
                let residents = tables.living.values().flat_map(HashMap::values);
                residents.cloned().collect()
            }
        }
    }

    /// The sandbox that a key has made before, if it has.
    ///
    /// # Errors
    /// `Conflict` when the key belongs to another request, `NotFound` when its
    /// sandbox has ended.
    pub(crate) fn find_key(
        &self,
        space: &Space,
        key: &str,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Arc<Resident>>> {
        self.read().find_key(space, key, fingerprint)
    }

    /// Takes a name, a place among the living and a key for a new sandbox, or
    /// finds that its key has made one before.
    ///
    /// # Errors
    /// `AlreadyExists`, `LimitReached`, or `Conflict` over the key; `Unavailable`
    /// when the registry is closed.
    pub(crate) fn reserve(
        &self,
        resident: &Arc<Resident>,
        key: Option<&KeyUse>,
        sandboxes_max: usize,
    ) -> Result<Option<Arc<Resident>>> {
        let mut tables = self.write();
        if tables.closed {
            return Err(closed());
        }
        if let Some(key) = key
            && let Some(earlier) = tables.find_key(&key.space, &key.key, &key.fingerprint)?
        {
            return Ok(Some(earlier));
        }
        if let Some(taken) = tables.living(&resident.space, &resident.name) {
            return Err(Error::already_exists(format!(
                "field `name`: sandbox `{}` exists already in space `{}` ({}); choose another name or delete it",
                taken.name,
                taken.space,
                taken.life().state()
            )));
        }
        if tables.living_ids.contains_key(&resident.id)
            || tables.ended_ids.contains_key(&resident.id)
        {
            return Err(Error::already_exists(format!(
                "there is or was a sandbox with the id `{}`; ids are never used again",
                resident.id
            )));
        }
        tables.has_place(sandboxes_max)?;
        let all_max = sandboxes_max.saturating_mul(WITH_STOPPED);
        if tables.living_ids.len() >= all_max {
            return Err(Error::limit(format!(
                "there are {} sandboxes with those that are stopped or archived, and {all_max} may be, {WITH_STOPPED} times `sandboxes_max`; delete some or raise it in the configuration",
                tables.living_ids.len()
            )));
        }
        tables.admit(resident);
        if let Some(key) = key {
            tables.remember_key(key.clone());
        }
        Ok(None)
    }

    /// Takes in a sandbox that lived before the server's restart, unless another
    /// one has its name: that can only be one that is to be removed.
    pub(crate) fn adopt(&self, resident: &Arc<Resident>) {
        self.write().admit(resident);
    }

    /// Gives a stopped sandbox a place among the running again.
    ///
    /// # Errors
    /// `LimitReached`; `Unavailable` when the registry is closed.
    pub(crate) fn take_place(&self, resident: &Resident, sandboxes_max: usize) -> Result<()> {
        let mut tables = self.write();
        if tables.closed {
            return Err(closed());
        }
        if !tables.placed.contains(&resident.id) {
            tables.has_place(sandboxes_max)?;
            tables.placed.insert(resident.id.clone());
        }
        Ok(())
    }

    /// Frees the place of a sandbox that was stopped.
    pub(crate) fn vacate(&self, resident: &Resident) {
        self.write().placed.remove(&resident.id);
    }

    /// Takes in a tombstone or a key of an earlier life of the server; the oldest first.
    pub(crate) fn recall(&self, tombstones: Vec<Sandbox>, keys: Vec<KeyUse>) {
        let mut tables = self.write();
        for tombstone in tombstones {
            tables.remember(tombstone);
        }
        for key in keys {
            tables.remember_key(key);
        }
    }

    /// Replaces a living sandbox by its tombstone: its name is free from here on.
    pub(crate) fn bury(&self, tombstone: Sandbox, forget_keys: bool) {
        let mut tables = self.write();
        tables.dismiss(&tombstone.space, &tombstone.name, &tombstone.id);
        if forget_keys {
            tables.forget_keys_of(&tombstone.space, &tombstone.id);
        }
        tables.remember(tombstone);
    }

    /// Forgets what ended, and keys that were used, before this time.
    pub(crate) fn prune(&self, before_ms: i64) {
        let mut tables = self.write();
        while tables
            .ended_order
            .front()
            .is_some_and(|ended| ended_ms(ended) < before_ms)
        {
            tables.forget_oldest_tombstone();
        }
        while tables
            .key_order
            .front()
            .is_some_and(|key| key.created_ms < before_ms)
        {
            tables.forget_oldest_key();
        }
    }

    /// Takes in nothing new from here on.
    pub(crate) fn close(&self) {
        self.write().closed = true;
    }

    /// Whether nothing new is taken in any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.read().closed
    }
}

/// Notes the sandbox in the log span of the request under way, which has room for it.
pub(crate) fn note(id: &Id) {
    tracing::Span::current().record("sandbox", id.as_str());
}

/// The error of everything new after the registry was closed.
pub(crate) fn closed() -> Error {
    Error::unavailable("the server is shutting down; try again when it has been started again")
}

/// The error of what does not live, with how it ended if that is remembered.
fn not_found(space: &Space, name: &Name, ended: Option<&Arc<Sandbox>>) -> Error {
    if let Some(ended) = ended {
        note(&ended.id);
    }
    Error::not_found(match ended.and_then(|ended| ended.tombstone.as_ref()) {
        Some(tombstone) => format!(
            "sandbox `{name}` ended at {}: {}",
            moment(tombstone.ended_ms),
            tombstone.reason
        ),
        None => format!("there is no sandbox `{name}` in space `{space}`"),
    })
}

fn ended_ms(sandbox: &Sandbox) -> i64 {
    sandbox
        .tombstone
        .as_ref()
        .map_or(0, |tombstone| tombstone.ended_ms)
}

impl Tables {
    fn living(&self, space: &Space, name: &Name) -> Option<&Arc<Resident>> {
        self.living.get(space)?.get(name)
    }

    fn tombstone(&self, space: &Space, name: &Name) -> Option<&Arc<Sandbox>> {
        self.ended.get(space)?.get(name)
    }

    fn not_found(&self, space: &Space, name: &Name) -> Error {
        not_found(space, name, self.tombstone(space, name))
    }

    fn has_place(&self, sandboxes_max: usize) -> Result<()> {
        if self.placed.len() < sandboxes_max {
            return Ok(());
        }
        Err(Error::limit(format!(
            "there are {} sandboxes, as many as `sandboxes_max` allows; stop or delete some, or raise it in the configuration",
            self.placed.len()
        )))
    }

    fn find_key(
        &self,
        space: &Space,
        key: &str,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Arc<Resident>>> {
        let Some(used) = self.keys.get(space).and_then(|keys| keys.get(key)) else {
            return Ok(None);
        };
        if used.fingerprint != *fingerprint {
            return Err(Error::conflict(format!(
                "the idempotency key was used at {} for a different request, which made sandbox `{}`; use another key",
                moment(used.created_ms),
                used.name
            )));
        }
        match self.living(space, &used.name) {
            Some(resident) if resident.id == used.id => Ok(Some(Arc::clone(resident))),
            _ => Err(Error::not_found(format!(
                "the sandbox `{}` that this idempotency key made has ended; use another key to make a new one",
                used.name
            ))),
        }
    }

    /// Takes in a sandbox unless its name is taken.
    fn admit(&mut self, resident: &Arc<Resident>) {
        let names = self.living.entry(resident.space.clone()).or_default();
        if let Entry::Vacant(place) = names.entry(resident.name.clone()) {
            place.insert(Arc::clone(resident));
            let id = resident.id.clone();
            if resident.life().takes_place() {
                self.placed.insert(id.clone());
            }
            self.living_ids.insert(id, Arc::clone(resident));
        }
    }

    fn dismiss(&mut self, space: &Space, name: &Name, id: &Id) {
        let Some(names) = self.living.get_mut(space) else {
            return;
        };
        if names.get(name).is_some_and(|resident| resident.id == *id) {
            names.remove(name);
            self.living_ids.remove(id);
            self.placed.remove(id);
        }
        if names.is_empty() {
            self.living.remove(space);
        }
    }

    fn remember(&mut self, sandbox: Sandbox) {
        let sandbox = Arc::new(sandbox);
        let names = self.ended.entry(sandbox.space.clone()).or_default();
        names.insert(sandbox.name.clone(), Arc::clone(&sandbox));
        let id = sandbox.id.clone();
        self.ended_ids.insert(id, Arc::clone(&sandbox));
        self.ended_order.push_back(sandbox);
        if self.ended_order.len() > TOMBSTONES_MAX {
            self.forget_oldest_tombstone();
        }
    }

    fn forget_oldest_tombstone(&mut self) {
        let Some(oldest) = self.ended_order.pop_front() else {
            return;
        };
        self.ended_ids.remove(&oldest.id);
        let Some(names) = self.ended.get_mut(&oldest.space) else {
            return;
        };
        // A later sandbox of the same name may have ended meanwhile.
        if names
            .get(&oldest.name)
            .is_some_and(|kept| kept.id == oldest.id)
        {
            names.remove(&oldest.name);
        }
        if names.is_empty() {
            self.ended.remove(&oldest.space);
        }
    }

    fn remember_key(&mut self, key: KeyUse) {
        let key = Arc::new(key);
        let keys = self.keys.entry(key.space.clone()).or_default();
        keys.insert(key.key.clone(), Arc::clone(&key));
        self.key_order.push_back(key);
        if self.key_order.len() > KEYS_MAX {
            self.forget_oldest_key();
        }
    }

    fn forget_oldest_key(&mut self) {
        let Some(oldest) = self.key_order.pop_front() else {
            return;
        };
        self.forget_key(&oldest);
    }

    fn forget_key(&mut self, used: &KeyUse) {
        let Some(keys) = self.keys.get_mut(&used.space) else {
            return;
        };
        if keys.get(&used.key).is_some_and(|kept| kept.id == used.id) {
            keys.remove(&used.key);
        }
        if keys.is_empty() {
            self.keys.remove(&used.space);
        }
    }

    /// Frees the keys of a creation that failed, so that it can be tried again.
    fn forget_keys_of(&mut self, space: &Space, id: &Id) {
        let keys = self.keys.get(space).map(HashMap::values);
        let used = keys.into_iter().flatten().find(|used| used.id == *id);
        if let Some(used) = used.cloned() {
            self.forget_key(&used);
        }
    }
}
