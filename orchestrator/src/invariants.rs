//! The invariants, by number, checked on the history of what became visible: the scheduler's actions as they were
//! committed, and what nodes really rendered. Every ring of tests passes its history to this one checker, which panics
//! at the first record that breaks an invariant. Tests of other crates get it with the feature `history`.

#![allow(clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    domain::{
        Attempts, BatchId, Failure, FailureReason, FrameCounts, FrameSet, FrameState, Incarnation,
        JobId, JobState, NodeName, Revision, Slice,
    },
    scheduler::{Action, BATCH_SLICES_MAX},
};

/// The state after everything that became visible so far.
#[derive(Debug, Default)]
pub struct Invariants {
    jobs: BTreeMap<JobId, Job>,
    nodes: BTreeMap<NodeName, Node>,
    batches: BTreeMap<BatchId, Batch>,
    last_batch: Option<BatchId>,
    /// Nodes that are losing their batches and may have crashed on one of their slices.
    suspected: BTreeSet<NodeName>,
    rendering: HashMap<(JobId, Slice), BatchId>,
    renders: HashMap<(JobId, Slice), u32>,
    /// Whether events may arrive late or overtake each other. Then more slices than a node has slots may count as begun,
    /// and its loss counts against all of them.
    pub disorder: bool,
    /// Whether nodes may crash silently: the end of one slice may be lost with its node although the start of the next, in
    /// the stream of the slot's other batch, arrived. Then each slot may lose two.
    pub dies_untold: bool,
}

#[derive(Debug)]
struct Job {
    frames: BTreeMap<i32, Frame>,
    /// Whether each frame depends on those before it.
    in_order: bool,
    /// The counts of `frames`, kept up to date because a job may have very many.
    tally: FrameCounts,
    state: JobState,
    revision: Revision,
}

impl Job {
    /// Settles a frame or opens it again.
    fn set(&mut self, number: i32, state: FrameState, attempts: &Attempts) {
        let frame = self.frames.get_mut(&number).expect("I3: only frames asked for");
        *count(&mut self.tally, frame.state) -= 1;
        *count(&mut self.tally, state) += 1;
        frame.attempts = attempts.clone();
        frame.state = state;
    }

    /// Cancels the open frames.
    fn cancel(&mut self) {
        for frame in self.frames.values_mut().filter(|frame| frame.state == FrameState::Open) {
            frame.state = FrameState::Cancelled;
        }
        self.tally.cancelled += std::mem::take(&mut self.tally.open);
    }
}

#[derive(Debug)]
struct Frame {
    state: FrameState,
    attempts: Attempts,
}

#[derive(Debug)]
struct Node {
    incarnation: Incarnation,
    slots: u32,
    /// Losses of frames that count against this incarnation.
    lost: u32,
}

#[derive(Debug)]
struct Batch {
    job: JobId,
    node: NodeName,
    open: BTreeSet<Slice>,
    /// Whether the orchestrator restarted since. Then it is unknown which slices the node had begun.
    survived_restart: bool,
    /// Whether its node may have crashed on one of its slices.
    has_suspect: bool,
}

impl Invariants {
    /// Records that a submission was acknowledged.
    pub fn submitted(&mut self, job: JobId, frames: &FrameSet) {
        let open = || Frame { state: FrameState::Open, attempts: Attempts::default() };
        let in_order = frames.is_in_order();
        let frames: BTreeMap<_, _> = frames.iter().map(|frame| (frame, open())).collect();
        let tally = FrameCounts { open: frames.len() as u64, ..FrameCounts::default() };
        let job_record = Job { frames, in_order, tally, state: JobState::Queued, revision: 1 };
        assert!(self.jobs.insert(job, job_record).is_none(), "I4: job {job} was made twice");
    }

    /// Records that a registration was acknowledged.
    pub fn joined(&mut self, name: &NodeName, incarnation: Incarnation, slots: u32) {
        if let Some(known) = self.nodes.get(name) {
            assert_eq!(known.incarnation, incarnation, "I5: node {name} was not let go first");
            // The node was silent and is back.
            if let Some(node) = self.nodes.get_mut(name) {
                node.lost = 0;
            }
        } else {
            self.nodes.insert(name.clone(), Node { incarnation, slots, lost: 0 });
        }
    }

    /// Records that the orchestrator restarted from its store.
    pub fn restarted(&mut self) {
        for batch in self.batches.values_mut() {
            batch.survived_restart = true;
        }
    }

