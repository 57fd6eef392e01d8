//! The share as it is, and how it came to be that.

use std::collections::VecDeque;

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};

use super::share::Share;

/// Most changes that are remembered.
pub(crate) const CHANGES_MAX: usize = 100;
/// Most characters of a reason.
const REASON_CHARS_MAX: usize = 500;

/// The share from a moment on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The moment.
    pub at: Timestamp,
    /// The share, percent.
    pub share: Share,
    /// For people.
    pub reason: String,
}

impl Change {
    /// A change whose reason has no line breaks and is not too long.
    pub(crate) fn new(at: Timestamp, share: Share, reason: &str) -> Self {
        let visible = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        Self {
            // No more than people read.
            at: at.round(Unit::Millisecond).unwrap_or(at),
            share,
            reason: visible.take(REASON_CHARS_MAX).collect(),
        }
    }
}

/// All changes that are remembered: there is always one that is in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Course {
    current: Change,
    /// The newest first.
    earlier: VecDeque<Change>,
}

impl Course {
    /// One that begins with this.
    pub(crate) fn begin(first: Change) -> Self {
        Self {
            current: first,
            earlier: VecDeque::new(),
        }
    }

    /// From changes, the newest first; `None` when there are none.
    pub(crate) fn of(changes: Vec<Change>) -> Option<Self> {
        let mut changes = VecDeque::from(changes);
        changes.truncate(CHANGES_MAX);
        Some(Self {
            current: changes.pop_front()?,
            earlier: changes,
        })
    }

    /// The change that is in force.
    pub(crate) fn current(&self) -> &Change {
        &self.current
    }

    /// All changes, the newest first.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &Change> {
        std::iter::once(&self.current).chain(&self.earlier)
    }

    /// Goes on with another change.
    pub(crate) fn change(&mut self, change: Change) {
        let before = std::mem::replace(&mut self.current, change);
        self.earlier.push_front(before);
        self.earlier.truncate(CHANGES_MAX - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(percent: f64) -> Change {
        Change::new(
            Timestamp::UNIX_EPOCH,
            Share::new(percent).unwrap(),
            "set\nby\u{7}me",
        )
    }

    #[test]
    fn the_newest_is_in_force_and_the_oldest_are_forgotten() {
        let mut course = Course::begin(change(0.0));
        for percent in 1..=100 {
            course.change(change(f64::from(percent)));
        }
        assert_eq!(course.current().share, Share::ALL);
        let shares: Vec<Share> = course.changes().map(|change| change.share).collect();
        assert_eq!(shares.len(), CHANGES_MAX);
        assert_eq!(shares.last(), Share::new(1.0).as_ref());
        let again = Course::of(course.changes().cloned().collect()).unwrap();
        assert_eq!(again, course);
        assert_eq!(Course::of(Vec::new()), None);
    }

    #[test]
    fn a_reason_cannot_forge_lines() {
        assert_eq!(change(1.0).reason, "set by me");
        let long = "x".repeat(5000);
        let reason = Change::new(Timestamp::UNIX_EPOCH, Share::NONE, &long).reason;
        assert_eq!(reason.len(), REASON_CHARS_MAX);
    }
}
