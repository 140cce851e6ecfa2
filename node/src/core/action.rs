//! What the core wants done.

use super::{BatchId, BatchKey, JournalId};

/// Something to do, in the order of the list. The core takes it as done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The requested batch is accepted. It starts when a slot is free.
    Accept {
        /// The batch.
        batch: BatchKey,
    },
    /// The caller gets an error.
    Refuse(Refusal),
    /// The caller may read the batch's events.
    Attach {
        /// The batch.
        batch: BatchKey,
    },
    /// The caller gets its answer when the batch has ended.
    Cancel {
        /// The batch.
        batch: BatchKey,
    },
    /// The caller learns that this node does not know the batch, and will not accept it any more.
    Unknown {
        /// The batch.
        batch: BatchId,
    },
    /// A slot is free for the batch: render its slices.
    Start {
        /// The batch.
        batch: BatchKey,
    },
    /// What a batch reported becomes an event that its reader gets.
    Publish {
        /// The batch.
        batch: BatchKey,
    },
    /// End what renders for a batch, then report `BatchOver`.
    Kill {
        /// The batch.
        batch: BatchKey,
        /// Why.
        reason: Ending,
    },
    /// Add the last event to a batch: nothing renders for it.
    Conclude {
        /// The batch.
        batch: BatchKey,
        /// Whether each slice has finished or failed.
        is_complete: bool,
    },
    /// Nobody will ask for the batch's events any more.
    Forget {
        /// The batch.
        batch: BatchKey,
    },
    /// Offer the frames of a journal to the orchestrator, then report `OfferOver`.
    Offer {
        /// The journal.
        journal: JournalId,
    },
    /// Delete a journal with its frames: each has its answer, or its store is another one.
    Delete {
        /// The journal.
        journal: JournalId,
    },
    /// The blob store may be another one: what was uploaded to the former one must be uploaded again.
    ForgetUploads,
    /// End the Blenders that wait for work: the node has no lease.
    KillIdle,
}

/// Why a batch has to end before it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The orchestrator has not answered for longer than the batch bears.
    Silence,
    /// The orchestrator cancels it.
    Cancelled,
    /// The orchestrator does not need it any more.
    Abandoned,
    /// The node belongs to another store now.
    OtherStore,
    /// The node is about to leave.
    Draining,
    /// The node stops.
    Stopping,
}

/// Why a batch is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller has lost the node to a newer orchestrator.
    #[error("epoch {given} is older than {seen}, which this node has seen")]
    StaleEpoch {
        /// The caller's epoch.
        given: u64,
        /// The highest one seen.
        seen: u64,
    },
    /// The caller has another store.
    #[error("the node is not registered with this orchestrator's store")]
    OtherStore,
    /// The batch is over, or was refused before.
    #[error("batch {0} is over")]
    StaleBatch(BatchId),
    /// The batch was accepted before.
    #[error("batch {0} is known; attach to it instead")]
    Known(BatchId),
    /// The node ends.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The node is about to leave.
    #[error("the node is about to leave: it finishes what it has begun")]
    Draining,
    /// The node may take no work without a lease.
    #[error("the node's lease has expired")]
    NoLease,
    /// The node does not know yet what it can render with.
    #[error("the node is still looking for Blender and ffmpeg")]
    Unequipped,
    /// Each slot has a batch that renders and one that waits.
    #[error("every slot has a batch waiting")]
    SlotsFull,
    /// A few large frames would not fit.
    #[error(
        "the node's disk has only {free_bytes} bytes free; it needs {needed_bytes} to accept work"
    )]
    DiskLow {
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that must be free.
        needed_bytes: u64,
    },
    /// Too many frames wait to be uploaded.
    #[error("{bytes} bytes of finished frames wait on the node to be handed in")]
    OutboxFull {
        /// Bytes that wait.
        bytes: u64,
    },
    /// The machine's owner decides this, so the node does not rely on the orchestrator's check.
    #[error(
        "the job runs Python of its own, and this node does not allow that; start the node with --allow-scripts"
    )]
    Scripts,
    /// The node cannot encode.
    #[error("the batch makes a movie, and this node has no ffmpeg that can")]
    NoFfmpeg,
}
