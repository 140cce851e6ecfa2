//! What the core hears of.

use std::time::Duration;

use super::{BatchId, BatchKey, JournalId, Slice, Time};

/// Something that happened. The core reads no clock, disk or socket: events carry what was observed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The orchestrator asks the node to render a batch. Answered by [`Action::Accept`] or [`Action::Refuse`].
    ///
    /// [`Action::Accept`]: super::Action::Accept
    /// [`Action::Refuse`]: super::Action::Refuse
    BatchRequested(Request),
    /// A reader asks for a batch's events. Answered by `Attach`, `Unknown` or `Refuse`.
    BatchAttached(Call),
    /// The orchestrator wants a batch to end. Answered by `Cancel` or `Unknown`. Its epoch is not compared.
    BatchCancelled(Call),
    /// A batch is about to render a slice. It does so only if the answer is `Publish`.
    SliceStarting {
        /// The batch.
        batch: BatchKey,
    },
    /// A finished slice is in the outbox; nobody has read of it yet.
    SliceKept {
        /// The batch.
        batch: BatchKey,
        /// The slice.
        slice: Slice,
    },
    /// A slice is finished and stored, or its attempt failed. The reader learns of it only if the answer is `Publish`.
    SliceOver {
        /// The batch.
        batch: BatchKey,
        /// The slice that is finished; `None` after a failure.
        finished: Option<Slice>,
    },
    /// A batch has rendered all its slices and given its slot back; some may still be on their way to the store.
    SlotFreed {
        /// The batch.
        batch: BatchKey,
    },
    /// Nothing runs for a batch any more, and its journal is closed.
    BatchOver {
        /// The batch.
        batch: BatchKey,
        /// Whether each of its slices has finished or failed.
        is_complete: bool,
    },
    /// The orchestrator has registered the node.
    Registered(Registration),
    /// The orchestrator has answered a heartbeat.
    LeaseRenewed {
        /// The lease.
        grant: Grant,
        /// The orchestrator's epoch.
        epoch: u64,
        /// Batches that it does not need any more.
        abandon: Vec<BatchId>,
    },
    /// The node gives up its lease because it leaves.
    LeaseReturned,
    /// The orchestrator was offered the frames of a journal.
    OfferOver {
        /// The journal.
        journal: JournalId,
        /// Whether each frame has its answer, so that nobody needs the journal any more.
        is_handed_in: bool,
    },
    /// The node knows which programs this machine has.
    Equipped {
        /// Whether it can encode movies.
        has_ffmpeg: bool,
    },
    /// The node is to finish what it renders and take nothing more.
    Draining,
    /// The node is to end everything and take nothing more.
    Stopping,
    /// The deadline has passed.
    TimePassed,
}

/// A batch that the orchestrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which batch, and who asks.
    pub call: Call,
    /// Batches whose every event is durable at the orchestrator.
    pub settled: Vec<BatchId>,
    /// How long the batch goes on without an answer from the orchestrator, if that is longer than the lease.
    pub silence: Duration,
    /// What rendering it takes.
    pub needs: Needs,
    /// What the machine lacked when the request came.
    pub shortage: Shortage,
}

/// A batch that is called by its number, and who calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The batch.
    pub batch: BatchId,
    /// The caller's store; empty: an older orchestrator, which does not send it.
    pub store_id: String,
    /// The caller's epoch.
    pub epoch: u64,
}

/// What a batch can only be rendered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// It runs Python of its own.
    pub scripts: bool,
    /// It encodes a movie.
    pub ffmpeg: bool,
}

/// Why the machine has no room for more frames, if it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shortage {
    /// The disk has fewer free bytes than the node needs: those that it has, and those that it needs.
    pub disk: Option<(u64, u64)>,
    /// So many bytes of finished frames wait in the outbox that it is nearly full.
    pub outbox: Option<u64>,
}

/// A lease, counted from when the call that was answered was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// When the call was sent.
    pub sent: Time,
    /// How long the lease is.
    pub ttl: Duration,
}

/// The answer to a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The lease.
    pub grant: Grant,
    /// The orchestrator's store.
    pub store_id: String,
    /// The orchestrator's epoch.
    pub epoch: u64,
    /// Batches below that the node does not hold are over.
    pub first_batch: BatchId,
    /// Batches that the orchestrator does not need any more.
    pub abandon: Vec<BatchId>,
}
