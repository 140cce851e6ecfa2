//! What the scheduler does, a sentence at a time, in simulated clusters where only what is said goes wrong.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use super::{Fault, Happening, LEASE, Plan, TTL, World, frames, rendered};
use crate::{
    domain::{
        Attempts, Blender, BlenderKind, Failure, FailureReason, FrameState, Incarnation, JobId,
        JobState, NodeDescription, Requirements, Slice,
    },
    scheduler::{Action, BATCH_SLICES_MAX, Event, Standing},
};

/// A cluster told in sentences. Frames take a second each unless it is said otherwise.
struct Cluster {
    world: World,
    slots: u32,
    seconds: f64,
    priority: i32,
    node_silence: Duration,
    poison: BTreeSet<i32>,
    poison_is_swift: bool,
    broken: bool,
    requirements: Requirements,
}

impl Cluster {
    fn new() -> Self {
        let requirements = Requirements::of_file("3.4".parse().unwrap());
        Self {
            world: World::new(1),
            slots: 1,
            seconds: 1.0,
            priority: 0,
            node_silence: Duration::ZERO,
            poison: BTreeSet::new(),
            poison_is_swift: false,
            broken: false,
            requirements,
        }
    }

    fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    fn seconds(mut self, seconds: f64) -> Self {
        self.seconds = seconds;
        self
    }

    fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    fn poison(mut self, frame: i32) -> Self {
        self.poison.insert(frame);
        self
    }

    fn requires(mut self, blender: &str, tags: &[&str]) -> Self {
        self.requirements.blender = Some(blender.parse().unwrap());
        self.requirements.tags = tags.iter().map(ToString::to_string).collect();
        self
    }

    fn node(self, name: &str) -> Self {
        self.node_with(name, "4.5.15", &[])
    }

    fn node_with(mut self, name: &str, version: &str, tags: &[&str]) -> Self {
        let version = Some(version.parse().unwrap());
        let description = NodeDescription {
            slots: self.slots,
            blenders: vec![Blender {
                version,
                kind: BlenderKind::Executable,
                ..Blender::default()
            }],
            tags: tags.iter().map(ToString::to_string).collect(),
            ..NodeDescription::default()
        };
        self.world.add_machine(name, description);
        self.passes(0.1)
    }

    fn job(mut self, range: RangeInclusive<i32>) -> Self {
        self.world.submit(Plan {
            frames: frames(range),
            requirements: self.requirements.clone(),
            priority: self.priority,
            node_silence: self.node_silence,
            seconds: self.seconds,
            spread: 0.0,
            poison: self.poison.clone(),
            poison_is_swift: self.poison_is_swift,
            broken: self.broken,
        });
        self
    }

    fn passes(mut self, seconds: f64) -> Self {
        let until = self.world.now + Duration::from_secs_f64(seconds);
        self.world.plan_at(until, Happening::Wake);
        self.world.run_until("that moment", |world| world.now >= until);
        self
    }

    /// Jobs from here on bear so much silence.
    fn node_silence(mut self, seconds: u64) -> Self {
        self.node_silence = Duration::from_secs(seconds);
        self
    }

    /// Jobs from here on fail wherever they are rendered.
    fn broken(mut self, broken: bool) -> Self {
        self.broken = broken;
        self
    }

    fn retry(mut self, job: usize) -> Self {
        self.world.retry(job - 1);
        self
    }

    fn standing(&self, name: &str) -> Option<Standing> {
        Some(self.world.scheduler.as_ref()?.load(name)?.standing)
    }

    fn fault(mut self, name: &str, fault: Fault) -> Self {
        let machine = self.world.by_name[name];
        self.world.fault(machine, fault);
        self
    }

    /// Its process is killed, and nobody starts it again.
    fn lose(self, name: &str) -> Self {
        self.fault(name, Fault::Crash(None))
    }

    fn cancel(mut self, job: u64) -> Self {
        self.world.decide(Event::JobCancelled { job: JobId(job) });
        self
    }

    fn revise(mut self, job: u64) -> Self {
        self.world.decide(Event::JobRevised { job: JobId(job) });
        self
    }

    fn restart(mut self) -> Self {
        self.world.crash_orchestrator(Duration::from_secs(1));
        self.passes(1.1)
    }

