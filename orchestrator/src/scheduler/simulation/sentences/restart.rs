//! An orchestrator that starts again, and events that come late or twice.

use super::*;

#[test]
fn a_restart_attaches_and_renders_no_frame_twice() {
    let cluster = Cluster::new().slots(2).node("a").node("b").job(1..=40).passes(4.5).restart();
    let cluster = cluster.passes(3.0).restart().assert_finished();
    assert_eq!(cluster.renders(1, 1..=40), [1; 40]);
}

#[test]
fn a_frame_that_failed_before_a_restart_is_in_one_place_after_it() {
    // Fast frames in large batches: some fail while the rest of their batch is still rendering.
    let mut cluster = Cluster::new().seconds(0.1).node("a").node("b").job(1..=200).passes(3.0);
    cluster.world.odds.failed = 0.2;
    let mut cluster = cluster.passes(3.0).restart();
    cluster.world.odds.failed = 0.0;
    cluster.ends();
}

#[test]
fn what_was_written_but_not_sent_before_a_crash_is_rendered_after_it() {
    let mut cluster = Cluster::new().node("a");
    cluster.world.crash_after_commit = Some(Duration::from_secs(1));
    cluster.job(1..=3).assert_finished();
}

#[test]
fn a_stale_batch_or_incarnation_changes_nothing_but_the_counter() {
    let mut cluster = Cluster::new().node("a").job(1..=10).seconds(5.0).passes(0.5);
    let name = cluster.world.machines[0].name.clone();
    let batch = cluster.history(|action| match action {
        Action::StartBatch { batch, .. } => Some(*batch),
        _ => None,
    })[0];
    let mut cluster = {
        cluster.world.fault(0, Fault::Crash(Some(Duration::from_millis(10))));
        cluster.passes(0.5)
    };
    let scheduler = cluster.world.scheduler.as_mut().unwrap();
    let ignored = scheduler.ignored_events();
    let books = |text: String| text.split("ignored_events").next().map(String::from);
    let before = books(format!("{scheduler:?}"));
    let slice = Slice::whole(1);
    let failure =
        Failure { reason: FailureReason::Renderer, message: String::new(), log_tail: Vec::new() };
    let description = NodeDescription { slots: 1, ..NodeDescription::default() };
    let (node, incarnation) = (name, Incarnation(1));
    let stale = [
        Event::SliceStarted { batch, slice },
        Event::SliceFinished { batch, slice, rendered: rendered(slice, 1.0) },
        Event::SliceFailed { batch, slice, failure },
        Event::BatchEnded { batch },
        Event::BatchRefused { batch },
        Event::BatchLost { batch },
        Event::LeaseRenewed { node: node.clone(), incarnation },
        Event::NodeLeft { node: node.clone(), incarnation },
        Event::NodeRegistered { node, incarnation, description },
    ];
    for (nth, event) in stale.into_iter().enumerate() {
        assert_eq!(scheduler.handle(Duration::from_secs(1), event.clone()), [], "{event:?}");
        assert_eq!(scheduler.ignored_events(), ignored + nth as u64 + 1, "{event:?}");
        assert_eq!(books(format!("{scheduler:?}")), before, "{event:?}");
    }
}

#[test]
fn a_repeated_event_counts_once() {
    let mut cluster = Cluster::new().node("a").job(1..=50);
    cluster.world.odds.event_again = 1.0;
    let cluster = cluster.assert_finished();
    assert_eq!(cluster.renders(1, 1..=50), [1; 50]);
}

/// No bar yet: a figure to watch. The lower bound is that no node ever waits and no frame is cut.
#[test]
fn the_makespan_of_a_heavy_tailed_job_is_near_its_lower_bound() {
    for nodes in [3, 10] {
        let names: Vec<String> = (0..nodes).map(|number| format!("node-{number:02}")).collect();
        let mut cluster = names.iter().fold(Cluster::new(), |cluster, name| cluster.node(name));
        let begun = cluster.world.now;
        cluster.world.submit(Plan {
            frames: frames(1..=100 * nodes),
            requirements: cluster.requirements.clone(),
            priority: 0,
            node_silence: Duration::ZERO,
            seconds: 1.0,
            spread: 0.8,
            poison: BTreeSet::new(),
            poison_is_swift: false,
            broken: false,
        });
        let cluster = cluster.assert_finished();
        let seconds = (1..=100 * nodes)
            .map(|frame| cluster.world.seconds(JobId(1), Slice::whole(frame)))
            .collect::<Vec<_>>();
        let longest = seconds.iter().copied().fold(0.0, f64::max);
        let bound = (seconds.iter().sum::<f64>() / f64::from(nodes)).max(longest);
        let makespan = (cluster.world.over_at - begun).as_secs_f64();
        println!("{nodes} nodes: {makespan:.1} s, {:.3} of the bound", makespan / bound);
        assert!(makespan >= bound);
    }
}