    /// Records a durable decision of the scheduler.
    #[track_caller]
    pub fn acted(&mut self, action: &Action) {
        // A node that goes loses all its batches first.
        if !matches!(
            action,
            Action::ReopenSlice { .. }
                | Action::FailSlice { .. }
                | Action::EndBatch { .. }
                | Action::NodeGone { .. }
        ) {
            self.suspected.clear();
        }
        match action {
            Action::StartBatch { batch, job, node, incarnation, slices } => {
                self.batch_started(*batch, *job, node, *incarnation, slices);
            }
            Action::EndBatch { batch, .. } => {
                assert!(self.batches.remove(batch).is_some(), "I5: batch {batch} ended twice");
            }
            Action::CancelBatch { batch, node } => {
                let known = self.batches.get(batch).expect("I5: only a live batch is cancelled");
                assert_eq!(known.node, *node, "I5: batch {batch} is cancelled where it is");
            }
            Action::FinishSlice { job, slice, node, batch, attempts, rendered, revision } => {
                assert!(!rendered.outputs.is_empty(), "I2: a finished slice has an output");
                match batch {
                    Some(batch) => self.finish_in_batch(*batch, *job, *slice, node),
                    None => self.adopt(*job, *slice),
                }
                self.change(*job, *slice, FrameState::Finished, attempts, None, *revision);
            }
            Action::ReopenSlice { job, slice, node, attempts, failure, revision } => {
                let before = &self.jobs[job].frames[&slice.frame].attempts;
                let suspected = attempts.suspicions > before.suspicions;
                self.leave_batch(*job, *slice, node, failure.as_ref(), suspected);
                self.change(*job, *slice, FrameState::Open, attempts, failure.as_ref(), *revision);
            }
            Action::RetrySlice { job, slice, attempts, revision } => {
                self.retry(*job, *slice, attempts, *revision);
            }
            Action::FailSlice { job, slice, node, attempts, failure, revision } => {
                self.leave_batch(*job, *slice, node, Some(failure), false);
                self.change(*job, *slice, FrameState::Failed, attempts, Some(failure), *revision);
            }
            Action::UpdateJob { job, state, counts, revision } => {
                self.job_updated(*job, *state, *counts, *revision);
            }
            Action::NodeChanged { .. } => {}
            Action::NodeGone { node, said_goodbye } => {
                let gone = self.nodes.remove(node);
                let gone = gone.unwrap_or_else(|| panic!("I5: node {node} went twice"));
                assert!(
                    !(*said_goodbye && self.suspected.contains(node)),
                    "I14: node {node} ended well, and a slice is suspected to have killed it"
                );
                assert!(
                    gone.lost <= gone.slots * (1 + u32::from(self.dies_untold)) || self.disorder,
                    "I22: {} slices were lost with the {} slots of {node}",
                    gone.lost,
                    gone.slots
                );
                assert!(
                    self.batches.values().all(|batch| batch.node != *node),
                    "I20: a node that is gone has no batch"
                );
            }
        }
    }

    fn batch_started(
        &mut self,
        id: BatchId,
        job_id: JobId,
        node: &NodeName,
        incarnation: Incarnation,
        slices: &[Slice],
    ) {
        assert!(self.last_batch < Some(id), "I6: batch {id} after {:?}", self.last_batch);
        self.last_batch = Some(id);
        let known = self.nodes.get(node).expect("I5: a batch goes to a node that is there");
        assert_eq!(known.incarnation, incarnation, "I5: a batch goes to the node's present life");
        let job = &self.jobs[&job_id];
        assert!(!job.state.is_final(), "I11: job {job_id} is over and gets a batch");
        assert!((1..=BATCH_SLICES_MAX).contains(&(slices.len() as u64)), "I19: a batch is bounded");
        if job.in_order {
            self.check_order(job_id, slices);
        }
        let mut alone = false;
        for slice in slices {
            let frame = &job.frames[&slice.frame];
            assert_eq!(
                frame.state,
                FrameState::Open,
                "I1: {slice:?} is settled, and rendered again"
            );
            let held = self.batches.iter().find(|(_, b)| b.job == job_id && b.open.contains(slice));
            assert!(held.is_none(), "I7: {slice:?} is also in batch {held:?}");
            alone |= is_suspect(&frame.attempts);
        }
        let others = || self.batches.values().filter(|batch| batch.node == *node);
        // A job that is over has no open frame: its renders are being killed.
        let suspects = |batch: &Batch| {
            batch.open.iter().any(|slice| {
                let frame = &self.jobs[&batch.job].frames[&slice.frame];
                frame.state == FrameState::Open && is_suspect(&frame.attempts)
            })
        };
        assert!(!others().any(suspects), "I14: node {node} holds a suspect, and gets more");
        if alone {
            assert!(slices.len() == 1 && others().count() == 0, "I13: a suspect is alone");
        }
        let open: BTreeSet<Slice> = slices.iter().copied().collect();
        assert_eq!(open.len(), slices.len(), "I7: a batch names a slice once");
        let batch = Batch {
            job: job_id,
            node: node.clone(),
            open,
            survived_restart: false,
            has_suspect: false,
        };
        self.batches.insert(id, batch);
    }

