//! Who gets which frames, and when.

use super::*;

#[test]
fn a_lost_node_returns_its_frames_to_the_queue() {
    let cluster = Cluster::new().node("a").node("b").job(1..=10).passes(1.5).lose("a");
    cluster.assert_finished();
}

#[test]
fn a_lost_node_costs_one_render_a_slot() {
    let cluster = Cluster::new().slots(3).node("a").node("b").job(1..=60).passes(5.5).lose("a");
    let again: u32 =
        cluster.assert_finished().renders(1, 1..=60).iter().map(|renders| renders - 1).sum();
    assert_eq!(again, 3);
}

#[test]
fn a_node_that_restarts_has_its_frames_given_out_at_once() {
    let cluster = Cluster::new().node("a").job(1..=4).seconds(1.0).passes(0.5);
    let cluster = cluster.fault("a", Fault::Crash(Some(Duration::from_millis(200))));
    let cluster = cluster.assert_finished();
    assert!(cluster.world.over_at < TTL, "nothing waited for a lease");
}

#[test]
fn a_frame_whose_node_was_lost_goes_before_those_that_nobody_has_begun() {
    let cluster = Cluster::new().node("a").node("b").job(1..=100).seconds(1.0).passes(10.5);
    let lost = cluster.rendering("a")[0];
    let cluster = cluster.fault("a", Fault::Crash(Some(Duration::from_millis(200)))).passes(5.0);
    assert_eq!(cluster.renders(1, lost..=lost), [2], "it was begun again");
    assert_eq!(cluster.renders(1, 100..=100), [0]);
    cluster.assert_finished();
}

#[test]
fn a_node_that_says_goodbye_costs_its_frames_no_attempt() {
    let cluster = Cluster::new().node("a").node("b").job(1..=10).passes(1.5);
    let cluster = cluster.fault("a", Fault::Leave(Duration::from_secs(3600))).assert_finished();
    assert!((1..=10).all(|frame| cluster.attempts(frame).total() == 0));
}

#[test]
fn a_node_that_falls_silent_stops_before_its_work_is_given_away() {
    let cluster = Cluster::new().seconds(60.0).node("a").node("b").job(1..=2).passes(1.0);
    let cluster = cluster.fault("a", Fault::Mute(Duration::from_secs(30))).assert_finished();
    assert!(cluster.world.over_at > Duration::from_secs(60) + TTL);
}

#[test]
fn a_late_node_gets_work_at_once() {
    let cluster = Cluster::new().node("a").job(1..=100).passes(5.0).node("b").passes(0.1);
    assert!(!cluster.rendering("b").is_empty());
}

#[test]
fn a_job_without_nodes_waits_for_the_first() {
    Cluster::new().job(1..=3).passes(100.0).node("a").assert_finished();
}

#[test]
fn the_job_with_the_higher_priority_goes_first_and_the_earlier_among_equals() {
    let cluster = Cluster::new().node("a").job(1..=5).job(11..=15).priority(1).job(21..=25);
    let finished = cluster.assert_finished().history(|action| match action {
        Action::FinishSlice { job, .. } => Some(job.0),
        _ => None,
    });
    // Two batches of one had gone out when the more important job came.
    let order: Vec<u64> = [[1; 2].to_vec(), vec![3; 5], vec![1; 3], vec![2; 5]].concat();
    assert_eq!(finished, order);
}

#[test]
fn batches_are_bounded_while_there_is_plenty_and_shrink_to_one_at_the_end() {
    let cluster = Cluster::new().seconds(0.0).node("a").node("b").job(1..=3_000);
    let sizes = cluster.assert_finished().batches_of("a");
    assert_eq!(sizes.iter().max(), Some(&(BATCH_SLICES_MAX as usize)));
    assert_eq!(sizes.last(), Some(&1));
    // A batch holds a second of work at most.
    let cluster = Cluster::new().seconds(0.1).node("a").job(1..=200);
    let sizes = cluster.assert_finished().batches_of("a");
    assert_eq!(sizes.iter().max(), Some(&10));
}

#[test]
fn a_node_has_its_next_batch_before_it_runs_dry() {
    let cluster = Cluster::new().node("a").job(1..=100).assert_finished();
    let idle = cluster.world.over_at.as_secs_f64() - 100.0;
    assert!(idle < 0.5, "{idle} s idle");
}

#[test]
fn the_last_frames_are_left_for_the_node_that_is_free_first() {
    // When `a` takes the long frame, two short ones wait, and `b` is busy.
    let cluster = Cluster::new().node("a").node("b").job(1..=1).seconds(5.0).job(1..=1);
    let cluster = cluster.seconds(60.0).job(1..=1).seconds(5.0).job(1..=2).passes(20.0);
    assert_eq!(cluster.rendering("a"), [1]);
    assert_eq!(cluster.world.invariants.state(JobId(4)), JobState::Finished);
}

#[test]
fn demand_counts_the_slots_that_could_render_something_by_requirement() {
    let cluster = Cluster::new().slots(2).node("a").seconds(50.0).job(1..=10).passes(1.0);
    let cluster = cluster.requires("4.5", &["gpu"]).job(1..=5).passes(1.0);
    let demand = cluster.world.scheduler.as_ref().unwrap().demand();
    let counts = |demand: &Demand| (demand.slots_wanted, demand.slots_there);
    assert_eq!(demand.iter().map(counts).collect::<Vec<_>>(), [(10, 2), (5, 0)]);
    assert_eq!(demand[1].requirements.tags, ["gpu"]);
    // A node that is silent is none that could render.
    let cluster = cluster.lose("a").passes(60.0);
    let demand = cluster.world.scheduler.as_ref().unwrap().demand();
    assert_eq!(demand.iter().map(counts).collect::<Vec<_>>(), [(10, 0), (5, 0)]);
    let cluster = cluster.node("a").passes(10_000.0);
    let demand = cluster.world.scheduler.as_ref().unwrap().demand();
    assert_eq!(
        demand.iter().map(counts).collect::<Vec<_>>(),
        [(5, 0)],
        "what is over wants nothing"
    );
}
