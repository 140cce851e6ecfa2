//! The scheduler alone, an event at a time.

use super::*;

#[test]
fn frames_in_order_go_to_one_node_and_continue_where_it_was_lost() {
    let (mut scheduler, first) = by_hand();
    let description = NodeDescription {
        slots: 2,
        blenders: vec![Blender {
            version: None,
            kind: BlenderKind::Synthetic,
            ..Blender::default()
        }],
        ..NodeDescription::default()
    };
    let second: crate::domain::NodeName = "b".into();
    let (node, incarnation) = (second.clone(), Incarnation(2));
    let event = Event::NodeRegistered { node, incarnation, description };
    scheduler.handle(Duration::ZERO, event);
    let Event::JobSubmitted { job, requirements, priority, node_silence, .. } = submitted(1) else {
        panic!("it is a submission")
    };
    // More than a batch holds, so that the frames that come back lie before others.
    let most = i32::try_from(BATCH_SLICES_MAX).unwrap();
    let frames = frames(1..=most + 88).in_order();
    let event = Event::JobSubmitted { job, frames, requirements, priority, node_silence };
    let sent = |actions: &[Action]| -> Vec<_> {
        let started = actions.iter().filter_map(|action| match action {
            Action::StartBatch { batch, node, slices, .. } => {
                let frames: Vec<_> = slices.iter().map(|slice| slice.frame).collect();
                Some((*batch, node.clone(), frames))
            }
            _ => None,
        });
        started.collect()
    };
    let all = sent(&scheduler.handle(Duration::ZERO, event));
    let [(batch, node, numbers)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(*numbers, (1..=most).collect::<Vec<_>>(), "as many as may be, rising");
    let (batch, node) = (*batch, node.clone());
    let other = if node == first { second } else { first };
    for frame in 1..=4 {
        let slice = Slice::whole(frame);
        scheduler.handle(Duration::ZERO, Event::SliceStarted { batch, slice });
        let rendered = rendered(slice, 1.0);
        let actions =
            scheduler.handle(Duration::ZERO, Event::SliceFinished { batch, slice, rendered });
        assert_eq!(sent(&actions), [], "nothing while it is at work");
        scheduler.check_invariants();
    }
    let event =
        Event::NodeLeft { node: node.clone(), incarnation: scheduler.incarnation(&node).unwrap() };
    let all = sent(&scheduler.handle(Duration::ZERO, event));
    let [(_, node, numbers)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(*node, other);
    assert_eq!(*numbers, (5..=most + 4).collect::<Vec<_>>(), "from where it was lost");
    scheduler.check_invariants();
}

#[test]
fn a_job_that_nodes_cannot_even_begin_yields_to_the_next() {
    let (mut scheduler, _) = by_hand();
    let mut now = Duration::ZERO;
    let (mut batch, _) = started(&scheduler.handle(now, submitted(1))).unwrap();
    scheduler.handle(now, submitted(2));
    let mut refusals = 0;
    loop {
        scheduler.handle(now, Event::BatchRefused { batch });
        scheduler.check_invariants();
        refusals += 1;
        now = scheduler.next_deadline().unwrap();
        let (next, job) = started(&scheduler.handle(now, Event::TimePassed)).unwrap();
        if job == JobId(2) {
            break;
        }
        batch = next;
        assert!(refusals < 10, "job 2 never gets its turn");
    }
}

#[test]
fn a_node_that_has_lost_a_batch_is_dead_and_gets_nothing_before_it_registers_again() {
    let (mut scheduler, node) = by_hand();
    let now = Duration::ZERO;
    let (batch, _) = started(&scheduler.handle(now, submitted(1))).unwrap();
    scheduler.handle(now, Event::SliceStarted { batch, slice: Slice::whole(1) });
    let actions = scheduler.handle(now, Event::BatchLost { batch });
    scheduler.check_invariants();
    let is_blame = |action: &Action| matches!(action, Action::ReopenSlice { failure: Some(_), .. });
    assert!(actions.iter().any(is_blame), "what it had begun may have been its death");
    assert!(started(&actions).is_none(), "{actions:?}");
    assert!(!scheduler.is_listened_to(&node, Incarnation(1)));
    let description = NodeDescription {
        slots: 1,
        blenders: vec![Blender {
            version: None,
            kind: BlenderKind::Synthetic,
            ..Blender::default()
        }],
        ..NodeDescription::default()
    };
    let (node, incarnation) = (node, Incarnation(2));
    let actions = scheduler.handle(now, Event::NodeRegistered { node, incarnation, description });
    assert!(started(&actions).is_some(), "{actions:?}");
}

#[test]
fn silence_while_the_orchestrator_stood_still_proves_nothing() {
    let (mut scheduler, node) = by_hand();
    let late = TTL * 3;
    scheduler.handle(late, Event::Stalled);
    scheduler.handle(late, Event::TimePassed);
    assert!(scheduler.load(&node).is_some(), "its heartbeats wait to be read");
    scheduler.handle(late + TTL, Event::TimePassed);
    assert!(scheduler.load(&node).is_none(), "silence after it counts as ever");
    scheduler.check_invariants();
}