    fn fails(mut self, reason: FailureReason) -> Self {
        self.world.always_fails = Some(reason);
        self
    }

    fn works_again(mut self) -> Self {
        self.world.always_fails = None;
        self
    }

    fn ends(mut self) -> Self {
        self.world.run_until_all_over();
        self
    }

    // What came of it.

    fn rendering(&self, name: &str) -> Vec<i32> {
        let machine = &self.world.machines[self.world.by_name[name]];
        machine.rendering().iter().map(|slice| slice.frame).collect()
    }

    #[track_caller]
    fn assert_finished(self) -> Self {
        let this = self.ends();
        for job in this.world.plans.keys() {
            assert_eq!(this.world.invariants.state(*job), JobState::Finished, "job {job}");
        }
        this
    }

    /// What happened, as far as a test wants to know of it.
    fn history<T>(&self, tell: impl Fn(&Action) -> Option<T>) -> Vec<T> {
        self.world.history.iter().filter_map(tell).collect()
    }

    fn nodes_that_failed(&self, frame: i32) -> Vec<String> {
        self.history(|action| match action {
            Action::ReopenSlice { slice, node, failure: Some(_), .. }
            | Action::FailSlice { slice, node, .. }
                if slice.frame == frame =>
            {
                Some(node.to_string())
            }
            _ => None,
        })
    }

    fn batches_of(&self, name: &str) -> Vec<usize> {
        self.history(|action| match action {
            Action::StartBatch { node, slices, .. } if &**node == name => Some(slices.len()),
            _ => None,
        })
    }

    fn attempts(&self, frame: i32) -> Attempts {
        let of = |action: &Action| match action {
            Action::FinishSlice { slice, attempts, .. }
            | Action::ReopenSlice { slice, attempts, .. }
            | Action::FailSlice { slice, attempts, .. }
                if slice.frame == frame =>
            {
                Some(attempts.clone())
            }
            _ => None,
        };
        self.history(of).pop().unwrap_or_default()
    }

    fn renders(&self, job: u64, range: RangeInclusive<i32>) -> Vec<u32> {
        let renders = |frame| self.world.invariants.renders(JobId(job), Slice::whole(frame));
        range.map(renders).collect()
    }
}

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

#[test]
fn requirements_are_respected() {
    let cluster = Cluster::new()
        .node_with("old", "3.4.1", &["gpu"])
        .node_with("plain", "4.5.15", &[])
        .node_with("right", "4.5.15", &["big", "gpu"])
        .requires("4.5", &["gpu"])
        .job(1..=5)
        .assert_finished();
    assert!(cluster.batches_of("old").is_empty() && cluster.batches_of("plain").is_empty());
}

#[test]
fn a_job_that_no_node_can_render_does_not_hold_up_the_next() {
    let cluster = Cluster::new().node("a").priority(9).requires("9.9", &[]).job(1..=5);
    let mut cluster = cluster.passes(1.0);
    cluster.requirements.blender = None;
    let cluster = cluster.job(1..=5).passes(10.0);
    assert_eq!(cluster.world.invariants.state(JobId(2)), JobState::Finished);
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Queued);
}

#[test]
fn a_cancelled_job_commits_nothing_more_and_frees_its_nodes() {
    let cluster = Cluster::new().node("a").node("b").job(1..=100).passes(3.5).cancel(1);
    let finished = cluster.world.invariants.frames(JobId(1), FrameState::Finished);
    let cluster = cluster.passes(0.1);
    assert!(cluster.rendering("a").is_empty() && cluster.rendering("b").is_empty());
    let cluster = cluster.ends();
    assert_eq!(cluster.world.invariants.frames(JobId(1), FrameState::Finished), finished);
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Cancelled);
}

