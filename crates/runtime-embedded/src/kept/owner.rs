//! Which host ids stand for which ids of a sandbox.

use crate::plan::{UIDS_PER_SANDBOX, uid_base};

/// Whom files belong to that belong to nobody of the sandbox's.
const NOBODY: u32 = 65_534;

/// The host ids of the sandbox with one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids(u32);

impl Ids {
    pub(crate) fn of(slot: u32) -> Self {
        Self(uid_base(slot))
    }

    /// The id inside of the sandbox that a host id stands for.
    pub(super) fn inside(self, host: u32) -> u32 {
        self.find(host).unwrap_or(NOBODY)
    }

    /// The host id that stands for an id inside of the sandbox.
    pub(super) fn outside(self, inside: u32) -> u32 {
        let known = if inside < UIDS_PER_SANDBOX {
            inside
        } else {
            NOBODY
        };
        self.0 + known
    }

    /// The id of `next` that stands for the same as an id of these; an id of
    /// nobody here stays.
    pub(super) fn moved(self, next: Self, host: u32) -> u32 {
        self.find(host).map_or(host, |inside| next.outside(inside))
    }

    fn find(self, host: u32) -> Option<u32> {
        let inside = host.checked_sub(self.0)?;
        (inside < UIDS_PER_SANDBOX).then_some(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_others_are_never_taken_for_own() {
        let (one, two) = (Ids::of(1), Ids::of(2));
        for id in [0, 1, 1000, 65_535] {
            let host = one.outside(id);
            assert_eq!(one.inside(host), id);
            assert_eq!(one.moved(two, host), two.outside(id));
            assert_eq!(one.moved(two, two.outside(id)), two.outside(id));
        }
        for foreign in [0, 65_534, one.0 - 1, one.0 + UIDS_PER_SANDBOX] {
            assert_eq!(one.inside(foreign), NOBODY);
            assert_eq!(one.moved(two, foreign), foreign);
        }
        assert_eq!(one.outside(u32::MAX), one.0 + NOBODY);
    }
}
