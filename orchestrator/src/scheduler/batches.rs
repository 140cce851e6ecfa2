//! Batches end, are lost, and tell what became of their slices.

use std::collections::{BTreeMap, BTreeSet};

use super::{AWAITED_FOR, Action, Batch, Job, Loss, Scheduler, job::Verdict};
use crate::domain::{
    BatchId, Failure, FailureReason, JobId, NodeDescription, NodeName, Rendered, Slice, Time,
};

impl Scheduler {
    /// Takes a batch out of the books, and gives what was still open in it to `each`.
    fn close_batch(
        &mut self,
        batch_id: BatchId,
        actions: &mut Vec<Action>,
    ) -> Option<(JobId, NodeName, BTreeMap<Slice, bool>)> {
        let Batch { job, node: name, open, .. } = self.batches.remove(&batch_id)?;
        if let Some(node) = self.nodes.get_mut(&name) {
            node.batches.remove(&batch_id);
            node.cancels.remove(&batch_id);
            node.alone = false;
            node.unsettled -= open.len();
            actions.push(Action::NodeChanged { node: name.clone() });
        }
        if let Some(job) = self.jobs.get_mut(&job) {
            job.batches.remove(&batch_id);
        }
        self.watch(&name);
        Some((job, name, open))
    }

    /// The node is through with a batch: what it has not settled is handed back without blame.
    pub(super) fn end_batch(
        &mut self,
        batch: BatchId,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let Some((job_id, node, open)) = self.close_batch(batch, actions) else {
            return self.ignore();
        };
        let mut looked_at = BTreeSet::from([node.clone()]);
        if !open.is_empty() {
            looked_at.extend(self.with_capacity.iter().cloned());
            for (slice, begun) in open {
                self.hand_back(job_id, slice, begun, &node, actions);
            }
            self.update_job(job_id, actions);
        }
        actions.push(Action::EndBatch { batch, node: node.clone() });
        let waits = |job: &Job| job.is_in_order() && job.waiting() > 0;
        if self.jobs.get(&job_id).is_some_and(waits) {
            // First the node whose Blender can continue, then any node with room.
            self.assign(BTreeSet::from([node]), actions);
            looked_at.extend(self.with_capacity.iter().cloned());
        }
        looked_at
    }

    /// The node is gone, or silent for too long: slices it had begun may have been its death, and count. So may
    /// the next in the batch have been, if the node died before it could tell: it is suspected. Suspected often
    /// enough it is drawn alone, and if its node dies then too, nothing else can have been the death of it.
    pub(super) fn lose_batch(&mut self, batch: BatchId, loss: Loss, actions: &mut Vec<Action>) {
        let order = self.batches.get_mut(&batch).map(|batch| std::mem::take(&mut batch.order));
        let Some((job_id, node, mut open)) = self.close_batch(batch, actions) else { return };
        let mut next = loss == Loss::Died;
        for slice in order.into_iter().flatten() {
            let Some(begun) = open.remove(&slice) else { continue };
            let alone = self.jobs.get(&job_id).is_some_and(|job| job.must_be_alone(slice));
            if loss == Loss::Died && (begun || alone) {
                let failure = Failure {
                    reason: FailureReason::NodeLost,
                    message: format!("node {node} was lost while it rendered the frame"),
                    log_tail: Vec::new(),
                };
                self.settle_failure(job_id, batch, slice, &node, failure, actions);
                continue;
            }
            let suspected = std::mem::take(&mut next);
            if suspected && let Some(job) = self.jobs.get_mut(&job_id) {
                job.suspect(slice, &node);
            }
            self.hand_back(job_id, slice, begun || suspected, &node, actions);
        }
        self.update_job(job_id, actions);
        actions.push(Action::EndBatch { batch, node });
    }

    /// The node's process died, and the one that took its place is not registered yet: until then it gets
    /// nothing, or what never reached it would be thought to be its next death.
    pub(super) fn miss_batch(
        &mut self,
        id: BatchId,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let Some(batch) = self.batches.get(&id) else { return self.ignore() };
        let (name, cancelled) = (batch.node.clone(), batch.cancelled);
        let Some(node) = self.nodes.get_mut(&name) else { return self.ignore() };
        node.silent = true;
        // Whoever was told to end it may have done so, and is none the worse.
        let loss = if cancelled { Loss::Evicted } else { node.end() };
        self.with_capacity.remove(&name);
        self.lose_batch(id, loss, actions);
        self.with_capacity.clone()
    }

    /// Takes a slice out of a live batch that holds it open.
    fn close_slice(&mut self, batch: BatchId, slice: Slice) -> Option<(JobId, NodeName)> {
        let batch = self.batches.get_mut(&batch)?;
        batch.open.remove(&slice)?;
        let node = batch.node.clone();
        self.nodes.get_mut(&node)?.unsettled -= 1;
        Some((batch.job, node))
    }

    pub(super) fn finish(
        &mut self,
        batch: BatchId,
        slice: Slice,
        rendered: Rendered,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let Some((job, node)) = self.close_slice(batch, slice) else { return self.ignore() };
        self.settle_success(job, slice, node, Some(batch), rendered, actions)
    }

