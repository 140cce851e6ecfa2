//! Nodes on which everything fails, and nodes that do not obey.

use super::*;

#[test]
fn a_node_on_which_everything_fails_is_quarantined_longer_each_time_while_others_finish() {
    let cluster = Cluster::new().node("a").node("b").seconds(4.0).job(1..=200);
    let cluster = cluster.fault("a", Fault::Break(FailureReason::Renderer)).passes(60.0);
    assert!(matches!(cluster.standing("a"), Some(NodeStatus::Quarantined { .. })));
    let cluster = cluster.passes(540.0);
    // Three tries and one more that was on its way; then one after 10, 20, 40, 80, 160 and 300 seconds.
    let tries = cluster.batches_of("a").len();
    assert!((8..=10).contains(&tries), "{tries} batches");
    let cluster = cluster.fault("a", Fault::Mend).assert_finished();
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Ready), "one that finishes sets it free");
    assert!(cluster.batches_of("a").len() > tries + 5);
}

#[test]
fn a_job_that_fails_everywhere_has_its_verdict_at_once_and_no_node_is_blamed() {
    let cluster = Cluster::new().node("a").node("b").broken(true).job(1..=30).passes(1.0);
    let cluster = cluster.ends();
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Failed);
    assert!(cluster.world.over_at < Duration::from_secs(60), "{:?}", cluster.world.over_at);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Ready));
    assert_eq!(cluster.standing("b"), Some(NodeStatus::Ready));
    let cluster = cluster.broken(false).job(1..=4).passes(0.5);
    assert!(!cluster.rendering("a").is_empty() && !cluster.rendering("b").is_empty());
}

#[test]
fn a_quarantined_node_does_not_use_up_the_tries_of_frames_while_the_only_good_one_is_away() {
    let hour = Duration::from_secs(3600);
    for away in [
        Fault::Break(FailureReason::Infrastructure),
        Fault::Drain,
        Fault::Crash(Some(Duration::from_secs(20))),
        Fault::Mute(Duration::from_secs(20)),
        Fault::Leave(hour),
        Fault::Crash(None),
    ] {
        let cluster = Cluster::new().node("a").node("b").seconds(2.0).job(1..=60);
        let cluster = cluster.fault("a", Fault::Break(FailureReason::Renderer)).passes(8.0);
        assert!(matches!(cluster.standing("a"), Some(NodeStatus::Quarantined { .. })), "{away:?}");
        let before = cluster.batches_of("a").len();
        let cluster = cluster.fault("b", away).passes(60.0);
        let tries = cluster.batches_of("a").len() - before;
        // One after 10 seconds and one after 20 more.
        assert!((1..=2).contains(&tries), "{tries} batches while b: {away:?}");
        let cluster = cluster.fault("b", Fault::Boot).fault("b", Fault::Mend).node("c");
        cluster.assert_finished();
    }
}

#[test]
fn the_only_node_is_never_in_quarantine_and_a_job_that_fails_on_it_has_its_verdict_at_once() {
    let cluster = Cluster::new().node("a");
    // It does not wait for its own former life.
    let cluster = cluster.fault("a", Fault::Crash(Some(Duration::from_secs(1)))).passes(5.0);
    let cluster = cluster.broken(true).job(1..=30).ends();
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Failed);
    assert!(cluster.world.over_at < Duration::from_secs(120), "{:?}", cluster.world.over_at);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Ready));
}

#[test]
fn a_node_in_doubt_is_first_given_another_job_so_that_a_bad_one_does_not_hold_it_back() {
    let cluster = Cluster::new().node("a").node("b");
    // The other node has its hands full.
    let cluster = cluster.priority(2).seconds(3600.0).job(1..=1).passes(0.5);
    let idle = if cluster.rendering("a").is_empty() { "a" } else { "b" };
    let cluster = cluster.priority(1).seconds(1.0).broken(true).job(101..=200).passes(0.1);
    let mut cluster = cluster.broken(false).priority(0).job(301..=304).passes(5.0);
    assert!(matches!(cluster.standing(idle), Some(NodeStatus::Quarantined { .. })));
    cluster = cluster.passes(60.0);
    assert_eq!(cluster.renders(3, 301..=304).iter().sum::<u32>(), 4);
}

#[test]
fn a_node_in_quarantine_is_free_again_once_nobody_else_is_to_be_reckoned_with() {
    let cluster = Cluster::new().node("a").node("b").seconds(2.0).job(1..=400);
    let cluster = cluster.fault("a", Fault::Break(FailureReason::Renderer)).passes(8.0);
    let cluster = cluster.fault("b", Fault::Leave(Duration::from_secs(7200))).passes(240.0);
    assert!(!matches!(cluster.standing("a"), Some(NodeStatus::Ready)));
    let cluster = cluster.passes(360.0);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Ready));
    cluster.fault("a", Fault::Mend).ends();
}

#[test]
fn an_orchestrator_evicts_a_node_that_never_ends_what_it_was_told_to_end() {
    let cluster = Cluster::new().slots(2).node("a").seconds(500.0).job(1..=1).job(2..=2);
    let cluster = cluster.passes(1.0).node("b").fault("a", Fault::Stubborn).cancel(1);
    let cluster = cluster.passes(50.0);
    assert_eq!(cluster.rendering("a"), [1, 2]);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Ready));
    let cluster = cluster.passes(11.0);
    assert!(matches!(cluster.standing("a"), Some(NodeStatus::Evicted { .. })));
    assert!(cluster.rendering("b").is_empty(), "nothing is given away before it is certain");
    let cluster = cluster.passes(LEASE.as_secs_f64());
    assert_eq!(cluster.rendering("b"), [2]);
    assert_eq!(cluster.attempts(2).total(), 0, "the frame is not to blame");
    let cluster = cluster.fault("a", Fault::Mend).job(3..=3).passes(10.0);
    assert!(cluster.standing("a").is_some(), "it may come back");
}

#[test]
fn the_end_of_a_node_that_was_evicted_is_no_frames_doing() {
    let cluster = Cluster::new().slots(2).node("a").seconds(500.0).job(1..=1).job(2..=2);
    let cluster = cluster.passes(1.0).fault("a", Fault::Stubborn).cancel(1).passes(61.0);
    assert!(matches!(cluster.standing("a"), Some(NodeStatus::Evicted { .. })));
    let cluster = cluster.fault("a", Fault::Crash(Some(Duration::from_secs(1)))).passes(5.0);
    assert_eq!(cluster.rendering("a"), [2]);
    let attempts = cluster.attempts(2);
    assert_eq!(attempts.total() + attempts.suspicions, 0);
}

#[test]
fn who_does_not_have_what_it_is_told_to_end_is_not_in_trouble() {
    let mut cluster = Cluster::new().node("a").seconds(50.0).job(1..=1).passes(1.0).cancel(1);
    let batch = cluster.world.history.iter().find_map(|action| match action {
        Action::StartBatch { batch, .. } => Some(*batch),
        _ => None,
    });
    cluster.world.decide(Event::BatchRefused { batch: batch.unwrap() });
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Ready));
}