    /// Frames that depend on earlier ones are assigned to one node, in ascending order, and none is passed over.
    fn check_order(&self, id: JobId, slices: &[Slice]) {
        let other = self.batches.iter().find(|(_, batch)| batch.job == id);
        assert!(other.is_none(), "I23: job {id} is drawn in order, and twice at once: {other:?}");
        let frames = &self.jobs[&id].frames;
        let last = slices.iter().map(|slice| slice.frame).max().unwrap_or_default();
        let open = frames.range(..=last).filter(|(_, frame)| frame.state == FrameState::Open);
        assert!(
            open.map(|(number, _)| Slice::whole(*number)).eq(slices.iter().copied()),
            "I23: {slices:?} of job {id} do not rise, or pass over an open frame"
        );
    }

    /// A batch finishes only slices that it holds. A batch that has ended changes nothing.
    #[track_caller]
    fn finish_in_batch(&mut self, id: BatchId, job: JobId, slice: Slice, node: &NodeName) {
        let batch = self.batches.get_mut(&id);
        let batch = batch
            .unwrap_or_else(|| panic!("I5: {slice:?} was finished in batch {id}, which is over"));
        assert_eq!((batch.job, &batch.node), (job, node), "I5: batch {id} is where it is");
        assert!(
            batch.open.remove(&slice),
            "I5: {slice:?} was finished in batch {id}, which has lost it"
        );
    }

    /// An adopted slice leaves every batch that holds it.
    fn adopt(&mut self, job: JobId, slice: Slice) {
        for batch in self.batches.values_mut().filter(|batch| batch.job == job) {
            batch.open.remove(&slice);
        }
    }

    /// The one way out of a final state: a failed slice is open again, and so is its job.
    #[track_caller]
    fn retry(&mut self, id: JobId, slice: Slice, attempts: &Attempts, revision: Revision) {
        let job = self.jobs.get_mut(&id).expect("I4: jobs are durable before their frames");
        assert!(
            !matches!(job.state, JobState::Cancelled | JobState::Finished),
            "I8: job {id} is over, and {slice:?} of it is tried again"
        );
        assert!(revision > job.revision, "I9: every change has a revision of its own");
        job.revision = revision;
        job.state = JobState::Rendering;
        let frame = job.frames.get(&slice.frame).expect("I3: only frames asked for");
        assert_eq!(frame.state, FrameState::Failed, "I8: only what failed is tried again");
        assert_eq!(attempts.total() + attempts.suspicions, 0, "I13: {slice:?} begins anew");
        assert!(attempts.failed_on.is_empty(), "I13: {slice:?} begins anew");
        let latest = attempts.latest_batch;
        assert!(latest >= frame.attempts.latest_batch, "I6: {slice:?} has left {latest:?} before");
        let held = self.batches.iter().find(|(_, b)| b.job == id && b.open.contains(&slice));
        assert!(held.is_none(), "I7: {slice:?} failed, and is in batch {held:?}");
        job.set(slice.frame, FrameState::Open, attempts);
    }

    /// A slice changes only by the batch that holds it.
    #[track_caller]
    fn leave_batch(
        &mut self,
        job: JobId,
        slice: Slice,
        name: &NodeName,
        failure: Option<&Failure>,
        suspected: bool,
    ) {
        let mut of_node =
            self.batches.values_mut().filter(|batch| batch.job == job && batch.node == *name);
        let Some(batch) = of_node.find(|batch| batch.open.contains(&slice)) else {
            panic!("I5: {slice:?} of job {job} changed, and no live batch on {name} holds it");
        };
        batch.open.remove(&slice);
        assert!(!(suspected && batch.has_suspect), "I14: a batch is drawn one slice at a time");
        batch.has_suspect |= suspected;
        let survived = batch.survived_restart;
        if suspected {
            self.suspected.insert(name.clone());
        }
        let lost = failure.is_some_and(|failure| failure.reason == FailureReason::NodeLost);
        if let (true, false, Some(node)) = (lost, survived, self.nodes.get_mut(name)) {
            node.lost += 1;
        }
    }

