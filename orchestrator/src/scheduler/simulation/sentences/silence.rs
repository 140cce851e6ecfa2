//! Nodes that are not heard of.

use super::*;

#[test]
fn a_silent_node_loses_what_bears_no_silence_and_goes_on_with_what_does() {
    let cluster = Cluster::new().slots(2).node("a").seconds(50.0).job(1..=1);
    let cluster = cluster.node_silence(120).job(2..=2).passes(1.0).node("b");
    let cluster = cluster.fault("a", Fault::Mute(Duration::from_secs(40))).passes(19.0);
    assert!(matches!(cluster.standing("a"), Some(NodeStatus::Silent { .. })));
    assert_eq!(cluster.rendering("a"), [2]);
    assert_eq!(cluster.rendering("b"), [1]);
    let cluster = cluster.passes(30.0);
    assert_eq!(cluster.standing("a"), Some(NodeStatus::Ready));
    let cluster = cluster.assert_finished();
    assert_eq!(cluster.renders(2, 2..=2), [1], "it was never lost");
    assert_eq!(cluster.renders(1, 1..=1), [2]);
}

#[test]
fn a_node_is_lost_once_its_most_patient_job_has_waited_long_enough() {
    let cluster = Cluster::new().node_silence(60).seconds(200.0).node("a").job(1..=1).passes(1.0);
    let cluster = cluster.node("b").fault("a", Fault::Crash(None)).passes(55.0);
    assert!(matches!(cluster.standing("a"), Some(NodeStatus::Silent { .. })));
    assert!(cluster.rendering("b").is_empty());
    let cluster = cluster.passes(8.0);
    assert_eq!(cluster.standing("a"), None);
    assert_eq!(cluster.rendering("b"), [1]);
    assert_eq!(cluster.attempts(1).node_lost, 1);
}

#[test]
fn a_silent_node_that_comes_back_gets_work_again() {
    let cluster = Cluster::new().node_silence(60).seconds(30.0).node("a").job(1..=3).passes(1.0);
    let cluster = cluster.fault("a", Fault::Mute(Duration::from_secs(25)));
    assert_eq!(cluster.assert_finished().renders(1, 1..=3), [1; 3]);
}

#[test]
fn of_a_batch_that_survived_a_restart_only_the_slice_that_is_being_drawn_is_blamed() {
    let mut cluster = Cluster::new().seconds(0.1).node("a").job(1..=200).passes(4.05);
    let held = |cluster: &Cluster| {
        cluster.world.scheduler.as_ref().unwrap().batches.keys().copied().collect::<BTreeSet<_>>()
    };
    let before = held(&cluster);
    while held(&cluster).len() < 2 || held(&cluster).last() == before.last() {
        cluster = cluster.passes(0.01);
    }
    // One is just begun, one has just been sent; back before either is over.
    cluster.world.crash_orchestrator(Duration::from_millis(100));
    let cluster = cluster.passes(0.2).lose("a").node("b").assert_finished();
    let blamed = (1..=200).filter(|frame| cluster.attempts(*frame).node_lost > 0).count();
    assert_eq!(blamed, 1, "and none of those that were sent ahead of time");
}

#[test]
fn a_node_counts_its_lease_from_when_it_asked_however_late_the_answer_is() {
    let mut cluster = Cluster::new();
    cluster.world.answers_late = Duration::from_secs(4);
    let cluster = cluster.seconds(60.0).node("a").node("b").job(1..=1).passes(21.0);
    cluster.fault("a", Fault::Mute(Duration::from_secs(40))).assert_finished();
}

#[test]
fn a_long_silence_has_a_margin_for_clocks_that_run_apart() {
    let mut cluster = Cluster::new().node("a").node("b").node_silence(600).seconds(2_000.0);
    cluster.world.machines[0].rate = 0.985;
    let cluster = cluster.job(1..=1).passes(1.0);
    assert_eq!(cluster.rendering("a"), [1]);
    cluster.fault("a", Fault::Mute(Duration::from_secs(700))).assert_finished();
}
