//! What a rollout decides: no clock, no files, no HTTP.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    course::{Change, Course},
    limits::Limits,
    operation::{Operation, Outcome},
    share::{Place, Share, Spread},
    window::{Measured, Window},
};
use crate::side::Side;

/// The share, and what both sides did. Times are durations since one moment.
#[derive(Debug)]
pub(crate) struct Core {
    limits: Limits,
    pub(crate) course: Course,
    spread: Spread,
    sandboxai: Record,
    daytona: Record,
}

/// What one side did.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) window: Window,
    /// Sandboxes made since the start.
    pub(crate) created: u64,
}

impl Record {
    fn new(window: Duration) -> Self {
        Self {
            window: Window::new(window),
            created: 0,
        }
    }
}

impl Core {
    /// One that goes on with a course.
    pub(crate) fn new(limits: Limits, window: Duration, course: Course) -> Self {
        Self {
            limits,
            course,
            spread: Spread::default(),
            sandboxai: Record::new(window),
            daytona: Record::new(window),
        }
    }

    /// The share in force.
    pub(crate) fn share(&self) -> Share {
        self.course.current().share
    }

    /// What a side did.
    pub(crate) fn record_mut(&mut self, side: Side) -> &mut Record {
        match side {
            Side::SandboxAi => &mut self.sandboxai,
            Side::Daytona => &mut self.daytona,
        }
    }

    /// The side of a new sandbox, which has a place or takes its turn.
    pub(crate) fn choose(&mut self, place: Option<Place>) -> Side {
        let share = self.share();
        let ours = match place {
            Some(place) => share.takes(place),
            None => self.spread.next(share),
        };
        match ours {
            true => Side::SandboxAi,
            false => Side::Daytona,
        }
    }

    /// Takes in a request that ended. The share goes back to 0 when this side
    /// has exceeded a limit by it: that change is the result.
    pub(crate) fn take_in(
        &mut self,
        side: Side,
        measured: &Measured,
        now: Duration,
        at: Timestamp,
    ) -> Option<Change> {
        let record = self.record_mut(side);
        record.window.add(now, measured);
        let made = measured.operation == Operation::Create && measured.outcome == Outcome::Success;
        record.created += u64::from(made);
        if side == Side::Daytona || self.share() == Share::NONE {
            return None;
        }
        let window = &mut self.sandboxai.window;
        let excess = match self.limits.failing(window, now) {
            None if made => self.limits.slow(window, now),
            found => found,
        }?;
        let change = Change::new(at, Share::NONE, &format!("rolled back: {excess}"));
        self.course.change(change.clone());
        Some(change)
    }

    /// Goes on with another change. What both sides did before a new share counts
    /// no more; after a change to 0 it is still there to be looked at.
    pub(crate) fn change(&mut self, change: Change) {
        if change.share != Share::NONE {
            self.sandboxai.window.clear();
            self.daytona.window.clear();
        }
        self.course.change(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(percent: f64) -> Core {
        let course = Course::begin(change(percent));
        Core::new(Limits::default(), Duration::from_secs(300), course)
    }

    fn change(percent: f64) -> Change {
        let share = Share::new(percent).unwrap();
        Change::new(Timestamp::UNIX_EPOCH, share, "set")
    }

    fn fail(core: &mut Core, side: Side, times: usize) -> Option<Change> {
        let measured = Measured {
            operation: Operation::Create,
            outcome: Outcome::Failure,
            duration: Duration::from_millis(1),
        };
        let now = Duration::from_secs(1);
        (0..times)
            .filter_map(|_| core.take_in(side, &measured, now, Timestamp::UNIX_EPOCH))
            .last()
    }

    #[test]
    fn too_many_failures_here_end_the_share_once() {
        let mut core = core(50.0);
        assert_eq!(fail(&mut core, Side::SandboxAi, 9), None);
        let change = fail(&mut core, Side::SandboxAi, 1).unwrap();
        assert_eq!(
            change.reason,
            "rolled back: 10 of 10 creations failed, more than 5.0 %"
        );
        assert_eq!(core.course.current(), &change);
        assert_eq!(core.choose(Some(Place::of("a"))), Side::Daytona);
        assert_eq!(fail(&mut core, Side::SandboxAi, 30), None);
    }

    #[test]
    fn failures_there_change_nothing() {
        let mut core = core(50.0);
        assert_eq!(fail(&mut core, Side::Daytona, 100), None);
        assert_eq!(core.share(), Share::new(50.0).unwrap());
    }

    #[test]
    fn a_new_share_begins_with_a_fresh_window() {
        let mut core = core(50.0);
        fail(&mut core, Side::SandboxAi, 10).unwrap();
        core.change(change(10.0));
        assert_eq!(fail(&mut core, Side::SandboxAi, 9), None);
        assert_eq!(core.share(), Share::new(10.0).unwrap());
        core.change(change(0.0));
        let now = Duration::from_secs(1);
        let record = core.record_mut(Side::SandboxAi);
        assert_eq!(record.window.counts(now).failures, 9);
    }
}
