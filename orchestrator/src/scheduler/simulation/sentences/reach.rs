//! Nodes that are heard of and cannot be called.

use super::*;

#[test]
fn what_is_out_of_reach_on_a_node_that_is_heard_of_goes_to_others_after_a_minute() {
    let minutes = Duration::from_secs(600);
    let cluster = Cluster::new().node("a").seconds(100.0).job(1..=1).passes(1.0).node("b");
    let cluster = cluster.fault("a", Fault::Unreachable(minutes)).passes(30.5);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Unreachable));
    let cluster = cluster.passes(10.0);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Ready), "it has registered again");
    assert_eq!(cluster.rendering("a"), [1]);
    let cluster = cluster.passes(35.0);
    assert_eq!(cluster.rendering("a"), [0; 0]);
    assert_eq!(cluster.rendering("b"), [1]);
    assert_eq!(cluster.attempts(1).total(), 0, "the frame is not to blame");
    cluster.assert_finished();
}

#[test]
fn a_job_that_bears_more_silence_lets_its_frame_be_drawn_to_the_end_out_of_reach() {
    let cluster = Cluster::new().node_silence(300).seconds(100.0).node("a").job(1..=1).passes(1.0);
    let cluster = cluster.node("b").fault("a", Fault::Unreachable(Duration::from_secs(150)));
    assert_eq!(cluster.assert_finished().renders(1, 1..=1), [1]);
}

#[test]
fn who_cannot_be_reached_gets_nothing_before_it_has_registered_again() {
    let cluster = Cluster::new().slots(2).node("a").seconds(100.0).job(1..=1).passes(1.0);
    let cluster = cluster.fault("a", Fault::Unreachable(Duration::from_secs(31))).passes(30.5);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Unreachable));
    let cluster = cluster.job(2..=2).passes(0.1);
    assert_eq!(cluster.rendering("a"), [1]);
    assert_eq!(cluster.passes(10.0).rendering("a"), [1, 2]);
}

#[test]
fn what_is_out_of_reach_is_given_away_only_when_its_node_will_never_render_it() {
    let mut cluster = Cluster::new().node("a").seconds(100.0).job(1..=1).passes(1.0);
    let mut started = cluster.world.history.iter();
    let batch = started.find_map(|action| match action {
        Action::StartBatch { batch, .. } => Some(*batch),
        _ => None,
    });
    let batch = batch.unwrap();
    let minute = Duration::from_secs(60);
    cluster.world.decide(Event::BatchUnreachable { batch, lasts: minute });
    let scheduler = cluster.world.scheduler.as_ref().unwrap();
    assert!(!scheduler.holds("a", batch), "the node is to end it");
    assert!(scheduler.abandoned("a", batch).is_empty(), "it may be on its way");
    assert_eq!(scheduler.abandoned("a", batch.next()), [batch]);
}
