//! Frames that come from elsewhere, frames that are retried, nodes that leave.

use super::*;

#[test]
fn a_frame_that_a_lost_node_had_finished_is_adopted_and_not_drawn_to_its_end_again() {
    let cluster = Cluster::new().node("a").seconds(12.0).job(1..=1).passes(4.0).node("b");
    let cluster = cluster.fault("a", Fault::Mute(Duration::from_secs(16))).passes(15.5);
    assert_eq!(cluster.rendering("b"), [1]);
    let cluster = cluster.assert_finished();
    assert!(cluster.world.over_at < Duration::from_secs(33), "{:?}", cluster.world.over_at);
    let adopted = cluster.history(|action| match action {
        Action::FinishSlice { node, batch: None, .. } => Some(node.to_string()),
        _ => None,
    });
    assert_eq!(adopted, ["a"]);
    assert!(cluster.rendering("b").is_empty());
}

#[test]
fn a_finished_frame_is_adopted_once_wherever_it_waits() {
    let (mut scheduler, node) = by_hand();
    let now = Duration::ZERO;
    let (batch, job) = started(&scheduler.handle(now, submitted(1))).unwrap();
    let adopt = |scheduler: &mut crate::scheduler::Scheduler, frame| {
        let (slice, node) = (Slice::whole(frame), node.clone());
        let rendered = rendered(slice, 1.0);
        let actions = scheduler.handle(now, Event::FrameAdopted { node, job, slice, rendered });
        scheduler.check_invariants();
        actions
    };
    let finishes = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::FinishSlice { .. })).count()
    };
    // Ahead of the cursor.
    assert_eq!(finishes(&adopt(&mut scheduler, 7)), 1);
    assert_eq!(adopt(&mut scheduler, 7), []);
    // In a live batch, which is left with nothing to do.
    let actions = adopt(&mut scheduler, 1);
    assert_eq!(finishes(&actions), 1);
    assert!(actions.contains(&Action::CancelBatch { batch, node: node.clone() }), "{actions:?}");
    assert!(!scheduler.holds(&node, batch) && scheduler.abandoned(&node, batch) == [batch]);
    // Returned.
    let again = scheduler.handle(now, Event::BatchEnded { batch });
    let (batch, _) = started(&again).unwrap();
    let slice = Slice::whole(2);
    let failure =
        Failure { reason: FailureReason::Renderer, message: String::new(), log_tail: Vec::new() };
    scheduler.handle(now, Event::SliceFailed { batch, slice, failure });
    assert_eq!(finishes(&adopt(&mut scheduler, 2)), 1);
    assert_eq!(adopt(&mut scheduler, 2), []);
    // Not one of the job's.
    assert_eq!(adopt(&mut scheduler, 99), []);
}

// Retry.

#[test]
fn what_failed_of_a_job_that_is_over_is_tried_again_with_a_fresh_budget_and_nothing_else() {
    let cluster = Cluster::new().node("a").job(1..=6).passes(3.5).fails(FailureReason::Permanent);
    let cluster = cluster.passes(2.0).works_again().ends();
    let failed = cluster.world.invariants.frames(JobId(1), FrameState::Failed);
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Failed);
    assert!(!failed.is_empty() && failed.len() < 6, "{failed:?}");
    let before = cluster.renders(1, 1..=6);
    let cluster = cluster.retry(1).assert_finished();
    for (frame, before) in (1..=6).zip(before) {
        let again = u32::from(failed.contains(&frame));
        assert_eq!(cluster.renders(1, frame..=frame), [before + again], "frame {frame}");
        assert_eq!(cluster.attempts(frame).total(), 0);
    }
}

#[test]
fn a_frame_that_is_tried_again_is_not_in_its_old_batch_after_a_restart() {
    let cluster = Cluster::new().seconds(0.1).node("a").job(1..=200).passes(4.0);
    let cluster = cluster.fails(FailureReason::Permanent).passes(0.25).works_again().passes(0.1);
    let failed = cluster.world.invariants.frames(JobId(1), FrameState::Failed);
    assert!(!failed.is_empty());
    let cluster = cluster.retry(1).restart().assert_finished();
    assert!(failed.iter().all(|frame| cluster.renders(1, *frame..=*frame) == [2]));
}

#[test]
fn what_failed_of_an_open_job_is_tried_again_with_a_fresh_budget() {
    let cluster = Cluster::new().node("a").job(1..=40).passes(1.5).fails(FailureReason::Permanent);
    let cluster = cluster.passes(2.2).works_again().passes(1.5);
    let failed = cluster.world.invariants.frames(JobId(1), FrameState::Failed);
    assert!(!failed.is_empty());
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Rendering);
    let cluster = cluster.retry(1).assert_finished();
    assert!(failed.iter().all(|frame| cluster.attempts(*frame).total() == 0));
}

// Leaving.

#[test]
fn a_draining_node_finishes_what_it_has_begun_and_hands_the_rest_to_others_at_once() {
    let cluster = Cluster::new().seconds(20.0).node("a").node("b").job(1..=30).passes(1.0);
    let cluster = cluster.fault("a", Fault::Drain).passes(5.5);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Draining));
    assert_eq!(cluster.rendering("a").len(), 1);
    let sent = cluster.batches_of("a").len();
    let cluster = cluster.passes(17.0);
    assert_eq!(cluster.batches_of("a").len(), sent);
    let cluster = cluster.assert_finished();
    assert_eq!(cluster.renders(1, 1..=30), [1; 30]);
}
