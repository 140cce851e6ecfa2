//! The core: decides which node renders what. Sans-IO: it reads no clock, awaits nothing and touches nothing;
//! time and events come in, actions go out, in the order in which they take effect.
//!
//! A slice is always in exactly one place: ahead of its job's cursor, among the returned ones, in one live
//! batch, or settled. An event counts only when it names a live batch that holds the slice open: that one
//! rule makes late, repeated and reordered events harmless.
//!
//! Cost: no step looks at all frames. What a step looks at is the nodes that have room and the jobs that
//! have waiting slices.

mod job;
mod node;
#[cfg(test)]
mod simulation;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::domain::{
    Attempts, BatchId, Epoch, Failure, FailureReason, FrameCounts, FrameSet, Incarnation, JobId,
    JobState, NodeDescription, NodeName, Now, Rendered, Requirements, Revision, Slice,
};
use job::{Job, Place, Taken, Verdict};
use node::Node;

/// Slices in one batch: bounds a message, what a node keeps for a broken stream, and what its loss costs.
pub const BATCH_SLICES_MAX: u64 = 512;
/// Seconds of work in one batch while there is plenty: short enough that a late node finds work left, long
/// enough that a dispatch costs nothing beside it.
const BATCH_SECONDS: f64 = 2.0;

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A job was accepted and is durable.
    JobSubmitted {
        /// The job.
        job: JobId,
        /// Its frames.
        frames: FrameSet,
        /// What it asks of a node.
        requirements: Requirements,
        /// Higher goes first.
        priority: i32,
    },
    /// A person wants a job ended.
    JobCancelled {
        /// The job.
        job: JobId,
    },
    /// Something about a job changed that is none of the scheduler's business, like a warning: it takes a
    /// revision of the job, where all of them come from.
    JobRevised {
        /// The job.
        job: JobId,
    },
    /// A node joined, or joined again.
    NodeRegistered {
        /// The node.
        node: NodeName,
        /// Its life.
        incarnation: Incarnation,
        /// What it is and has.
        description: NodeDescription,
    },
    /// Failed frames are to be tried again with a fresh budget.
    FramesRetried {
        /// The job.
        job: JobId,
        /// All of it, where it is over and the scheduler has let it go.
        closed: Option<Box<RestoredJob>>,
        /// Those of its failed slices.
        slices: Vec<Slice>,
    },
    /// A node has a finished slice that is not in any of its batches; its outputs are stored.
    FrameAdopted {
        /// The node.
        node: NodeName,
        /// The job.
        job: JobId,
        /// The slice.
        slice: Slice,
        /// What it came to.
        rendered: Rendered,
    },
    /// A node is about to leave: it gets nothing new.
    NodeDraining {
        /// The node.
        node: NodeName,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A node renewed its lease.
    LeaseRenewed {
        /// The node.
        node: NodeName,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A node said goodbye, with its renderers dead.
    NodeLeft {
        /// The node.
        node: NodeName,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A node would not take a batch, or does not know it: nothing of it is being rendered.
    BatchRefused {
        /// The batch.
        batch: BatchId,
    },
    /// A node began a slice.
    SliceStarted {
        /// The batch.
        batch: BatchId,
        /// The slice.
        slice: Slice,
    },
    /// A node finished a slice, and its outputs are stored.
    SliceFinished {
        /// The batch.
        batch: BatchId,
        /// The slice.
        slice: Slice,
        /// What it came to.
        rendered: Rendered,
    },
    /// A try at a slice failed.
    SliceFailed {
        /// The batch.
        batch: BatchId,
        /// The slice.
        slice: Slice,
        /// Why.
        failure: Failure,
    },
    /// A batch is over on its node; slices without a result are handed back.
    BatchEnded {
        /// The batch.
        batch: BatchId,
    },
    /// A deadline may have passed.
    TimePassed,
    /// The orchestrator itself stood still, and could hear nobody: silence meanwhile proves nothing.
    Stalled,
}

/// Something is to be done. Durable ones are written before any is performed.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Record a batch, then send it.
    StartBatch {
        /// The new batch.
        batch: BatchId,
        /// Whose slices.
        job: JobId,
        /// Where to.
        node: NodeName,
        /// The life of the node it is meant for.
        incarnation: Incarnation,
        /// Which, in this order.
        slices: Vec<Slice>,
    },
    /// Forget a batch, and stop following it.
    EndBatch {
        /// The batch.
        batch: BatchId,
        /// Where it was.
        node: NodeName,
    },
    /// Tell the node to end a batch; it stays live until the node says that it has.
    CancelBatch {
        /// The batch.
        batch: BatchId,
        /// Where it is.
        node: NodeName,
    },
    /// Record that a slice is finished.
    FinishSlice {
        /// Whose.
        job: JobId,
        /// Which.
        slice: Slice,
        /// By whom.
        node: NodeName,
        /// Tries that failed before.
        attempts: Attempts,
        /// With what.
        rendered: Rendered,
        /// The change's place in the job's history.
        revision: Revision,
    },
    /// Record that a started slice is open again: its try failed, or was handed back (no failure).
    ReopenSlice {
        /// Whose.
        job: JobId,
        /// Which.
        slice: Slice,
        /// Who had it.
        node: NodeName,
        /// Tries that failed.
        attempts: Attempts,
        /// Why, if it failed.
        failure: Option<Failure>,
        /// The change's place in the job's history.
        revision: Revision,
    },
    /// Record that a failed slice is open again.
    RetrySlice {
        /// Whose.
        job: JobId,
        /// Which.
        slice: Slice,
        /// What is left of the tries behind it.
        attempts: Attempts,
        /// The change's place in the job's history.
        revision: Revision,
    },
    /// Record that a slice is given up.
    FailSlice {
        /// Whose.
        job: JobId,
        /// Which.
        slice: Slice,
        /// Who had it last.
        node: NodeName,
        /// Tries that failed.
        attempts: Attempts,
        /// Why.
        failure: Failure,
        /// The change's place in the job's history.
        revision: Revision,
    },
    /// Record how a job stands now.
    UpdateJob {
        /// Which.
        job: JobId,
        /// Where it stands.
        state: JobState,
        /// How its frames stand.
        counts: FrameCounts,
        /// Its latest change.
        revision: Revision,
    },
    /// A live node's state changed.
    NodeChanged {
        /// Which.
        node: NodeName,
    },
    /// A node is no longer live.
    NodeGone {
        /// Which.
        node: NodeName,
        /// Whether it said goodbye.
        said_goodbye: bool,
    },
}

/// A job as a former life left it.
#[derive(Debug, Clone)]
pub struct RestoredJob {
    /// The job.
    pub job: JobId,
    /// All its frames.
    pub frames: FrameSet,
    /// What it asks of a node.
    pub requirements: Requirements,
    /// Higher goes first.
    pub priority: i32,
    /// Where it stood.
    pub state: JobState,
    /// How its frames stood.
    pub counts: FrameCounts,
    /// Its latest change.
    pub revision: Revision,
    /// Frames that are finished or failed.
    pub settled: Vec<i32>,
    /// Open slices with tries behind them.
    pub attempts: Vec<(Slice, Attempts)>,
}

/// A node as a former life knew it.
#[derive(Debug)]
pub struct RestoredNode {
    /// The node.
    pub node: NodeName,
    /// Its life.
    pub incarnation: Incarnation,
    /// What it is and has.
    pub description: NodeDescription,
}

/// A batch that was live in a former life.
#[derive(Debug)]
pub struct RestoredBatch {
    /// The batch.
    pub batch: BatchId,
    /// Whose slices.
    pub job: JobId,
    /// Where it is.
    pub node: NodeName,
    /// Slices of it that are not finished and not given up; those that failed in it may be among them.
    pub slices: Vec<Slice>,
}

/// A live node as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLoad {
    /// Slices it was given and has not settled.
    pub unsettled_slices: u32,
    /// Slices it has finished in this incarnation.
    pub finished_slices: u64,
    /// Whether it has batches.
    pub has_work: bool,
    /// Whether it gets no work for a while.
    pub paused: bool,
}

