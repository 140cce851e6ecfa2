//! Who gets what.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, BATCH_SECONDS, BATCH_SLICES_MAX, Batch, Job, Node, Scheduler, job::Taken};
use crate::domain::{Incarnation, JobId, JobState, NodeName, Requirements, Slice};

/// What a node was sent.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Batch,
    /// A slice that it has for itself.
    Alone,
}

impl Scheduler {
    /// Gives work to those of `looked_at` that have room: free slots of all of them first, then batches
    /// ahead of time.
    pub(super) fn assign(&mut self, looked_at: BTreeSet<NodeName>, actions: &mut Vec<Action>) {
        let load = |this: &Self, name: NodeName| Some((this.nodes.get(&name)?.batches.len(), name));
        let mut by_load: BTreeSet<(usize, NodeName)> =
            looked_at.into_iter().filter_map(|name| load(self, name)).collect();
        while let Some((_, name)) = by_load.pop_first() {
            let empties_for = |this: &Self| this.nodes.get(&name).and_then(|node| node.empties_for);
            let before = empties_for(self);
            let sent = self.assign_one(&name, actions);
            // Another may have kept slots free for the slice that has now found a node for itself, or must do
            // so now that this one does not.
            let others_may =
                sent == Some(Sent::Alone) || before.is_some() && before != empties_for(self);
            let again = match sent {
                _ if others_may => self.with_capacity.clone(),
                Some(_) => BTreeSet::from([name]),
                None => continue,
            };
            by_load.extend(again.into_iter().filter_map(|name| load(self, name)));
        }
    }

    /// Sends one batch to a node if it has room and there is work for it.
    fn assign_one(&mut self, name: &NodeName, actions: &mut Vec<Action>) -> Option<Sent> {
        self.nodes.get_mut(name)?.empties_for = None;
        let node = self.nodes.get(name)?;
        let free_slot = node.has_free_slot();
        if free_slot {
            self.with_capacity.insert(name.clone());
        } else {
            self.with_capacity.remove(name);
        }
        if !free_slot && !node.takes_ahead() {
            return None;
        }
        let in_doubt = node.trust.is_limited();
        // One in doubt is first given what it has not failed: a job may be at fault, and others need not wait.
        let passes: &[bool] = if in_doubt { &[false, true] } else { &[false] };
        let queue = &self.queue;
        let places =
            passes.iter().flat_map(|failed| queue.iter().map(move |place| (failed, place)));
        for (&failed_here, &(.., job_id)) in places {
            let Some(job) = self.jobs.get(&job_id).filter(|job| !job.is_held()) else { continue };
            let is_its_turn = !in_doubt || job.failed_on.contains(name) == failed_here;
            if !is_its_turn || !node.description.meets(&job.requirements) {
                continue;
            }
            let runs_ahead = || {
                !job.is_in_order()
                    && job.waiting() > self.slots as u64
                    && node.runs_dry_soon(job.mean_seconds.unwrap_or(f64::INFINITY))
            };
            // The last slices are left for whoever is free first, and nothing less important overtakes them.
            if !free_slot && !runs_ahead() {
                return None;
            }
            let size = if in_doubt { 1 } else { self.batch_size(job) };
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
                    return Some(Sent::Batch);
                }
                Taken::Alone(slice) => {
                    self.start_batch(job_id, name, vec![slice], actions);
                    if let Some(node) = self.nodes.get_mut(name) {
                        node.alone = true;
                    }
                    self.with_capacity.remove(name);
                    return Some(Sent::Alone);
                }
                // What comes after it in the queue does not keep the node busy, unless others run empty for it.
                Taken::OnceEmpty => {
                    if self.is_awaited_by_enough(job_id) {
                        continue;
                    }
                    self.nodes.get_mut(name)?.empties_for = Some(job_id);
                    return None;
                }
                Taken::Nothing => {}
            }
        }
        None
    }

    /// Whether for each slice of a job that must be alone there is a node that runs empty for it.
    pub(super) fn is_awaited_by_enough(&self, job: JobId) -> bool {
        let emptied = self.nodes.values().filter(|node| node.is_to_be_empty_for(job)).count();
        self.jobs.get(&job).is_some_and(|job| job.waiting_alone() <= emptied)
    }

    /// Guided: a share of what is left, so that all nodes end together, and never more than a moment's work.
    /// Frames in order all go to one node, which draws them best without a break.
    fn batch_size(&self, job: &Job) -> u64 {
        if job.is_in_order() {
            return BATCH_SLICES_MAX;
        }
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
