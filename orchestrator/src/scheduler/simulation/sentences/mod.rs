//! What the scheduler does, a sentence at a time, in simulated clusters where only what is said goes wrong.

mod blame;
mod by_hand;
mod hand_in;
mod jobs;
mod quarantine;
mod queue;
mod reach;
mod restart;
mod silence;

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use super::{Fault, Happening, LEASE, Plan, TTL, World, frames, rendered};
use crate::{
    domain::{
        Attempts, BatchId, Blender, BlenderKind, Epoch, Failure, FailureReason, FrameState,
        Incarnation, JobId, JobState, NodeDescription, NodeName, Requirements, Slice,
    },
    scheduler::{Action, BATCH_SLICES_MAX, Demand, Event, NodeStatus, Scheduler},
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

    fn standing(&self, name: &str) -> Option<NodeStatus> {
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

/// A scheduler alone, with one node.
fn by_hand() -> (Scheduler, NodeName) {
    let mut scheduler = Scheduler::new(Epoch(1), TTL);
    let description = NodeDescription {
        slots: 1,
        blenders: vec![Blender {
            version: None,
            kind: BlenderKind::Synthetic,
            ..Blender::default()
        }],
        ..NodeDescription::default()
    };
    let node: NodeName = "a".into();
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

fn started(actions: &[Action]) -> Option<(BatchId, JobId)> {
    actions.iter().find_map(|action| match action {
        Action::StartBatch { batch, job, .. } => Some((*batch, *job)),
        _ => None,
    })
}