#[derive(Debug)]
struct Batch {
    job: JobId,
    node: NodeName,
    /// Slices not settled, and whether the node has begun them. Empty once the job is over.
    open: BTreeMap<Slice, Begun>,
}

type Begun = bool;

/// The scheduler. See the module's documentation.
#[derive(Debug)]
pub struct Scheduler {
    /// How long after hearing from a node its work may be given away: the lease and a margin.
    lease: Duration,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs with waiting slices, in the order in which they are served.
    queue: BTreeSet<Place>,
    nodes: BTreeMap<NodeName, Node>,
    batches: HashMap<BatchId, Batch>,
    leases: BTreeSet<(Now, NodeName)>,
    pauses: BTreeSet<(Now, NodeName)>,
    /// Nodes that had room when last looked at, and found nothing to do.
    roomy: BTreeSet<NodeName>,
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
            leases: BTreeSet::new(),
            pauses: BTreeSet::new(),
            roomy: BTreeSet::new(),
            slots: 0,
            next_batch: BatchId::first(epoch),
            ignored_events: 0,
        }
    }

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
            let mut job = Job::new(restored.frames, restored.requirements, restored.priority);
            job.state = restored.state;
            job.counts = restored.counts;
            job.revision = restored.revision;
            job.restore(restored.settled);
            for (slice, attempts) in restored.attempts {
                job.restore_attempts(slice, attempts);
            }
            this.jobs.insert(restored.job, job);
        }
        for RestoredNode { node, incarnation, description } in nodes {
            this.insert_node(node, Node::new(incarnation, description, lease));
        }
        for RestoredBatch { batch, job: job_id, node, slices } in batches {
            let Some(holder) = this.nodes.get_mut(&node) else {
                // Its node left in the same breath: nothing of it is being rendered.
                actions.push(Action::EndBatch { batch, node });
                continue;
            };
            holder.batches.insert(batch);
            let mut open = BTreeMap::new();
            if let Some(job) = this.jobs.get_mut(&job_id) {
                job.batches.insert(batch);
                for slice in slices {
                    if job.restore_rendering(slice, batch) {
                        holder.alone |= job.must_be_alone(slice);
                        // Taken as begun: if the node is lost, the frame may have been its death.
                        open.insert(slice, true);
                    }
                }
                holder.unsettled += open.len();
            } else {
                actions.push(Action::CancelBatch { batch, node: node.clone() });
            }
            this.batches.insert(batch, Batch { job: job_id, node, open });
        }
        this.jobs.values_mut().for_each(Job::restore_returned);
        let ids: Vec<JobId> = this.jobs.keys().copied().collect();
        for job in ids {
            this.requeue(job);
        }
        this.assign(this.nodes.keys().cloned().collect(), &mut actions);
        (this, actions)
    }

    /// Takes an event and decides.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let looked_at = match event {
            Event::JobSubmitted { job, frames, requirements, priority } => {
                self.jobs.insert(job, Job::new(frames, requirements, priority));
                self.requeue(job);
                self.roomy.clone()
            }
            Event::JobCancelled { job } => {
                self.cancel(job, &mut actions);
                self.roomy.clone()
            }
            Event::JobRevised { job } => {
                self.revise(job, &mut actions);
                BTreeSet::new()
            }
            Event::NodeRegistered { node, incarnation, description } => {
                self.register(now, node, incarnation, description, &mut actions)
            }
            Event::LeaseRenewed { node, incarnation } => {
                self.renew(now, &node, incarnation);
                BTreeSet::new()
            }
            Event::NodeLeft { node, incarnation } => {
                if self.is_registered(&node, incarnation) {
                    self.remove_node(&node, true, &mut actions);
                    self.roomy.clone()
                } else {
                    self.ignore()
                }
            }
            Event::BatchRefused { batch } => {
                let Some(holder) = self.batches.get(&batch).map(|b| b.node.clone()) else {
                    self.ignored_events += 1;
                    return actions;
                };
                self.pause(now, &holder);
                self.note_trouble(batch);
                let mut looked_at = self.end_batch(batch, &mut actions);
                looked_at.extend(self.roomy.iter().cloned());
                looked_at
            }
            Event::SliceStarted { batch, slice } => {
                match self.batches.get_mut(&batch).and_then(|b| b.open.get_mut(&slice)) {
                    Some(begun) => *begun = true,
                    None => self.ignored_events += 1,
                }
                BTreeSet::new()
            }
            Event::SliceFinished { batch, slice, rendered } => {
                self.finish(batch, slice, rendered, &mut actions)
            }
            Event::SliceFailed { batch, slice, failure } => {
                self.fail(now, batch, slice, failure, &mut actions)
            }
            Event::BatchEnded { batch } => self.end_batch(batch, &mut actions),
            Event::FramesRetried { .. }
            | Event::FrameAdopted { .. }
            | Event::NodeDraining { .. } => self.ignore(),
            Event::TimePassed => self.pass_time(now, &mut actions),
            Event::Stalled => {
                let lives: Vec<_> = self
                    .nodes
                    .iter()
                    .map(|(name, node)| (name.clone(), node.incarnation))
                    .collect();
                for (name, incarnation) in lives {
                    self.renew(now, &name, incarnation);
                }
                BTreeSet::new()
            }
        };
        self.assign(looked_at, &mut actions);
        actions
    }

    /// When [`Event::TimePassed`] is due at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Now> {
        let lease = self.leases.first().map(|(at, _)| *at);
        let pause = self.pauses.first().map(|(at, _)| *at);
        [lease, pause].into_iter().flatten().min()
    }

    /// The incarnation of a live node.
    #[must_use]
    pub fn incarnation(&self, node: &str) -> Option<Incarnation> {
        self.nodes.get(node).map(|node| node.incarnation)
    }

    /// The batch that is started next; lower ones have been.
    #[must_use]
    pub fn next_batch(&self) -> BatchId {
        self.next_batch
    }

    /// Whether a node should go on with a batch: it is live, and so is its job.
    #[must_use]
    pub fn holds(&self, node: &str, batch: BatchId) -> bool {
        self.batches
            .get(&batch)
            .is_some_and(|batch| &*batch.node == node && self.jobs.contains_key(&batch.job))
    }

    /// Batches that a node is still thought to have, although their jobs are over.
    #[must_use]
    pub fn abandoned(&self, node: &str) -> Vec<BatchId> {
        let Some(node) = self.nodes.get(node) else { return Vec::new() };
        let is_over = |id: &&BatchId| {
            self.batches.get(id).is_some_and(|batch| !self.jobs.contains_key(&batch.job))
        };
        node.batches.iter().filter(is_over).copied().collect()
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
            paused: node.paused_until.is_some(),
        })
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

    // Nodes.

    fn is_registered(&self, node: &str, incarnation: Incarnation) -> bool {
        self.incarnation(node) == Some(incarnation)
    }

    fn insert_node(&mut self, name: NodeName, node: Node) {
        self.slots += node.slots();
        self.leases.insert((node.lease_until, name.clone()));
        self.nodes.insert(name, node);
    }

    /// A new incarnation proves the old one dead: its work is free at once.
    fn register(
        &mut self,
        now: Now,
        name: NodeName,
        incarnation: Incarnation,
        description: NodeDescription,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        match self.incarnation(&name) {
            Some(known) if known > incarnation => return self.ignore(),
            Some(known) if known == incarnation => {
                self.renew(now, &name, incarnation);
                return BTreeSet::from([name]);
            }
            Some(_) => self.remove_node(&name, false, actions),
            None => {}
        }
        let mut looked_at = self.roomy.clone();
        looked_at.insert(name.clone());
        self.insert_node(name.clone(), Node::new(incarnation, description, now + self.lease));
        actions.push(Action::NodeChanged { node: name });
        looked_at
    }

    fn renew(&mut self, now: Now, name: &NodeName, incarnation: Incarnation) {
        match self.nodes.get_mut(name) {
            Some(node) if node.incarnation == incarnation => {
                self.leases.remove(&(node.lease_until, name.clone()));
                node.lease_until = now + self.lease;
                self.leases.insert((node.lease_until, name.clone()));
            }
            _ => self.ignored_events += 1,
        }
    }

    fn remove_node(&mut self, name: &NodeName, said_goodbye: bool, actions: &mut Vec<Action>) {
        let Some(node) = self.nodes.remove(name) else { return };
        self.slots -= node.slots();
        self.leases.remove(&(node.lease_until, name.clone()));
        if let Some(until) = node.paused_until {
            self.pauses.remove(&(until, name.clone()));
        }
        self.roomy.remove(name);
        for batch in node.batches {
            self.lose_batch(batch, said_goodbye, actions);
        }
        actions.push(Action::NodeGone { node: name.clone(), said_goodbye });
    }

    fn pause(&mut self, now: Now, name: &NodeName) {
        // Troubles during a pause are of one piece with what it was paused for.
        if let Some(node) = self.nodes.get_mut(name)
            && node.paused_until.is_none()
        {
            self.pauses.insert((node.pause(now), name.clone()));
            self.roomy.remove(name);
        }
    }

    fn pass_time(&mut self, now: Now, actions: &mut Vec<Action>) -> BTreeSet<NodeName> {
        let mut looked_at = BTreeSet::new();
        while let Some((until, name)) = self.pauses.first().cloned().filter(|(at, _)| *at <= now) {
            self.pauses.remove(&(until, name.clone()));
            if let Some(node) = self.nodes.get_mut(&name) {
                node.paused_until = None;
            }
            actions.push(Action::NodeChanged { node: name.clone() });
            looked_at.insert(name);
        }
        let mut lost = false;
        while let Some((_, name)) = self.leases.first().cloned().filter(|(at, _)| *at <= now) {
            self.remove_node(&name, false, actions);
            looked_at.remove(&name);
            lost = true;
        }
        // Who could render a slice instead of the nodes that failed it has changed.
        if lost || !looked_at.is_empty() {
            looked_at.extend(self.roomy.iter().cloned());
        }
        looked_at
    }

    // Batches.

    /// Takes a batch out of the books, and gives what was still open in it to `each`.
    fn close_batch(
        &mut self,
        batch_id: BatchId,
        actions: &mut Vec<Action>,
    ) -> Option<(JobId, NodeName, BTreeMap<Slice, Begun>)> {
        let Batch { job, node: name, open } = self.batches.remove(&batch_id)?;
        if let Some(node) = self.nodes.get_mut(&name) {
            node.batches.remove(&batch_id);
            node.alone = false;
            node.unsettled -= open.len();
            actions.push(Action::NodeChanged { node: name.clone() });
        }
        if let Some(job) = self.jobs.get_mut(&job) {
            job.batches.remove(&batch_id);
        }
        Some((job, name, open))
    }

    /// The node is through with a batch: what it has not settled is handed back without blame.
    fn end_batch(&mut self, batch: BatchId, actions: &mut Vec<Action>) -> BTreeSet<NodeName> {
        let Some((job_id, node, open)) = self.close_batch(batch, actions) else {
            return self.ignore();
        };
        let mut looked_at = BTreeSet::from([node.clone()]);
        if !open.is_empty() {
            looked_at.extend(self.roomy.iter().cloned());
            for (slice, begun) in open {
                self.hand_back(job_id, slice, begun, &node, actions);
            }
            self.update_job(job_id, actions);
        }
        actions.push(Action::EndBatch { batch, node });
        looked_at
    }

    /// The node is gone: slices it had begun may have been its death, and count.
    fn lose_batch(&mut self, batch: BatchId, said_goodbye: bool, actions: &mut Vec<Action>) {
        let Some((job_id, node, open)) = self.close_batch(batch, actions) else { return };
        for (slice, begun) in open {
            if begun && !said_goodbye {
                let failure = Failure {
                    reason: FailureReason::NodeLost,
                    message: format!("node {node} was lost while it rendered the frame"),
                    log_tail: Vec::new(),
                };
                self.settle_failure(job_id, batch, slice, &node, failure, actions);
            } else {
                self.hand_back(job_id, slice, begun, &node, actions);
            }
        }
        self.update_job(job_id, actions);
        actions.push(Action::EndBatch { batch, node });
    }

    // Slices.

    /// Takes a slice out of a live batch that holds it open.
    fn close_slice(&mut self, batch: BatchId, slice: Slice) -> Option<(JobId, NodeName)> {
        let batch = self.batches.get_mut(&batch)?;
        batch.open.remove(&slice)?;
        let node = batch.node.clone();
        self.nodes.get_mut(&node)?.unsettled -= 1;
        Some((batch.job, node))
    }

    fn finish(
        &mut self,
        batch: BatchId,
        slice: Slice,
        rendered: Rendered,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let Some((job_id, name)) = self.close_slice(batch, slice) else { return self.ignore() };
        if let Some(node) = self.nodes.get_mut(&name) {
            node.finished += 1;
            node.did_well();
        }
        let mut looked_at = BTreeSet::from([name.clone()]);
        if let Some(job) = self.jobs.get_mut(&job_id) {
            let place = job.place(job_id);
            job.troubles_in_a_row = 0;
            if place != job.place(job_id) {
                self.queue.remove(&place);
                looked_at.extend(self.roomy.iter().cloned());
            }
            job.record_seconds(rendered.render_seconds);
            job.counts.open -= 1;
            job.counts.finished += 1;
            actions.push(Action::FinishSlice {
                job: job_id,
                slice,
                node: name.clone(),
                attempts: job.attempts(slice),
                rendered,
                revision: job.next_revision(),
            });
        }
        self.update_job(job_id, actions);
        actions.push(Action::NodeChanged { node: name });
        looked_at
    }

    fn fail(
        &mut self,
        now: Now,
        batch: BatchId,
        slice: Slice,
        failure: Failure,
        actions: &mut Vec<Action>,
    ) -> BTreeSet<NodeName> {
        let Some((job, node)) = self.close_slice(batch, slice) else { return self.ignore() };
        if failure.reason == FailureReason::Infrastructure {
            self.pause(now, &node);
            self.note_trouble(batch);
        }
        self.settle_failure(job, batch, slice, &node, failure, actions);
        self.update_job(job, actions);
        actions.push(Action::NodeChanged { node: node.clone() });
        let mut looked_at = self.roomy.clone();
        looked_at.insert(node);
        looked_at
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
        begun: Begun,
        node: &NodeName,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get_mut(&job_id) else { return };
        job.put_back(slice);
        // Watchers were shown that it had begun; a new revision takes that back.
        if begun {
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

    // Jobs.

    fn cancel(&mut self, job_id: JobId, actions: &mut Vec<Action>) {
        let Some(mut job) = self.jobs.remove(&job_id) else {
            self.ignored_events += 1;
            return;
        };
        self.queue.remove(&job.place(job_id));
        job.counts.cancelled += std::mem::take(&mut job.counts.open);
        for batch_id in &job.batches {
            if let Some(batch) = self.batches.get_mut(batch_id) {
                if let Some(node) = self.nodes.get_mut(&batch.node) {
                    node.unsettled -= batch.open.len();
                }
                batch.open.clear();
                let node = batch.node.clone();
                actions.push(Action::CancelBatch { batch: *batch_id, node });
            }
        }
        actions.push(Action::UpdateJob {
            job: job_id,
            state: JobState::Cancelled,
            counts: job.counts,
            revision: job.next_revision(),
        });
    }

    fn revise(&mut self, job_id: JobId, actions: &mut Vec<Action>) {
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

    /// Reports how a job stands, and lets it go when it is over.
    fn update_job(&mut self, job_id: JobId, actions: &mut Vec<Action>) {
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
    fn note_trouble(&mut self, batch: BatchId) {
        let Some(job_id) = self.batches.get(&batch).map(|batch| batch.job) else { return };
        if let Some(job) = self.jobs.get_mut(&job_id) {
            self.queue.remove(&job.place(job_id));
            job.troubles_in_a_row += 1;
            self.requeue(job_id);
        }
    }

    fn requeue(&mut self, job_id: JobId) {
        if let Some(job) = self.jobs.get(&job_id) {
            let place = job.place(job_id);
            if job.waiting() > 0 {
                self.queue.insert(place);
            } else {
                self.queue.remove(&place);
            }
        }
    }

    // Assignment.

    /// Gives work to those of `looked_at` that have room: free slots of all of them first, then batches
    /// ahead of time.
    fn assign(&mut self, looked_at: BTreeSet<NodeName>, actions: &mut Vec<Action>) {
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
            let size = self.batch_size(job);
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
        self.batches.insert(batch, Batch { job: job_id, node: name.clone(), open });
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

    /// Panics where the books do not agree; each relation in both directions.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        for (id, batch) in &self.batches {
            let node = self.nodes.get(&batch.node).expect("a live batch is on a live node");
            assert!(node.batches.contains(id), "a node knows the batches it has");
            match self.jobs.get(&batch.job) {
                Some(job) => assert!(job.batches.contains(id), "a job knows its batches"),
                None => assert!(batch.open.is_empty(), "a batch of a job that is over is empty"),
            }
            assert!(*id < self.next_batch, "batch ids rise");
        }
        let mut slots = 0;
        for (name, node) in &self.nodes {
            slots += node.slots();
            assert!(
                node.batches.len() <= 2 * node.slots(),
                "a node has a bounded number of batches"
            );
            let mut unsettled = 0;
            for id in &node.batches {
                let batch = self.batches.get(id).expect("a node's batches are live");
                assert_eq!(batch.node, *name, "a node's batches are its own");
                unsettled += batch.open.len();
            }
            assert_eq!(node.unsettled, unsettled, "unsettled slices are counted");
            assert!(self.leases.contains(&(node.lease_until, name.clone())), "leases are watched");
            if let Some(until) = node.paused_until {
                assert!(self.pauses.contains(&(until, name.clone())), "pauses are watched");
            }
        }
        assert_eq!(self.slots, slots, "slots are counted");
        assert_eq!(self.leases.len(), self.nodes.len(), "no lease without a node");
        assert!(self.pauses.len() <= self.nodes.len(), "no pause without a node");
        assert!(self.roomy.iter().all(|name| self.nodes.contains_key(name)), "roomy nodes live");
        for (id, job) in &self.jobs {
            let mut in_batches = 0;
            for batch in &job.batches {
                let batch = self.batches.get(batch).expect("a job's batches are live");
                assert_eq!(batch.job, *id, "a job's batches are its own");
                in_batches += batch.open.len() as u64;
            }
            job.check_invariants(in_batches);
            assert_eq!(
                self.queue.contains(&job.place(*id)),
                job.waiting() > 0,
                "queued exactly while slices wait"
            );
        }
        assert!(self.queue.iter().all(|(.., id)| self.jobs.contains_key(id)), "queued jobs live");
        for (name, node) in &self.nodes {
            let empty = node.batches.is_empty();
            assert!(!node.alone || node.batches.len() == 1, "what must be alone is");
            if node.has_free_slot() {
                for (.., id) in &self.queue {
                    let job = &self.jobs[id];
                    if !node.description.meets(&job.requirements) {
                        continue;
                    }
                    let other_could =
                        |failed_on: &[_]| other_could(&self.nodes, failed_on, &job.requirements);
                    match job.would_give(name, empty, other_could) {
                        Some(true) => panic!("node {name} has a free slot while job {id} waits"),
                        Some(false) => {}
                        None => break,
                    }
                }
            }
        }
    }
}

/// Whether a live node that is none of `failed_on` could render such a job now.
fn other_could(
    nodes: &BTreeMap<NodeName, Node>,
    failed_on: &[NodeName],
    requirements: &Requirements,
) -> bool {
    nodes.iter().any(|(name, node)| {
        !failed_on.contains(name)
            && node.paused_until.is_none()
            && node.description.meets(requirements)
    })
}
