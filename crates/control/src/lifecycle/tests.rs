use proptest::prelude::*;

use super::*;

const CREATE_TIMEOUT: Duration = Duration::from_secs(20);

fn reasons() -> impl Strategy<Value = EndReason> {
    prop_oneof![
        Just(EndReason::Deleted),
        Just(EndReason::Idle),
        Just(EndReason::LifetimeOver),
        Just(EndReason::Shutdown),
        "[a-z]{0,5}".prop_map(EndReason::AgentLost),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Made),
        "[a-z]{0,5}".prop_map(Event::MakeFailed),
        Just(Event::Answered),
        "[a-z]{0,5}".prop_map(Event::NotAnswered),
        Just(Event::PauseAsked),
        Just(Event::Froze),
        Just(Event::FreezeFailed),
        Just(Event::ResumeAsked),
        Just(Event::Thawed),
        Just(Event::ThawFailed),
        Just(Event::StopAsked),
        Just(Event::Halted),
        Just(Event::HaltFailed),
        Just(Event::StartAsked),
        Just(Event::Started),
        "[a-z]{0,5}".prop_map(Event::StartFailed),
        Just(Event::ArchiveAsked),
        Just(Event::Packed),
        Just(Event::PackFailed),
        Just(Event::Unpacked),
        Just(Event::UnpackFailed),
        reasons().prop_map(Event::EndAsked),
        any::<bool>().prop_map(|out_of_memory| Event::ProcessEnded {
            out_of_memory,
            detail: "exit status 1".to_owned(),
        }),
        Just(Event::Destroyed),
        Just(Event::DestroyFailed),
        Just(Event::DeadlinePassed(CREATE_TIMEOUT)),
    ]
}

fn starts() -> impl Strategy<Value = Life> {
    prop_oneof![
        Just(Life::Creating),
        Just(Life::Adopting),
        Just(Life::Paused),
        Just(Life::stopping(None)),
        Just(Life::Stopped),
        Just(Life::Starting),
        Just(Life::Archiving),
        Just(Life::Archived),
        any::<bool>().prop_map(|start| Life::Restoring { start }),
        reasons().prop_map(|reason| Life::Ending { reason, attempt: 0 }),
    ]
}

fn wants() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        Just(Wanted::Paused),
        Just(Wanted::Resumed),
        Just(Wanted::Started),
        Just(Wanted::Stopped),
        Just(Wanted::Archived),
    ]
}

fn after(life: Life, events: impl IntoIterator<Item = Event>) -> Life {
    lived(life, events, false)
}

fn lived(mut life: Life, events: impl IntoIterator<Item = Event>, keeps_files: bool) -> Life {
    for event in events {
        if let Decision::Go(next, _) = decide(&life, event, keeps_files) {
            life = next;
        }
    }
    life
}

