//! The core: decides which node renders what. Sans-IO: it reads no clock, awaits nothing and touches nothing;
//! time and events come in, actions go out, in the order in which they take effect.
//!
//! A slice is always in exactly one place: ahead of its job's cursor, among the returned ones, in one live
//! batch, or settled. An event counts only when it names a live batch that holds the slice open: that one
//! rule makes late, repeated and reordered events harmless.
//!
//! Cost: no step looks at all frames. What a step looks at is the nodes that have room and the jobs that
//! have waiting slices.

mod action;
mod assignment;
mod batch;
mod batches;
#[cfg(test)]
mod check;
mod demand;
mod event;
mod job;
mod jobs;
mod node;
mod nodes;
mod restore;
mod restored;
#[cfg(test)]
mod simulation;
mod status;
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

pub use self::{
    action::Action,
    demand::Demand,
    event::Event,
    restored::{RestoredBatch, RestoredJob, RestoredNode},
    status::{NodeLoad, NodeStatus},
};

use self::{
    batch::{Batch, Loss},
    job::{Job, QueueKey},
    node::Node,
};
use crate::domain::{BatchId, Epoch, Incarnation, JobId, NodeDescription, NodeName, Slice, Time};

/// Slices in one batch: bounds a message, what a node keeps for a broken stream, and what its loss costs.
pub const BATCH_SLICES_MAX: u64 = 512;
/// Seconds of work in one batch while there is plenty: short enough that a late node finds work left, and that
/// what a lost node had soon finds another; long enough that a dispatch costs nothing beside it.
const BATCH_SECONDS: f64 = 1.0;

/// How long a node that is gone counts as one that may be back in a moment: a reboot takes less.
const AWAITED_FOR: Duration = Duration::from_secs(5 * 60);

/// The scheduler. See the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    /// How long after hearing from a node its work may be given away: the lease and a margin.
    lease: Duration,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs with waiting slices, in the order in which they are served.
    queue: BTreeSet<QueueKey>,
    nodes: BTreeMap<NodeName, Node>,
    batches: HashMap<BatchId, Batch>,
    /// Nodes that are gone, and since when: those of the last minutes are reckoned with.
    departed: BTreeMap<NodeName, (Time, NodeDescription)>,
    /// When something of a node is due: its lease, a pause, a cancel.
    alarms: BTreeSet<(Time, NodeName)>,
    /// Nodes that had room when last looked at, and found nothing to do.
    with_capacity: BTreeSet<NodeName>,
    slots: usize,
    next_batch: BatchId,
    ignored_events: u64,
}

impl Scheduler {
    /// A scheduler of a new epoch without jobs or nodes. `lease` is the nodes' lease and a margin: how long
    /// after hearing from a node its work may be given away.
    #[must_use]
    pub fn new(epoch: Epoch, lease: Duration) -> Self {
        Self {
            lease,
            jobs: BTreeMap::new(),
            queue: BTreeSet::new(),
            nodes: BTreeMap::new(),
            batches: HashMap::new(),
            departed: BTreeMap::new(),
            alarms: BTreeSet::new(),
            with_capacity: BTreeSet::new(),
            slots: 0,
            next_batch: BatchId::first(epoch),
            ignored_events: 0,
        }
    }

