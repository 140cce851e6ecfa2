//! What the scheduler wants done.

use serde::{Deserialize, Serialize};

use crate::domain::{
    Attempts, BatchId, Failure, FrameCounts, Incarnation, JobId, JobState, NodeName, Rendered,
    Revision, Slice,
};

/// Something is to be done. Durable ones are written before any is performed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        /// The live batch that it came from; none: it was adopted.
        batch: Option<BatchId>,
        /// Tries that failed before.
        attempts: Attempts,
        /// With what.
        rendered: Rendered,
        /// The change's place in the job's history.
        revision: Revision,
    },
    /// Record that a slice is open again: its try failed, or it was handed back (no failure) once it was
    /// started, or suspected of having been its node's death.
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
