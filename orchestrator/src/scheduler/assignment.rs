//! Who gets what.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, BATCH_SECONDS, BATCH_SLICES_MAX, Batch, Job, Node, Scheduler, job::Taken};
use crate::domain::{Incarnation, JobId, JobState, NodeName, Requirements, Slice};

impl Scheduler {
    /// Gives work to those of `looked_at` that have room: free slots of all of them first, then batches
    /// ahead of time.
    pub(super) fn assign(&mut self, looked_at: BTreeSet<NodeName>, actions: &mut Vec<Action>) {
        let load = |this: &Self, name: NodeName| Some((this.nodes.get(&name)?.batches.len(), name));
        let mut by_load: BTreeSet<(usize, NodeName)> =
            looked_at.into_iter().filter_map(|name| load(self, name)).collect();
        while let Some((_, name)) = by_load.pop_first() {
            let Some(alone) = self.assign_one(&name, actions) else { continue };
            // Others may have kept slots free for the slice that has now found a node for itself.
            let again = if alone { self.roomy.clone() } else { BTreeSet::from([name]) };
            by_load.extend(again.into_iter().filter_map(|name| load(self, name)));
        }
    }

    /// Sends one batch to a node if it has room and there is work for it; returns whether it is alone then.
    fn assign_one(&mut self, name: &NodeName, actions: &mut Vec<Action>) -> Option<bool> {
        let node = self.nodes.get(name)?;
        let free_slot = node.has_free_slot();
        if free_slot {
            self.roomy.insert(name.clone());
        } else {
            self.roomy.remove(name);
        }
        for &(.., job_id) in &self.queue {
            let Some(job) = self.jobs.get(&job_id) else { continue };
            if !node.description.meets(&job.requirements) {
                continue;
            }
            let runs_ahead = || {
                job.waiting() > self.slots as u64
                    && node.runs_dry_soon(job.mean_seconds.unwrap_or(f64::INFINITY))
            };
            // The last slices are left for whoever is free first, and nothing less important overtakes them.
            if !free_slot && !runs_ahead() {
                return None;
            }
            let size = if node.trust.is_limited() { 1 } else { self.batch_size(job) };
            let job_requirements = job.requirements.clone();
            let Some(job) = self.jobs.get_mut(&job_id) else { continue };
            let nodes = &self.nodes;
            let empty = node.batches.is_empty();
            let taken = job.take(size, name, empty, |failed_on| {
                other_could(nodes, failed_on, &job_requirements)
            });
            match taken {
                Taken::Batch(slices) => {
                    self.start_batch(job_id, name, slices, actions);
                    return Some(false);
                }
                Taken::Alone(slice) => {
                    self.start_batch(job_id, name, vec![slice], actions);
                    if let Some(node) = self.nodes.get_mut(name) {
                        node.alone = true;
                    }
                    self.roomy.remove(name);
                    return Some(true);
                }
                // What comes after it in the queue does not keep the node busy.
                Taken::OnceEmpty => return None,
                Taken::Nothing => {}
            }
        }
        None
    }

    /// Guided: a share of what is left, so that all nodes end together; never more than a moment's work.
    fn batch_size(&self, job: &Job) -> u64 {
        let share = job.waiting().div_ceil(2 * self.slots.max(1) as u64);
        let moment = match job.mean_seconds {
            Some(seconds) if seconds > 0.0 => (BATCH_SECONDS / seconds) as u64,
            Some(_) => BATCH_SLICES_MAX,
            None => 1,
        };
        share.min(moment).clamp(1, BATCH_SLICES_MAX)
    }

    fn start_batch(
        &mut self,
        job_id: JobId,
        name: &NodeName,
        slices: Vec<Slice>,
        actions: &mut Vec<Action>,
    ) {
        let batch = self.next_batch;
        self.next_batch = batch.next();
        let mut incarnation = Incarnation(0);
        if let Some(node) = self.nodes.get_mut(name) {
            node.batches.insert(batch);
            node.unsettled += slices.len();
            incarnation = node.incarnation;
        }
        if let Some(job) = self.jobs.get_mut(&job_id) {
            job.batches.insert(batch);
            if job.state == JobState::Queued {
                job.state = JobState::Rendering;
                job.next_revision();
            }
        }
        let open = slices.iter().map(|slice| (*slice, false)).collect();
        let patience = self.jobs.get(&job_id).map_or(self.lease, |job| job.patience);
        let (node, order, cancelled) = (name.clone(), slices.clone(), false);
        let started = Batch { job: job_id, node, open, order, patience, cancelled };
        self.batches.insert(batch, started);
        self.watch(name);
        actions.push(Action::StartBatch {
            batch,
            job: job_id,
            node: name.clone(),
            incarnation,
            slices,
        });
        self.update_job(job_id, actions);
        actions.push(Action::NodeChanged { node: name.clone() });
    }
}

/// Whether a live node that is none of `failed_on` could render such a job now.
pub(super) fn other_could(
    nodes: &BTreeMap<NodeName, Node>,
    failed_on: &[NodeName],
    requirements: &Requirements,
) -> bool {
    nodes.iter().any(|(name, node)| {
        !failed_on.contains(name) && node.is_available() && node.description.meets(requirements)
    })
}
