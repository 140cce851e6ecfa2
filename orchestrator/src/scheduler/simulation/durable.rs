//! What survives the simulated orchestrator.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    domain::{
        Attempts, BatchId, Epoch, FrameCounts, FrameSet, Incarnation, JobId, JobState,
        NodeDescription, NodeName, Requirements, Revision, Slice,
    },
    scheduler::{Action, RestoredBatch, RestoredJob, RestoredNode},
};

#[derive(Default)]
pub(super) struct Durable {
    jobs: BTreeMap<JobId, Job>,
    nodes: BTreeMap<NodeName, (Incarnation, NodeDescription)>,
    batches: BTreeMap<BatchId, (JobId, NodeName, Vec<Slice>)>,
    last_batch: Option<BatchId>,
}

struct Job {
    frames: FrameSet,
    requirements: Requirements,
    priority: i32,
    node_silence: Duration,
    state: JobState,
    counts: FrameCounts,
    revision: Revision,
    settled: BTreeSet<i32>,
    attempts: BTreeMap<Slice, Attempts>,
}

impl Durable {
    pub(super) fn submit(
        &mut self,
        job: JobId,
        frames: FrameSet,
        requirements: Requirements,
        priority: i32,
        node_silence: Duration,
    ) {
        let record = Job {
            counts: FrameCounts { open: frames.count(), ..FrameCounts::default() },
            frames,
            requirements,
            priority,
            node_silence,
            state: JobState::Queued,
            revision: 1,
            settled: BTreeSet::new(),
            attempts: BTreeMap::new(),
        };
        self.jobs.insert(job, record);
    }

    pub(super) fn join(
        &mut self,
        node: &NodeName,
        incarnation: Incarnation,
        description: &NodeDescription,
    ) {
        self.nodes.insert(node.clone(), (incarnation, description.clone()));
    }

    /// The number the next batch will have at least.
    pub(super) fn next_batch(&self, epoch: Epoch) -> BatchId {
        self.last_batch.map_or(BatchId::first(epoch), BatchId::next)
    }

    pub(super) fn commit(&mut self, action: &Action) {
        match action {
            Action::StartBatch { batch, job, node, slices, .. } => {
                self.batches.insert(*batch, (*job, node.clone(), slices.clone()));
                self.last_batch = Some(*batch);
            }
            Action::EndBatch { batch, .. } => {
                self.batches.remove(batch);
            }
            Action::FinishSlice { job, slice, .. } | Action::FailSlice { job, slice, .. } => {
                self.job(*job).settled.insert(slice.frame);
                self.job(*job).attempts.remove(slice);
            }
            Action::ReopenSlice { job, slice, attempts, .. } => {
                self.job(*job).attempts.insert(*slice, attempts.clone());
            }
            Action::RetrySlice { job, slice, attempts, .. } => {
                self.job(*job).settled.remove(&slice.frame);
                self.job(*job).attempts.insert(*slice, attempts.clone());
            }
            Action::UpdateJob { job, state, counts, revision } => {
                let job = self.job(*job);
                (job.state, job.counts, job.revision) = (*state, *counts, *revision);
            }
            Action::NodeGone { node, .. } => {
                self.nodes.remove(node);
            }
            Action::CancelBatch { .. } | Action::NodeChanged { .. } => {}
        }
    }

    fn job(&mut self, job: JobId) -> &mut Job {
        self.jobs.get_mut(&job).unwrap()
    }

    /// A job as it is written.
    pub(super) fn restore_job(&self, id: JobId) -> RestoredJob {
        let job = &self.jobs[&id];
        RestoredJob {
            job: id,
            frames: job.frames.clone(),
            requirements: job.requirements.clone(),
            priority: job.priority,
            node_silence: job.node_silence,
            state: job.state,
            counts: job.counts,
            revision: job.revision,
            settled: job.settled.iter().copied().collect(),
            attempts: job.attempts.iter().map(|(slice, a)| (*slice, a.clone())).collect(),
        }
    }

    pub(super) fn restore(&self) -> (Vec<RestoredJob>, Vec<RestoredNode>, Vec<RestoredBatch>) {
        let open = self.jobs.iter().filter(|(_, job)| !job.state.is_final());
        let jobs = open.map(|(id, _)| self.restore_job(*id));
        let nodes = self.nodes.iter().map(|(node, (incarnation, description))| RestoredNode {
            node: node.clone(),
            incarnation: *incarnation,
            description: description.clone(),
        });
        let settled = |job, slice: &Slice| self.jobs[job].settled.contains(&slice.frame);
        let batches = self.batches.iter().map(|(batch, (job, node, slices))| RestoredBatch {
            batch: *batch,
            job: *job,
            node: node.clone(),
            slices: slices.iter().copied().filter(|slice| !settled(job, slice)).collect(),
        });
        (jobs.collect(), nodes.collect(), batches.collect())
    }
}
