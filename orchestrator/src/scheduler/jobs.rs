//! Jobs are cancelled, revised, retried, and end.

use std::collections::BTreeSet;

use super::{Action, Job, RestoredJob, Scheduler};
use crate::domain::{Attempts, BatchId, JobId, JobState, NodeName, Slice, Time};

impl Scheduler {
    pub(super) fn cancel(&mut self, now: Time, job_id: JobId, actions: &mut Vec<Action>) {
        let Some(mut job) = self.jobs.remove(&job_id) else {
            self.ignored_events += 1;
            return;
        };
        self.queue.remove(&job.place(job_id));
        job.counts.cancelled += std::mem::take(&mut job.counts.open);
        for batch_id in std::mem::take(&mut job.batches) {
            if let Some(batch) = self.batches.get_mut(&batch_id) {
                if let Some(node) = self.nodes.get_mut(&batch.node) {
                    node.unsettled -= batch.open.len();
                }
                batch.open.clear();
            }
            self.cancel_batch(now, batch_id, actions);
        }
        actions.push(Action::UpdateJob {
            job: job_id,
            state: JobState::Cancelled,
            counts: job.counts,
            revision: job.next_revision(),
        });
    }

    pub(super) fn revise(&mut self, job_id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&job_id) else {
            self.ignored_events += 1;
            return;
        };
        actions.push(Action::UpdateJob {
            job: job_id,
            state: job.state,
            counts: job.counts,
            revision: job.next_revision(),
        });
    }

    /// Opens failed slices again, each with a fresh budget.
    pub(super) fn retry(
        &mut self,
        job_id: JobId,
        closed: Option<RestoredJob>,
        slices: Vec<Slice>,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        if let Some(closed) = closed
            && closed.state == JobState::Failed
        {
            let lease = self.lease;
            let job = self.jobs.entry(job_id).or_insert_with(|| Job::restored(closed, lease));
            // Batches may outlive their job by a moment.
            let of_it = self.batches.iter().filter(|(_, batch)| batch.job == job_id);
            job.batches.extend(of_it.map(|(id, _)| *id));
        }
        let Some(job) = self.jobs.get_mut(&job_id) else { return self.ignore() };
        let held: Vec<Slice> = {
            let batches = job.batches.iter().filter_map(|id| self.batches.get(id));
            batches.flat_map(|batch| batch.open.keys()).copied().collect()
        };
        self.queue.remove(&job.place(job_id));
        // No batch that was ever sent holds them any more.
        let latest_batch = Some(BatchId(self.next_batch.0 - 1));
        let attempts = Attempts { latest_batch, ..Attempts::default() };
        let reopened = job.reopen(slices, &held, &attempts);
        for slice in &reopened {
            actions.push(Action::RetrySlice {
                job: job_id,
                slice: *slice,
                attempts: attempts.clone(),
                revision: job.next_revision(),
            });
        }
        if reopened.is_empty() {
            if job.state.is_final() {
                self.jobs.remove(&job_id);
            }
            self.requeue(job_id);
            return self.ignore();
        }
        job.state = JobState::Rendering;
        job.troubles_in_a_row = 0;
        job.failed_on.clear();
        self.update_job(job_id, actions);
        self.with_capacity.clone()
    }

    /// Reports how a job stands, and lets it go when it is over.
    pub(super) fn update_job(&mut self, job_id: JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        job.settle();
        actions.push(Action::UpdateJob {
            job: job_id,
            state: job.state,
            counts: job.counts,
            revision: job.revision,
        });
        if job.state.is_final() {
            self.queue.remove(&job.place(job_id));
            // Slices are settled one by one, so a batch may outlive its job by the moment until it ends.
            self.jobs.remove(&job_id);
        } else {
            self.requeue(job_id);
        }
    }

    /// A batch came to nothing for reasons around the renderer.
    pub(super) fn note_trouble(&mut self, batch: BatchId) {
        let Some(job_id) = self.batches.get(&batch).map(|batch| batch.job) else { return };
        if let Some(job) = self.jobs.get_mut(&job_id) {
            self.queue.remove(&job.place(job_id));
            job.troubles_in_a_row += 1;
            self.requeue(job_id);
        }
    }

    pub(super) fn requeue(&mut self, job_id: JobId) {
        if let Some(job) = self.jobs.get(&job_id) {
            let place = job.place(job_id);
            if job.waiting() > 0 {
                self.queue.insert(place);
            } else {
                self.queue.remove(&place);
            }
        }
    }
}
