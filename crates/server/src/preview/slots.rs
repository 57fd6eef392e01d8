//! How many connections to one sandbox are open at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts the connections of each sandbox.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    max: usize,
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

impl Slots {
    /// At most `max` for each sandbox.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            taken: Arc::default(),
        }
    }

    /// A place for one more, if there is one. Dropping it frees it.
    pub(super) fn take(&self, id: &str) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(id.to_owned()).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Slot {
            slots: self.clone(),
            id: id.to_owned(),
        })
    }
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    id: String,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let taken = &self.slots.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_it_is_dropped() {
        let slots = Slots::new(2);
        let (one, other) = ("one", "other");
        let first = slots.take(one).unwrap();
        let _second = slots.take(one).unwrap();
        assert!(slots.take(one).is_none());
        assert!(slots.take(other).is_some());
        drop(first);
        assert!(slots.take(one).is_some());
        drop(_second);
        assert!(slots.taken.lock().unwrap().is_empty());
    }
}
