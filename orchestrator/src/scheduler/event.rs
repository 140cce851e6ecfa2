//! What the scheduler is told.

use std::time::Duration;

use super::restored::RestoredJob;
use crate::domain::{
    BatchId, Failure, FrameSet, Incarnation, JobId, NodeDescription, NodeName, Rendered,
    Requirements, Slice,
};

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
        /// How long a node may be silent before the job's slices on it are given away; never shorter than
        /// the lease, so zero asks for nothing.
        node_silence: Duration,
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
    /// A node renewed its lease. One that is silent must register again: calls that are still on their way to
    /// it are void then.
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
    /// A node would not take a batch, or never had it: nothing of it is being rendered.
    BatchRefused {
        /// The batch.
        batch: BatchId,
    },
    /// No call for a batch gets through to its node, which may be heard of all the same.
    BatchUnreachable {
        /// The batch.
        batch: BatchId,
        /// For how long.
        lasts: Duration,
    },
    /// A node that had a batch does not know it any more: that life of the node is over.
    BatchLost {
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