    #[track_caller]
    fn change(
        &mut self,
        job_id: JobId,
        slice: Slice,
        state: FrameState,
        attempts: &Attempts,
        failure: Option<&Failure>,
        revision: Revision,
    ) {
        let job = self.jobs.get_mut(&job_id).expect("I4: jobs are durable before their frames");
        assert!(!job.state.is_final(), "I11: {slice:?} of job {job_id} changed after its end");
        assert!(revision > job.revision, "I9: every change has a revision of its own");
        job.revision = revision;
        let frame = job.frames.get(&slice.frame).expect("I3: only frames asked for");
        assert_eq!(frame.state, FrameState::Open, "I1: {slice:?} is settled once");
        let tries = |attempts: &Attempts| {
            let Attempts { renderer, node_lost, out_of_memory, infrastructure, suspicions, .. } =
                *attempts;
            [renderer, node_lost, out_of_memory, infrastructure, suspicions]
        };
        let mut expected = tries(&frame.attempts);
        if let Some(failure) = failure {
            // A silent loss counts once no other frame can have caused it.
            if failure.reason == FailureReason::NodeLost && is_suspect(&frame.attempts) {
                expected[1] += std::mem::take(&mut expected[4]);
            }
            let (class, most) = match failure.reason {
                FailureReason::Permanent => (0, 1),
                FailureReason::NodeLost => (1, 3),
                FailureReason::OutOfMemory => (2, 2),
                FailureReason::Infrastructure => (3, u32::MAX),
                _ => (0, 3),
            };
            expected[class] += 1;
            let over = expected[class] >= most;
            assert_eq!(
                over,
                state == FrameState::Failed,
                "I13: {:?} with {attempts:?}",
                failure.reason
            );
        } else if state == FrameState::Open {
            // The node crashed, and it is unknown whether it had begun the slice.
            expected[4] += u32::from(attempts.suspicions > expected[4]);
        }
        assert_eq!(tries(attempts), expected, "I6: attempts rise one by one, in their own budget");
        job.set(slice.frame, state, attempts);
    }

    fn job_updated(&mut self, id: JobId, state: JobState, counts: FrameCounts, revision: Revision) {
        let job = self.jobs.get_mut(&id).expect("I4: a job is durable before it changes");
        assert!(!job.state.is_final(), "I8: job {id} was over, and changed");
        assert!(revision >= job.revision, "I9: revisions of job {id} rise");
        job.revision = revision;
        if state == JobState::Cancelled {
            job.cancel();
        }
        let tally = job.tally;
        assert_eq!(counts, tally, "I3: frames of job {id} are counted");
        match state {
            JobState::Queued => assert_eq!(job.state, JobState::Queued, "I8: job {id} went back"),
            JobState::Rendering => assert!(tally.open > 0, "I8: job {id} renders nothing"),
            JobState::Finished => assert_eq!(
                tally.finished,
                job.frames.len() as u64,
                "I3: a finished job has every frame"
            ),
            JobState::Failed => {
                assert!(tally.failed > 0 && tally.open == 0, "I8: job {id} did not fail");
            }
            JobState::Cancelled => {}
        }
        job.state = state;
    }

    /// Records that a node's renderer began a slice.
    #[track_caller]
    pub fn render_began(&mut self, job: JobId, slice: Slice, batch: BatchId) {
        let other = self.rendering.insert((job, slice), batch);
        assert_eq!(other, None, "I7: {slice:?} of job {job} is rendered twice at once, in {batch}");
        *self.renders.entry((job, slice)).or_default() += 1;
    }

    /// Records that a node's renderer finished or crashed.
    pub fn render_ended(&mut self, job: JobId, slice: Slice) {
        self.rendering.remove(&(job, slice));
    }

    /// How often a slice has begun.
    pub fn renders(&self, job: JobId, slice: Slice) -> u32 {
        self.renders.get(&(job, slice)).copied().unwrap_or_default()
    }

    /// The state of a job.
    pub fn state(&self, job: JobId) -> JobState {
        self.jobs[&job].state
    }

    /// The job's frames in a state; empty for an unknown job.
    pub fn frames(&self, job: JobId, state: FrameState) -> Vec<i32> {
        let frames = self.jobs.get(&job).into_iter().flat_map(|job| &job.frames);
        frames.filter(|(_, frame)| frame.state == state).map(|(number, _)| *number).collect()
    }

    /// Whether every job is over.
    pub fn all_over(&self) -> bool {
        self.jobs.values().all(|job| job.state.is_final())
    }

    /// Asserts what must hold after faults have ended and enough time has passed.
    pub fn assert_all_over(&self) {
        let open: Vec<_> =
            self.jobs.iter().filter(|(_, job)| !job.state.is_final()).map(|(id, _)| id).collect();
        assert!(open.is_empty(), "I20: jobs {open:?} do not end");
        assert!(self.batches.is_empty(), "I20: batches never end: {:?}", self.batches);
        assert!(self.rendering.is_empty(), "I15: renders outlive their jobs: {:?}", self.rendering);
    }
}

fn count(counts: &mut FrameCounts, state: FrameState) -> &mut u64 {
    match state {
        FrameState::Open => &mut counts.open,
        FrameState::Finished => &mut counts.finished,
        FrameState::Failed => &mut counts.failed,
        FrameState::Cancelled => &mut counts.cancelled,
    }
}

fn is_suspect(attempts: &Attempts) -> bool {
    attempts.node_lost + attempts.suspicions >= 2 || attempts.out_of_memory >= 1
}
