//! Going on where a former life of the orchestrator stopped.

use std::{collections::BTreeMap, time::Duration};

use super::{Action, Batch, Job, Node, RestoredBatch, RestoredJob, RestoredNode, Scheduler};
use crate::domain::{BatchId, Epoch, JobId, Time};

impl Scheduler {
    /// A scheduler of a new epoch that goes on where a former one stopped. Nodes have a whole lease to be
    /// heard of. The actions are those of a first look at the work, and cancels for batches of jobs that
    /// are over.
    #[must_use]
    pub fn restore(
        epoch: Epoch,
        lease: Duration,
        jobs: Vec<RestoredJob>,
        nodes: Vec<RestoredNode>,
        batches: Vec<RestoredBatch>,
    ) -> (Self, Vec<Action>) {
        let mut this = Self::new(epoch, lease);
        let mut actions = Vec::new();
        for restored in jobs {
            this.jobs.insert(restored.job, Job::restored(restored, lease));
        }
        for RestoredNode { node, incarnation, description } in nodes {
            this.insert_node(node, Node::new(incarnation, description, Time::ZERO));
        }
        for RestoredBatch { batch, job: job_id, node, slices } in batches {
            let Some(holder) = this.nodes.get_mut(&node) else {
                // Its node left in the same breath: nothing of it is being rendered.
                actions.push(Action::EndBatch { batch, node });
                continue;
            };
            let has_begun = |id: &&BatchId| {
                this.batches.get(id).is_some_and(|batch| batch.open.values().any(|it| *it))
            };
            let is_at_work = holder.batches.iter().filter(has_begun).count() < holder.slots();
            holder.batches.insert(batch);
            let mut open = BTreeMap::new();
            let mut patience = lease;
            let order = slices.clone();
            if let Some(job) = this.jobs.get_mut(&job_id) {
                patience = job.patience;
                job.batches.insert(batch);
                for slice in slices {
                    if job.restore_rendering(slice, batch) {
                        holder.alone |= job.must_be_alone(slice);
                        // Batches are drawn in order, and so are their slices: if the node is lost, the first
                        // may have been its death.
                        open.insert(slice, is_at_work && open.is_empty());
                    }
                }
                holder.unsettled += open.len();
            }
            let is_over = open.is_empty();
            let cancelled = false;
            let held = Batch { job: job_id, node: node.clone(), open, order, patience, cancelled };
            this.batches.insert(batch, held);
            if is_over {
                this.cancel_batch(Time::ZERO, batch, &mut actions);
            }
        }
        for name in this.nodes.keys().cloned().collect::<Vec<_>>() {
            this.watch(&name);
        }
        this.jobs.values_mut().for_each(Job::restore_returned);
        let ids: Vec<JobId> = this.jobs.keys().copied().collect();
        for job in ids {
            this.requeue(job);
        }
        this.assign(this.nodes.keys().cloned().collect(), &mut actions);
        (this, actions)
    }
}
