//! What an earlier incarnation of the orchestrator left.

use std::time::Duration;

use crate::domain::{
    Attempts, BatchId, FrameCounts, FrameSet, Incarnation, JobId, JobState, NodeDescription,
    NodeName, Requirements, Revision, Slice,
};

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
    /// How long a node may be silent before the job's slices on it are given away; zero: the lease.
    pub node_silence: Duration,
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
    /// Slices of it that are not finished and not given up, in the order of the batch; those that failed in it
    /// may be among them.
    pub slices: Vec<Slice>,
}
