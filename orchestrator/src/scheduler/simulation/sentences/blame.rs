//! What a lost node, a failed frame and a refused batch cost, and whom.

use super::*;

#[test]
fn a_poisonous_frame_costs_three_nodes_and_fails_no_other() {
    let cluster =
        Cluster::new().slots(3).node("a").node("b").node("c").poison(7).job(1..=30).ends();
    assert_eq!(cluster.world.invariants.frames(JobId(1), FrameState::Failed), [7]);
    assert_eq!(cluster.attempts(7).node_lost, 3);
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Failed);
}

#[test]
fn a_frame_that_kills_its_node_before_a_word_costs_three_nodes_and_no_other_frame_is_blamed() {
    for slots in [1, 3] {
        let mut cluster = Cluster::new().slots(slots).node("a").node("b").poison(7);
        cluster.poison_is_swift = true;
        let cluster = cluster.job(1..=30).ends();
        assert_eq!(cluster.world.invariants.frames(JobId(1), FrameState::Failed), [7]);
        assert_eq!(cluster.attempts(7).node_lost, 3);
        assert_eq!(cluster.renders(1, 7..=7), [3], "with {slots} slots");
        let innocent = (1..=30).filter(|frame| *frame != 7);
        assert!(slots > 1 || innocent.map(|it| cluster.attempts(it).node_lost).sum::<u32>() < 3);
    }
}

#[test]
fn it_costs_three_nodes_though_the_orchestrator_is_killed_after_each_of_them() {
    let mut cluster = Cluster::new().node("a").node("b").poison(7);
    cluster.poison_is_swift = true;
    let mut cluster = cluster.job(1..=30);
    for deaths in 1..=2 {
        let held_against = |attempts: Attempts| attempts.suspicions + attempts.node_lost;
        while held_against(cluster.attempts(7)) < deaths {
            cluster = cluster.passes(0.1);
        }
        cluster = cluster.restart();
    }
    let cluster = cluster.ends();
    assert_eq!(cluster.world.invariants.frames(JobId(1), FrameState::Failed), [7]);
    assert_eq!(cluster.renders(1, 7..=7), [3]);
}

#[test]
fn a_frame_that_waits_on_two_nodes_that_die_is_drawn_alone_and_not_blamed() {
    let cluster = Cluster::new().node("a").job(1..=9).passes(0.5);
    let cluster = cluster.fault("a", Fault::Crash(Some(Duration::from_millis(50)))).passes(0.5);
    let cluster = cluster.fault("a", Fault::Crash(Some(Duration::from_millis(50))));
    let cluster = cluster.assert_finished();
    let blamed = (1..=9).map(|frame| cluster.attempts(frame).node_lost).sum::<u32>();
    assert_eq!(blamed, 2, "what was being drawn, each time");
}

#[test]
fn a_node_that_leaves_in_good_order_leaves_nobody_suspected() {
    let cluster = Cluster::new().node("a").job(1..=9).passes(0.5);
    let cluster = cluster.fault("a", Fault::Leave(Duration::from_secs(1))).assert_finished();
    assert!((1..=9).all(|frame| cluster.attempts(frame) == Attempts::default()));
}

#[test]
fn a_node_that_dies_over_and_over_fails_no_frame_of_a_farm_that_is_well() {
    let mut cluster = Cluster::new().node("a").node("b").node("c").seconds(20.0).job(1..=20);
    cluster.world.odds.dies_untold = 1.0;
    while !cluster.world.invariants.all_over() {
        cluster = cluster.passes(0.001);
        if !cluster.rendering("c").is_empty() {
            cluster = cluster.fault("c", Fault::Crash(Some(Duration::from_secs(2))));
        }
    }
    cluster.assert_finished();
}

#[test]
fn what_must_be_alone_gets_its_node_though_less_important_work_would_fill_it() {
    let cluster = Cluster::new().slots(3).node("a").job(101..=160).priority(1).poison(1).job(1..=1);
    let cluster = cluster.ends();
    let last_of =
        |job: u64| {
            cluster.world.history.iter().rposition(
                |action| matches!(action, Action::UpdateJob { job: of, .. } if of.0 == job),
            )
        };
    assert!(last_of(2) < last_of(1));
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Finished);
}

#[test]
fn only_one_node_runs_empty_for_a_frame_that_must_be_alone() {
    let nodes = ["a", "b", "c"];
    let cluster = nodes.iter().fold(Cluster::new().slots(2), |cluster, node| cluster.node(node));
    let cluster = cluster.priority(1).seconds(20.0).fails(FailureReason::OutOfMemory).job(1..=1);
    let cluster = cluster.passes(0.1).works_again();
    // The slots of a node are free in turns.
    let cluster = cluster.priority(0).seconds(10.0).job(101..=103).passes(5.0);
    let mut cluster = cluster.job(201..=290).passes(16.0);
    assert_eq!(cluster.attempts(1).out_of_memory, 1);
    let mut ran_empty = BTreeSet::<&str>::new();
    for _ in 0..60 {
        cluster = cluster.passes(0.5);
        if cluster.renders(1, 1..=1) == [2] {
            break;
        }
        let has_room = nodes.iter().filter(|node| cluster.rendering(node).len() < 2);
        ran_empty.extend(has_room);
    }
    assert_eq!(ran_empty.len(), 1, "{ran_empty:?}");
    cluster.assert_finished();
}

#[test]
fn three_failures_of_the_renderer_give_a_frame_up_on_distinct_nodes_first() {
    let cluster = Cluster::new().node("a").node("b").node("c").node("d");
    let cluster = cluster.fails(FailureReason::Renderer).job(1..=1).ends();
    let nodes = cluster.nodes_that_failed(1);
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), 3, "{nodes:?}");
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Failed);
}

#[test]
fn the_only_node_gets_all_three_tries() {
    let cluster = Cluster::new().node("a").fails(FailureReason::Timeout).job(1..=1).ends();
    assert_eq!(cluster.nodes_that_failed(1), ["a", "a", "a"]);
}

#[test]
fn a_frame_out_of_memory_is_tried_once_more_and_alone() {
    let cluster = Cluster::new().slots(2).node("a").fails(FailureReason::OutOfMemory);
    let cluster = cluster.job(1..=1).job(2..=2).ends();
    assert_eq!(cluster.attempts(1).out_of_memory, 2);
    assert_eq!(cluster.attempts(2).out_of_memory, 2);
}

#[test]
fn a_permanent_failure_is_not_tried_again() {
    let cluster = Cluster::new().node("a").node("b").fails(FailureReason::Permanent);
    assert_eq!(cluster.job(1..=1).ends().nodes_that_failed(1).len(), 1);
}

#[test]
fn trouble_around_the_renderer_pauses_the_node_longer_each_time_and_costs_the_frame_nothing() {
    let cluster = Cluster::new().seconds(0.001).node("a").fails(FailureReason::Infrastructure);
    let cluster = cluster.job(1..=1).passes(30.0);
    // Pauses of 1, 2, 4, 8 and 16 seconds.
    assert_eq!(cluster.nodes_that_failed(1).len(), 5);
    cluster.works_again().assert_finished();
}

#[test]
fn a_node_that_refuses_does_not_keep_others_waiting_and_is_not_asked_all_the_time() {
    let mut cluster = Cluster::new().node("a").job(1..=5);
    cluster.world.odds.refused = 1.0;
    let mut cluster = cluster.passes(30.0);
    assert!(cluster.batches_of("a").len() < 12, "{:?}", cluster.batches_of("a"));
    cluster.world.odds.refused = 0.0;
    cluster.node("b").passes(0.1).assert_finished();
}