    /// Takes a finished slice from where it waits or is being rendered again.
    pub(super) fn adopt(
        &mut self,
        now: Time,
        name: NodeName,
        job_id: JobId,
        slice: Slice,
        rendered: Rendered,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let Some(job) = self.jobs.get_mut(&job_id) else { return self.ignore() };
        let holds = |id: &&BatchId| {
            self.batches.get(id).is_some_and(|batch| batch.open.contains_key(&slice))
        };
        let holder = job.batches.iter().find(holds).copied();
        match holder {
            Some(batch) => {
                let Some((_, other)) = self.close_slice(batch, slice) else { return self.ignore() };
                actions.push(Action::NodeChanged { node: other });
            }
            None => {
                if !job.remove_waiting(slice) {
                    return self.ignore();
                }
            }
        }
        let mut looked_at = self.settle_success(job_id, slice, name, None, rendered, actions);
        // Nodes may have run empty for the slice, if it had to be alone.
        looked_at.extend(self.with_capacity.iter().cloned());
        if let Some(batch) = holder
            && self.batches.get(&batch).is_some_and(|batch| batch.open.is_empty())
        {
            self.cancel_batch(now, batch, actions);
        }
        looked_at
    }

    fn settle_success(
        &mut self,
        job_id: JobId,
        slice: Slice,
        name: NodeName,
        batch: Option<BatchId>,
        rendered: Rendered,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let mut looked_at = BTreeSet::from([name.clone()]);
        if let Some(node) = self.nodes.get_mut(&name) {
            node.finished += 1;
            // What it did in a former time says nothing about how it does now.
            if batch.is_some() {
                if node.trust.is_limited() {
                    looked_at.extend(self.with_capacity.iter().cloned());
                }
                node.did_well();
            }
        }
        self.watch(&name);
        if let Some(job) = self.jobs.get_mut(&job_id) {
            let place = job.place(job_id);
            job.troubles_in_a_row = 0;
            job.failed_on.clear();
            if place != job.place(job_id) {
                self.queue.remove(&place);
                looked_at.extend(self.with_capacity.iter().cloned());
            }
            job.record_seconds(rendered.render_seconds);
            job.counts.open -= 1;
            job.counts.finished += 1;
            actions.push(Action::FinishSlice {
                job: job_id,
                slice,
                node: name.clone(),
                batch,
                attempts: job.attempts(slice),
                rendered,
                revision: job.next_revision(),
            });
        }
        self.update_job(job_id, actions);
        actions.push(Action::NodeChanged { node: name });
        looked_at
    }

    pub(super) fn fail(
        &mut self,
        now: Time,
        batch: BatchId,
        slice: Slice,
        failure: Failure,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let Some((job, node)) = self.close_slice(batch, slice) else { return self.ignore() };
        match failure.reason {
            FailureReason::Infrastructure => {
                self.pause(now, &node);
                self.note_trouble(batch);
            }
            FailureReason::Renderer
            | FailureReason::InvalidOutput
            | FailureReason::Timeout
            | FailureReason::OutOfMemory => self.blame(now, job, slice, &node, actions),
            FailureReason::NodeLost | FailureReason::Permanent => {}
        }
        self.settle_failure(job, batch, slice, &node, failure, actions);
        self.update_job(job, actions);
        actions.push(Action::NodeChanged { node: node.clone() });
        let mut looked_at = self.with_capacity.clone();
        looked_at.insert(node);
        looked_at
    }

    /// A try failed by the renderer's fault: holds it against the node, or against the job.
    fn blame(
        &mut self,
        now: Time,
        job_id: JobId,
        slice: Slice,
        name: &NodeName,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        job.failed_on.insert(name.clone());
        let could = self.nodes.values().filter(|node| node.description.meets(&job.requirements));
        let could = could.count();
        let is_awaited = |(left, description): &(Time, NodeDescription)| {
            left.saturating_add(AWAITED_FOR) > now && description.meets(&job.requirements)
        };
        let is_only = could == 1 && !self.departed.values().any(is_awaited);
        if job.failed_on.len() >= 2 && 2 * job.failed_on.len() >= could {
            for (name, node) in &mut self.nodes {
                if node.trust.acquit(job_id) {
                    self.with_capacity.insert(name.clone());
                    actions.push(Action::NodeChanged { node: name.clone() });
                }
            }
        } else if let Some(node) = self.nodes.get_mut(name) {
            if !is_only {
                node.trust.record_failure(now, job_id, slice);
            } else if node.trust.pardon() {
                actions.push(Action::NodeChanged { node: name.clone() });
            }
        }
        self.watch(name);
    }

    fn settle_failure(
        &mut self,
        job_id: JobId,
        batch: BatchId,
        slice: Slice,
        node: &NodeName,
        failure: Failure,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        let (verdict, attempts) = job.record_failure(slice, batch, node, failure.reason);
        let revision = job.next_revision();
        let node = node.clone();
        actions.push(match verdict {
            Verdict::Retry => Action::ReopenSlice {
                job: job_id,
                slice,
                node,
                attempts,
                failure: Some(failure),
                revision,
            },
            Verdict::GiveUp => {
                job.counts.open -= 1;
                job.counts.failed += 1;
                Action::FailSlice { job: job_id, slice, node, attempts, failure, revision }
            }
        });
    }

    fn hand_back(
        &mut self,
        job_id: JobId,
        slice: Slice,
        changed: bool,
        node: &NodeName,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        job.put_back(slice);
        // Watchers were shown that it had begun, and a new revision takes that back; or it is suspected.
        if changed {
            actions.push(Action::ReopenSlice {
                job: job_id,
                slice,
                node: node.clone(),
                attempts: job.attempts(slice),
                failure: None,
                revision: job.next_revision(),
            });
        }
    }
}
