//! The scheduler's actions become records to write and effects to carry out.

use tracing::{debug, error, info, warn};

use super::{
    Driver,
    cycle::{Cycle, Effect},
};
use crate::{
    clock::wall_ms,
    dispatch::Assignment,
    domain::{
        Attempts, BatchId, Frame, FrameCounts, FrameState, Incarnation, JobId, JobState, NodeName,
        NodeState, NodeView, Rendered, Revision, Slice,
    },
    jobs,
    mailbox::NewJob,
    observe::Observer as _,
    scheduler::Action,
    store::{BatchRecord, JobRecord},
};

impl Driver {
    /// Notes in the cycle what the scheduler decided.
    pub(super) fn apply(&mut self, cycle: &mut Cycle, actions: Vec<Action>) {
        for action in actions {
            self.observers.acted(&action);
            match action {
                Action::StartBatch { batch, job, node, incarnation, slices } => {
                    self.start_batch(cycle, batch, job, node, incarnation, slices);
                }
                Action::EndBatch { batch, node } => {
                    cycle.group.end_batch(batch);
                    cycle.effects.push(Effect::EndBatch(batch, node));
                }
                Action::CancelBatch { batch, node } => {
                    cycle.effects.push(Effect::CancelBatch(batch, node));
                }
                Action::FinishSlice {
                    job,
                    slice,
                    node,
                    attempts,
                    rendered,
                    revision,
                    batch: _,
                } => {
                    let frame = changed(slice, FrameState::Finished, attempts, revision);
                    let frame = Frame { node: Some(node), ..frame };
                    self.finish_slice(cycle, job, slice, frame, rendered);
                }
                Action::ReopenSlice { job, slice, node, attempts, failure, revision } => {
                    let frame = changed(slice, FrameState::Open, attempts, revision);
                    let frame = Frame { failure, node: Some(node), ..frame };
                    self.put_frame(cycle, job, slice, frame);
                }
                Action::RetrySlice { job, slice, attempts, revision } => {
                    let frame = changed(slice, FrameState::Open, attempts, revision);
                    self.put_frame(cycle, job, slice, frame);
                }
                Action::FailSlice { job, slice, node, attempts, failure, revision } => {
                    warn!(%job, frame = slice.frame, %node, message = failure.message, "frame failed");
                    let frame = changed(slice, FrameState::Failed, attempts, revision);
                    let (failure, node) = (Some(failure), Some(node));
                    self.put_frame(cycle, job, slice, Frame { failure, node, ..frame });
                }
                Action::UpdateJob { job, state, counts, revision } => {
                    self.update_job(cycle, job, state, counts, revision);
                }
                Action::NodeChanged { node } => {
                    cycle.nodes.insert(node);
                }
                Action::NodeGone { node, said_goodbye } => {
                    self.remove_node(cycle, node, said_goodbye);
                }
            }
        }
    }

    fn start_batch(
        &mut self,
        cycle: &mut Cycle,
        batch: BatchId,
        job: JobId,
        node: NodeName,
        incarnation: Incarnation,
        slices: Vec<Slice>,
    ) {
        let record =
            BatchRecord { job, node: node.clone(), slices: slices.clone(), log_sequence: 0 };
        cycle.group.started_batches.insert(batch, record);
        let record = self.nodes.get(&node).filter(|node| node.incarnation == incarnation);
        let address = record.map(|node| node.address.clone());
        let (Some(open), Some(address)) = (self.jobs.get(&job), address) else {
            // A bug. The batch is handed back so that no frame waits for ever.
            error!(%job, %batch, "batch for an unknown job or node");
            cycle.effects.push(Effect::Refuse(batch));
            return;
        };
        debug!(%job, %batch, %node, slices = slices.len(), "batch started");
        cycle.effects.push(Effect::Start(Assignment {
            batch,
            job,
            node,
            incarnation,
            address,
            spec: open.record.spec.clone(),
            file_version: open.record.file_version,
            slices,
        }));
    }

    fn finish_slice(
        &mut self,
        cycle: &mut Cycle,
        job: JobId,
        slice: Slice,
        frame: Frame,
        mut rendered: Rendered,
    ) {
        // The feed keeps the bytes of recent previews only, apart from the frames.
        if let Some(preview) = &mut rendered.preview {
            let data = std::mem::take(&mut preview.data);
            let previews = &mut cycle.jobs.entry(job).or_default().previews;
            previews.push((preview.digest, data));
        }
        if let Some(open) = self.jobs.get_mut(&job) {
            open.gathered.add(slice.frame, &rendered);
        }
        self.put_frame(cycle, job, slice, Frame { rendered: Some(rendered), ..frame });
    }

    fn put_frame(&mut self, cycle: &mut Cycle, job: JobId, slice: Slice, frame: Frame) {
        if let Some(open) = self.jobs.get_mut(&job) {
            open.begun_at_ms.remove(&slice);
        }
        let frame = std::sync::Arc::new(frame);
        cycle.group.frames.insert((job, slice), frame.clone());
        let pending = cycle.jobs.entry(job).or_default();
        pending.active.remove(&slice);
        pending.frames.push(frame);
    }

    fn update_job(
        &mut self,
        cycle: &mut Cycle,
        job: JobId,
        state: JobState,
        counts: FrameCounts,
        revision: Revision,
    ) {
        let Some(open) = self.jobs.get_mut(&job) else { return };
        let status = &mut open.record.status;
        if state != JobState::Queued && status.started_at_ms == 0 {
            status.started_at_ms = wall_ms();
        }
        if !state.is_final() {
            status.ended_at_ms = 0;
        } else {
            info!(%job, ?state, finished = counts.finished, failed = counts.failed, "job over");
            status.ended_at_ms = wall_ms();
        }
        (status.state, status.counts, status.revision) = (state, counts, revision);
        if state == JobState::Finished {
            let gathered = std::mem::take(&mut open.gathered);
            for NewJob { request, spec, file_version } in jobs::followups(&open.record, &gathered) {
                self.last_job += 1;
                let followup = JobId(self.last_job);
                jobs::link(&mut open.record.status, &spec, followup);
                let record = JobRecord::submitted(followup, spec, file_version, wall_ms());
                // In the transaction that ends the job: neither ever exists without the other.
                cycle.group.new_jobs.push((request, record.clone()));
                self.observers.submitted(&record);
                cycle.followups.push(record);
            }
        }
        cycle.group.jobs.insert(job, open.record.status.clone());
        cycle.jobs.entry(job).or_default();
    }

    fn remove_node(&mut self, cycle: &mut Cycle, node: NodeName, said_goodbye: bool) {
        // A later incarnation has replaced this one, and is live under the same name.
        if self.scheduler.incarnation(&node).is_some() {
            return;
        }
        self.troubles.remove(&node);
        if let Some(record) = self.nodes.remove(&node) {
            info!(%node, said_goodbye, "node gone");
            let state = if said_goodbye { NodeState::Left } else { NodeState::Lost };
            let (name, now_ms) = (node.clone(), wall_ms());
            let (address, description) = (record.address, record.description);
            let view = NodeView::new(name, record.incarnation, address, description, state, now_ms);
            cycle.gone.push(view);
            cycle.group.nodes.insert(node.clone(), None);
            cycle.effects.push(Effect::Forget(node));
        }
    }
}

/// A frame after a change, without its output, failure and node.
fn changed(slice: Slice, state: FrameState, attempts: Attempts, revision: Revision) -> Frame {
    let frame = slice.frame;
    Frame { frame, state, revision, attempts, rendered: None, failure: None, node: None }
}