    /// Takes an event and decides.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let looked_at = match event {
            Event::JobSubmitted { .. }
            | Event::JobCancelled { .. }
            | Event::JobRevised { .. }
            | Event::FramesRetried { .. } => self.about_job(now, event, &mut actions),
            Event::NodeRegistered { .. }
            | Event::LeaseRenewed { .. }
            | Event::NodeDraining { .. }
            | Event::NodeLeft { .. } => self.about_node(now, event, &mut actions),
            Event::TimePassed => self.pass_time(now, &mut actions),
            Event::Stalled => {
                self.prolong(now);
                BTreeSet::new()
            }
            event => self.about_batch(now, event, &mut actions),
        };
        self.assign(looked_at, &mut actions);
        actions
    }

    /// Returns the nodes that may get something now, as do the next two.
    fn about_job(
        &mut self,
        now: Time,
        event: Event,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        match event {
            Event::JobSubmitted { job, frames, requirements, priority, node_silence } => {
                let patience = job::patience(node_silence, self.lease);
                self.jobs.insert(job, Job::new(frames, requirements, priority, patience));
                self.requeue(job);
                self.with_capacity.clone()
            }
            Event::JobCancelled { job } => {
                self.cancel(now, job, actions);
                self.with_capacity.clone()
            }
            Event::JobRevised { job } => {
                self.revise(job, actions);
                BTreeSet::new()
            }
            Event::FramesRetried { job, closed, slices } => {
                self.retry(job, closed.map(|closed| *closed), slices, actions)
            }
            _ => BTreeSet::new(),
        }
    }

    fn about_node(
        &mut self,
        now: Time,
        event: Event,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        match event {
            Event::NodeRegistered { node, incarnation, description } => {
                self.register(now, node, incarnation, description, actions)
            }
            Event::LeaseRenewed { node, incarnation } => {
                self.renew(now, &node, incarnation);
                BTreeSet::new()
            }
            Event::NodeDraining { node, incarnation } => self.drain(&node, incarnation, actions),
            Event::NodeLeft { node, incarnation } => self.leave(now, &node, incarnation, actions),
            _ => BTreeSet::new(),
        }
    }

    fn about_batch(
        &mut self,
        now: Time,
        event: Event,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        match event {
            Event::BatchRefused { batch } => self.take_refusal(now, batch, actions),
            Event::BatchUnreachable { batch, lasts } => {
                self.cannot_reach(now, batch, lasts, actions)
            }
            Event::BatchLost { batch } => self.miss_batch(batch, actions),
            Event::SliceStarted { batch, slice } => {
                match self.batches.get_mut(&batch).and_then(|b| b.open.get_mut(&slice)) {
                    Some(has_begun) => *has_begun = true,
                    None => self.ignored_events += 1,
                }
                BTreeSet::new()
            }
            Event::SliceFinished { batch, slice, rendered } => {
                self.finish(batch, slice, rendered, actions)
            }
            Event::SliceFailed { batch, slice, failure } => {
                self.fail(now, batch, slice, failure, actions)
            }
            Event::BatchEnded { batch } => self.end_batch(batch, actions),
            Event::FrameAdopted { node, job, slice, rendered } => {
                self.adopt(now, node, job, slice, rendered, actions)
            }
            _ => BTreeSet::new(),
        }
    }

    fn take_refusal(
        &mut self,
        now: Time,
        batch: BatchId,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let held = self.batches.get(&batch).map(|b| (b.node.clone(), b.cancelled));
        let Some((holder, cancelled)) = held else { return self.ignore() };
        // A node need not have a batch that it is to end.
        if !cancelled {
            self.pause(now, &holder);
            self.note_trouble(batch);
        }
        let mut looked_at = self.end_batch(batch, actions);
        looked_at.extend(self.with_capacity.iter().cloned());
        looked_at
    }

    /// When [`Event::TimePassed`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// The incarnation of a live node.
    #[must_use]
    pub fn incarnation(&self, node: &str) -> Option<Incarnation> {
        self.nodes.get(node).map(|node| node.incarnation)
    }

    /// Whether a heartbeat renews the lease of this life of a node. One that was silent, or that cannot be reached,
    /// must register again, so that calls which are still on their way to it are void; one that was evicted is not
    /// listened to.
    #[must_use]
    pub fn is_listened_to(&self, node: &str, incarnation: Incarnation) -> bool {
        let known = self.nodes.get(node);
        known.is_some_and(|node| node.incarnation == incarnation && node.is_listened_to())
    }

    /// Whether this life of a node may not register: it was evicted, and has yet to stop.
    #[must_use]
    pub fn is_evicted(&self, node: &str, incarnation: Incarnation) -> bool {
        self.nodes.get(node).is_some_and(|node| node.incarnation == incarnation && node.evicted)
    }

    /// The batch that is started next; lower ones have been.
    #[must_use]
    pub fn next_batch(&self) -> BatchId {
        self.next_batch
    }

    /// Whether a node should go on with a batch: it is live, its job is open, and it was not cancelled.
    #[must_use]
    pub fn holds(&self, node: &str, batch: BatchId) -> bool {
        self.batches.get(&batch).is_some_and(|batch| {
            &*batch.node == node && !batch.cancelled && self.jobs.contains_key(&batch.job)
        })
    }

    /// Batches that a node is still thought to have, although they are cancelled or their jobs over: if it does not
    /// hold one of them now, that one has ended. `first_batch`: of those below it renders none later. One that is
    /// yet to arrive would be told to end as soon as it is heard of; but what is open in it must not go to others
    /// before.
    #[must_use]
    pub fn abandoned(&self, node: &str, first_batch: BatchId) -> Vec<BatchId> {
        let Some(known) = self.nodes.get(node) else { return Vec::new() };
        let is_certain = |id: &BatchId| {
            *id < first_batch || self.batches.get(id).is_some_and(|batch| batch.open.is_empty())
        };
        let abandoned = known.batches.iter().filter(|id| !self.holds(node, **id));
        abandoned.copied().filter(is_certain).collect()
    }

    /// The job and node of a slice that is open in a live batch.
    #[must_use]
    pub fn rendering(&self, batch: BatchId, slice: Slice) -> Option<(JobId, NodeName)> {
        let batch = self.batches.get(&batch)?;
        batch.open.contains_key(&slice).then(|| (batch.job, batch.node.clone()))
    }

    /// The job and node of a live batch.
    #[must_use]
    pub fn batch(&self, batch: BatchId) -> Option<(JobId, NodeName)> {
        self.batches.get(&batch).map(|batch| (batch.job, batch.node.clone()))
    }

    /// How busy a live node is.
    #[must_use]
    pub fn load(&self, node: &str) -> Option<NodeLoad> {
        self.nodes.get(node).map(|node| NodeLoad {
            unsettled_slices: node.unsettled as u32,
            finished_slices: node.finished,
            has_work: !node.batches.is_empty(),
            standing: self.standing(node),
        })
    }

    fn standing(&self, node: &Node) -> NodeStatus {
        let quarantined = node.trust.quarantined_until();
        if node.evicted || node.silent {
            let borne = self.silence_borne(node).unwrap_or(self.lease);
            let until = node.heard.saturating_add(borne);
            return if node.evicted {
                NodeStatus::Evicted { until }
            } else {
                NodeStatus::Silent { since: node.heard, until }
            };
        }
        match (quarantined, node.paused_until) {
            _ if node.unreachable => NodeStatus::Unreachable,
            _ if node.draining => NodeStatus::Draining,
            (Some(until), _) => NodeStatus::Quarantined { until, tries: node.trust.failed_tries() },
            (None, Some(until)) => NodeStatus::Paused { until },
            (None, None) => NodeStatus::Ready,
        }
    }

    /// Events that named something that is over, and changed nothing.
    #[must_use]
    pub fn ignored_events(&self) -> u64 {
        self.ignored_events
    }

    fn ignore(&mut self) -> BTreeSet<NodeName> {
        self.ignored_events += 1;
        BTreeSet::new()
    }
}