#[test]
fn what_is_noted_of_a_job_takes_a_revision_and_starts_nothing() {
    let revisions = |cluster: &Cluster| {
        cluster.history(|action| match action {
            Action::UpdateJob { revision, .. } => Some(*revision),
            _ => None,
        })
    };
    let cluster = Cluster::new().node("a").job(1..=2).passes(0.5);
    let before = cluster.world.history.len();
    let cluster = cluster.revise(1);
    assert_eq!(cluster.world.history.len(), before + 1);
    let noted = revisions(&cluster).pop().unwrap();
    assert_eq!(
        revisions(&cluster),
        [2, noted],
        "giving the first frame away was the change before"
    );
    // The frames' own revisions come after it, also in another life.
    let cluster = cluster.restart().assert_finished();
    assert_eq!(revisions(&cluster).pop(), Some(noted + 2));
    // A job that is over has its last revision.
    let before = cluster.world.history.len();
    assert_eq!(cluster.revise(1).world.history.len(), before);
}

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

/// A scheduler with one node, driven by hand, and what a hand needs.
fn by_hand() -> (crate::scheduler::Scheduler, crate::domain::NodeName) {
    let mut scheduler = crate::scheduler::Scheduler::new(crate::domain::Epoch(1), TTL);
    let description = NodeDescription {
        slots: 1,
        blenders: vec![Blender {
            version: None,
            kind: BlenderKind::Synthetic,
            ..Blender::default()
        }],
        ..NodeDescription::default()
    };
    let node: crate::domain::NodeName = "a".into();
    let (incarnation, registered) = (Incarnation(1), node.clone());
    let event = Event::NodeRegistered { node: registered, incarnation, description };
    scheduler.handle(Duration::ZERO, event);
    (scheduler, node)
}

fn submitted(job: u64) -> Event {
    let requirements = Requirements::of_file("3.4".parse().unwrap());
    Event::JobSubmitted {
        job: JobId(job),
        frames: frames(1..=9),
        requirements,
        priority: 0,
        node_silence: Duration::ZERO,
    }
}

fn started(actions: &[Action]) -> Option<(crate::domain::BatchId, JobId)> {
    actions.iter().find_map(|action| match action {
        Action::StartBatch { batch, job, .. } => Some((*batch, *job)),
        _ => None,
    })
}

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

// Silence.

#[test]
fn a_silent_node_loses_what_bears_no_silence_and_goes_on_with_what_does() {
    let cluster = Cluster::new().slots(2).node("a").seconds(50.0).job(1..=1);
    let cluster = cluster.node_silence(120).job(2..=2).passes(1.0).node("b");
    let cluster = cluster.fault("a", Fault::Mute(Duration::from_secs(40))).passes(19.0);
    assert!(matches!(cluster.standing("a"), Some(Standing::Silent { .. })));
    assert_eq!(cluster.rendering("a"), [2]);
    assert_eq!(cluster.rendering("b"), [1]);
    let cluster = cluster.passes(30.0);
    assert_eq!(cluster.standing("a"), Some(Standing::Ready));
    let cluster = cluster.assert_finished();
    assert_eq!(cluster.renders(2, 2..=2), [1], "it was never lost");
    assert_eq!(cluster.renders(1, 1..=1), [2]);
}