proptest! {
    #[test]
    fn deadlines_alone_lead_out_of_every_waiting_state(
        start in starts(),
        events in prop::collection::vec(events(), 0..30),
    ) {
        let mut life = after(start, events);
        for _ in 0..=DESTROY_ATTEMPTS + 1 {
            let Some(time) = life.time_max(CREATE_TIMEOUT) else { break };
            let next = decide(&life, Event::DeadlinePassed(time), false);
            prop_assert_ne!(&next, &Decision::Stay, "stuck in {:?}", life);
            life = after(life, [Event::DeadlinePassed(time)]);
        }
        prop_assert!(life.time_max(CREATE_TIMEOUT).is_none(), "still waiting in {:?}", life);
    }

    #[test]
    fn a_final_state_is_final(reason in reasons(), events in prop::collection::vec(events(), 0..30)) {
        let ended = Life::Ended { reason };
        prop_assert_eq!(after(ended.clone(), events), ended);
    }

    #[test]
    fn delete_leads_to_the_end_whatever_else_happens(
        start in starts(),
        before in prop::collection::vec(events(), 0..30),
        between in prop::collection::vec(events(), 0..30),
    ) {
        let asked = after(after(start, before), [Event::EndAsked(EndReason::Deleted)]);
        let reason = asked.reason().cloned();
        prop_assert!(reason.is_some(), "{:?} goes on", asked);
        let deadline = Event::DeadlinePassed(DESTROY_TIME_MAX);
        let deadlines = std::iter::repeat_n(deadline, DESTROY_ATTEMPTS as usize);
        let ended = after(after(asked, between), deadlines);
        prop_assert!(ended.is_final());
        prop_assert_eq!(ended.reason(), reason.as_ref(), "the first reason stays");
    }

    #[test]
    fn asking_twice_for_the_end_is_asking_once(
        start in starts(),
        events in prop::collection::vec(events(), 0..30),
        first in reasons(),
        second in reasons(),
    ) {
        let once = after(after(start, events), [Event::EndAsked(first)]);
        prop_assert_eq!(decide(&once, Event::EndAsked(second), false), Decision::Stay);
    }

    #[test]
    fn a_sandbox_is_removed_before_it_is_buried(
        start in starts(),
        events in prop::collection::vec(events(), 0..60),
        keeps_files in any::<bool>(),
    ) {
        let mut life = start;
        for event in events {
            if let Decision::Go(next, action) = decide(&life, event, keeps_files) {
                prop_assert_eq!(action == Action::Bury, next.is_final());
                prop_assert_eq!(action == Action::Destroy, matches!(next, Life::Ending { .. }));
                let was_ending = matches!(life, Life::Ending { .. });
                prop_assert!(!next.is_final() || was_ending);
                life = next;
            }
        }
    }

    #[test]
    fn files_that_are_kept_are_removed_only_when_somebody_asks(
        start in starts().prop_filter("was made", |life| {
            *life != Life::Creating && life.reason().is_none()
        }),
        events in prop::collection::vec(events(), 0..60),
    ) {
        let asked = |event: &Event| matches!(event, Event::EndAsked(_));
        let events = events.into_iter().filter(|event| !asked(event));
        let life = lived(start, events, true);
        prop_assert_eq!(life.reason(), None);
    }

    #[test]
    fn processes_are_started_and_ended_one_after_the_other(
        start in starts(),
        events in prop::collection::vec(events(), 0..60),
        keeps_files in any::<bool>(),
    ) {
        let mut life = start;
        for event in events {
            if let Decision::Go(next, action) = decide(&life, event, keeps_files) {
                let started = next.has_process() && !life.has_process();
                let was_on_its_way = matches!(life, Life::Creating | Life::Starting);
                prop_assert!(!started || was_on_its_way, "{life:?} to {next:?}");
                let rests = matches!(next, Life::Stopped);
                let was_safe = matches!(life, Life::Stopping { .. } | Life::Restoring { .. });
                prop_assert!(!rests || was_safe, "{life:?} to {next:?}");
                prop_assert_eq!(action == Action::Halt, matches!(next, Life::Stopping { .. }));
                prop_assert_eq!(action == Action::Start, next == Life::Starting);
                life = next;
            }
        }
    }

    #[test]
    fn a_wish_that_is_taken_leads_somewhere_and_is_answered(
        start in starts(),
        events in prop::collection::vec(events(), 0..20),
        wanted in wants(),
    ) {
        let life = after(start, events);
        match wish(&life, wanted) {
            Wish::Acts(event) => {
                let followed = decide(&life, event, false);
                prop_assert_ne!(followed, Decision::Stay, "{:?} in {:?}", wanted, life);
            }
            Wish::Joins => prop_assert_eq!(met(&life, wanted), None),
            Wish::Met => prop_assert_ne!(met(&life, wanted), Some(false)),
            Wish::Refused(_) => {}
        }
    }

    #[test]
    fn only_what_was_made_runs(events in prop::collection::vec(events(), 0..30)) {
        let made = events.contains(&Event::Made);
        let life = after(Life::Creating, events);
        prop_assert!(made || !life.has_process(), "{:?} without having been made", life);
    }
}

#[test]
fn a_failed_pause_is_undone_and_a_failed_resume_can_be_tried_again() {
    let events = [Event::PauseAsked, Event::FreezeFailed, Event::Thawed];
    assert_eq!(after(Life::Running, events), Life::Running);
    let events = [Event::ResumeAsked, Event::ThawFailed];
    assert_eq!(after(Life::Paused, events), Life::Paused);
    assert_eq!(
        decide(&Life::Paused, Event::ResumeAsked, false),
        Decision::Go(Life::Resuming, Action::Thaw)
    );
}

#[test]
fn attempts_to_remove_wait_longer_each_time_but_not_for_ever() {
    let delays: Vec<_> = (0..=DESTROY_ATTEMPTS + 5).map(destroy_delay).collect();
    assert!(delays.is_sorted());
    assert!(delays[DESTROY_ATTEMPTS as usize - 1] < Duration::from_secs(60));
    assert!(delays.iter().max() < Some(&Duration::from_secs(300)));
}

#[test]
fn lack_of_memory_is_told_apart_from_a_lost_agent() {
    let ended = |out_of_memory| Event::ProcessEnded {
        out_of_memory,
        detail: "killed by signal 9".to_owned(),
    };
    let reason = |event| after(Life::Running, [event]).reason().cloned();
    assert_eq!(reason(ended(true)), Some(EndReason::OutOfMemory));
    assert_eq!(
        reason(ended(false)),
        Some(EndReason::AgentLost("killed by signal 9".to_owned()))
    );
}

#[test]
fn what_ends_by_itself_is_stopped_where_its_files_are_kept() {
    let ended = Event::ProcessEnded {
        out_of_memory: true,
        detail: String::new(),
    };
    let life = lived(Life::Running, [ended, Event::Halted], true);
    assert_eq!(life, Life::Stopped);
    let failed = Event::StartFailed("no".to_owned());
    assert_eq!(
        lived(Life::Stopped, [Event::StartAsked, failed], true),
        Life::stopping(Some("no".to_owned()))
    );
}

#[test]
fn archiving_is_undone_by_a_failure_and_by_a_start() {
    let packed = [Event::ArchiveAsked, Event::Packed];
    assert_eq!(after(Life::Stopped, packed), Life::Archived);
    let failed = [Event::ArchiveAsked, Event::PackFailed, Event::Unpacked];
    assert_eq!(after(Life::Stopped, failed), Life::Stopped);
    let started = [Event::ArchiveAsked, Event::StartAsked, Event::Unpacked];
    assert_eq!(after(Life::Stopped, started), Life::Starting);
    let failed = [Event::StartAsked, Event::UnpackFailed];
    assert_eq!(after(Life::Archived, failed), Life::Archived);
}