#[test]
fn a_node_is_lost_once_its_most_patient_job_has_waited_long_enough() {
    let cluster = Cluster::new().node_silence(60).seconds(200.0).node("a").job(1..=1).passes(1.0);
    let cluster = cluster.node("b").fault("a", Fault::Crash(None)).passes(55.0);
    assert!(matches!(cluster.standing("a"), Some(Standing::Silent { .. })));
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

// Quarantine.

#[test]
fn a_node_on_which_everything_fails_is_quarantined_longer_each_time_while_others_finish() {
    let cluster = Cluster::new().node("a").node("b").seconds(4.0).job(1..=200);
    let cluster = cluster.fault("a", Fault::Break(FailureReason::Renderer)).passes(60.0);
    assert!(matches!(cluster.standing("a"), Some(Standing::Quarantined { .. })));
    let cluster = cluster.passes(540.0);
    // Three tries and one more that was on its way; then one after 10, 20, 40, 80, 160 and 300 seconds.
    let tries = cluster.batches_of("a").len();
    assert!((8..=10).contains(&tries), "{tries} batches");
    let cluster = cluster.fault("a", Fault::Mend).assert_finished();
    assert_eq!(cluster.standing("a"), Some(Standing::Ready), "one that finishes sets it free");
    assert!(cluster.batches_of("a").len() > tries + 5);
}

#[test]
fn a_job_that_fails_everywhere_has_its_verdict_at_once_and_no_node_is_blamed() {
    let cluster = Cluster::new().node("a").node("b").broken(true).job(1..=30).passes(1.0);
    let cluster = cluster.ends();
    assert_eq!(cluster.world.invariants.state(JobId(1)), JobState::Failed);
    assert!(cluster.world.over_at < Duration::from_secs(60), "{:?}", cluster.world.over_at);
    assert_eq!(cluster.standing("a"), Some(Standing::Ready));
    assert_eq!(cluster.standing("b"), Some(Standing::Ready));
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
        assert!(matches!(cluster.standing("a"), Some(Standing::Quarantined { .. })), "{away:?}");
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
    assert_eq!(cluster.standing("a"), Some(Standing::Ready));
}

#[test]
fn a_node_in_doubt_is_first_given_another_job_so_that_a_bad_one_does_not_hold_it_back() {
    let cluster = Cluster::new().node("a").node("b");
    // The other node has its hands full.
    let cluster = cluster.priority(2).seconds(3600.0).job(1..=1).passes(0.5);
    let idle = if cluster.rendering("a").is_empty() { "a" } else { "b" };
    let cluster = cluster.priority(1).seconds(1.0).broken(true).job(101..=200).passes(0.1);
    let mut cluster = cluster.broken(false).priority(0).job(301..=304).passes(5.0);
    assert!(matches!(cluster.standing(idle), Some(Standing::Quarantined { .. })));
    cluster = cluster.passes(60.0);
    assert_eq!(cluster.renders(3, 301..=304).iter().sum::<u32>(), 4);
}

#[test]
fn a_node_in_quarantine_is_free_again_once_nobody_else_is_to_be_reckoned_with() {
    let cluster = Cluster::new().node("a").node("b").seconds(2.0).job(1..=400);
    let cluster = cluster.fault("a", Fault::Break(FailureReason::Renderer)).passes(8.0);
    let cluster = cluster.fault("b", Fault::Leave(Duration::from_secs(7200))).passes(240.0);
    assert!(!matches!(cluster.standing("a"), Some(Standing::Ready)));
    let cluster = cluster.passes(360.0);
    assert_eq!(cluster.standing("a"), Some(Standing::Ready));
    cluster.fault("a", Fault::Mend).ends();
}

#[test]
fn an_orchestrator_evicts_a_node_that_never_ends_what_it_was_told_to_end() {
    let cluster = Cluster::new().slots(2).node("a").seconds(500.0).job(1..=1).job(2..=2);
    let cluster = cluster.passes(1.0).node("b").fault("a", Fault::Stubborn).cancel(1);
    let cluster = cluster.passes(50.0);
    assert_eq!(cluster.rendering("a"), [1, 2]);
    assert_eq!(cluster.standing("a"), Some(Standing::Ready));
    let cluster = cluster.passes(11.0);
    assert!(matches!(cluster.standing("a"), Some(Standing::Evicted { .. })));
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
    assert!(matches!(cluster.standing("a"), Some(Standing::Evicted { .. })));
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
    assert_eq!(cluster.standing("a"), Some(Standing::Ready));
}

// Out of reach.

#[test]
fn what_is_out_of_reach_on_a_node_that_is_heard_of_goes_to_others_after_a_minute() {
    let minutes = Duration::from_secs(600);
    let cluster = Cluster::new().node("a").seconds(100.0).job(1..=1).passes(1.0).node("b");
    let cluster = cluster.fault("a", Fault::Unreachable(minutes)).passes(30.5);
    assert_eq!(cluster.standing("a"), Some(Standing::Unreachable));
    let cluster = cluster.passes(10.0);
    assert_eq!(cluster.standing("a"), Some(Standing::Ready), "it has registered again");
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
    assert_eq!(cluster.standing("a"), Some(Standing::Unreachable));
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

// Adoption.

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
    assert_eq!(cluster.standing("a"), Some(Standing::Draining));
    assert_eq!(cluster.rendering("a").len(), 1);
    let sent = cluster.batches_of("a").len();
    let cluster = cluster.passes(17.0);
    assert_eq!(cluster.batches_of("a").len(), sent);
    let cluster = cluster.assert_finished();
    assert_eq!(cluster.renders(1, 1..=30), [1; 30]);
}
